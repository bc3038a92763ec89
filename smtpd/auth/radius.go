package auth

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"layeh.com/radius"
	"layeh.com/radius/rfc2865"
	"layeh.com/radius/rfc2869"
)

// RADIUSOptions configure a RADIUS backend; zero fields but Servers and Secret mean the defaults.
type RADIUSOptions struct {
	// Servers as host:port, asked in order of preference.
	Servers []string
	// Secret that is shared with all of them.
	Secret string
	// NASIdentifier is who we say we are; "postern".
	NASIdentifier string
	// Attributes of an Access-Accept that become facts: Filter-Id, Class and the other names below, a type's number, or
	// vendor.type for Vendor-Specific.
	Attributes []string
	// Groups is the one of them that names groups, comma-separated; none.
	Groups string
	// Timeout of one try; 2 s.
	Timeout time.Duration
	// Tries at each server; 3.
	Tries int
	// Conns is how many checks may be under way; 64.
	Conns int
	// Logger hears of servers that do not answer and of packets that are not right; none.
	Logger *slog.Logger
}

// RADIUS is a Backend that asks by PAP (RFC 2865). Message-Authenticator (RFC 2869 §5.14) stands first in every request, and an
// answer without a right one is dropped, as is all that a listener on the way could have made (Blast-RADIUS, CVE-2024-3596). Make
// one with NewRADIUS; it is safe for concurrent use. Each check has a socket of its own.
type RADIUS struct {
	o      RADIUSOptions
	secret []byte
	kinds  map[string]radiusKind
	slots  slots
	first  atomic.Int32 // the server that answered last
}

// radiusKind is which attribute is meant.
type radiusKind struct {
	vendor uint32 // 0: none
	kind   radius.Type
}

// radiusNames are the text attributes that servers use for what they know of a user.
var radiusNames = map[string]radius.Type{
	"Filter-Id": rfc2865.FilterID_Type, "Class": rfc2865.Class_Type, "Reply-Message": rfc2865.ReplyMessage_Type,
	"Callback-Id": rfc2865.CallbackID_Type, "Connect-Info": rfc2869.ConnectInfo_Type, "Configuration-Token": rfc2869.ConfigurationToken_Type,
	"User-Name": rfc2865.UserName_Type,
}

// maxRADIUSPassword is what fits (RFC 2865 §5.2).
const maxRADIUSPassword = 128

// NewRADIUS checks the options. It does not connect.
func NewRADIUS(o RADIUSOptions) (*RADIUS, error) {
	o.NASIdentifier, o.Timeout, o.Tries, o.Conns = cmp.Or(o.NASIdentifier, "postern"), cmp.Or(o.Timeout, 2*time.Second), cmp.Or(o.Tries, 3), cmp.Or(o.Conns, 64)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &RADIUS{o: o, secret: []byte(o.Secret), kinds: map[string]radiusKind{}, slots: make(slots, o.Conns)}
	if len(o.Servers) == 0 {
		return nil, errors.New("radius: no server")
	}
	for _, s := range o.Servers {
		if host, port, err := net.SplitHostPort(s); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("radius: %q is no server: write host:1812", s)
		}
	}
	if len(o.Secret) < 16 {
		return nil, errors.New("radius: the secret is shorter than 16 octets, and so can be guessed from one packet: use openssl rand -hex 16")
	}
	for _, name := range append(slices.Clone(o.Attributes), o.Groups) {
		if name == "" {
			continue
		}
		kind, ok := parseRADIUSKind(name)
		if !ok {
			return nil, fmt.Errorf("radius: attribute %q is not known: write its number, or vendor.type", name)
		}
		r.kinds[name] = kind
	}
	return r, nil
}

func parseRADIUSKind(name string) (radiusKind, bool) {
	if t, ok := radiusNames[name]; ok {
		return radiusKind{kind: t}, true
	}
	vendor, kind, is := strings.Cut(name, ".")
	if !is {
		vendor, kind = "0", name
	}
	v, verr := strconv.ParseUint(vendor, 10, 32)
	t, terr := strconv.ParseUint(kind, 10, 8)
	secret := !is && slices.Contains([]radius.Type{rfc2865.UserPassword_Type, rfc2869.MessageAuthenticator_Type, 69}, radius.Type(t)) // 69: Tunnel-Password
	if verr != nil || terr != nil || t == 0 || is && v == 0 || secret {
		return radiusKind{}, false
	}
	return radiusKind{uint32(v), radius.Type(t)}, true
}

// Name implements Backend.
func (r *RADIUS) Name() string { return "radius" }

// Password implements Backend.
func (r *RADIUS) Password(ctx context.Context, login, password string) (Identity, error) {
	login, loginOK := Login(login)
	pw, passwordOK := preparePassword(password)
	if !loginOK || !passwordOK || len(pw) > maxRADIUSPassword || len(login) > 253 {
		return Identity{}, ErrCredentials
	}
	if err := r.slots.take(ctx); err != nil {
		return Identity{}, err
	}
	defer r.slots.give()
	first, failed := int(r.first.Load()), error(nil)
	for i := range r.o.Servers {
		n := (first + i) % len(r.o.Servers)
		answer, err := r.ask(ctx, r.o.Servers[n], login, pw)
		if err == nil {
			r.first.Store(int32(n))
			return r.judge(answer, login)
		}
		r.o.Logger.Warn("RADIUS server", "server", r.o.Servers[n], "error", err)
		failed = errors.Join(failed, fmt.Errorf("%s: %w", r.o.Servers[n], err))
		if ctx.Err() != nil {
			break
		}
	}
	return Identity{}, unavailable("radius: %w", failed)
}

// judge is what a server's answer means. Only an Access-Accept is a success.
func (r *RADIUS) judge(p *radius.Packet, login string) (Identity, error) {
	switch p.Code {
	case radius.CodeAccessAccept:
		attributes := facts{}
		for _, name := range r.o.Attributes {
			r.collect(p, name, func(value string) { attributes.add(name, value) })
		}
		var groups []string
		if r.o.Groups != "" {
			r.collect(p, r.o.Groups, func(value string) { groups = append(groups, value) })
		}
		return Identity{Login: login, Backend: r.Name(), Attributes: attributes}.inGroups(words(groups))
	case radius.CodeAccessReject:
		return Identity{}, ErrCredentials
	case radius.CodeAccessChallenge:
		return Identity{}, fmt.Errorf("%w: the server asks for more than a password (Access-Challenge)", ErrCredentials)
	}
	return Identity{}, unavailable("radius: the server answered %s", p.Code)
}

// collect adds the values of one attribute. What is no text becomes hexadecimal.
func (r *RADIUS) collect(p *radius.Packet, name string, each func(value string)) {
	kind := r.kinds[name]
	add := func(value []byte) {
		if utf8.Valid(value) && factText(string(value)) {
			each(string(value))
			return
		}
		each("0x" + hex.EncodeToString(value))
	}
	for _, avp := range p.Attributes {
		switch {
		case kind.vendor == 0 && avp.Type == kind.kind:
			add(avp.Attribute)
		case kind.vendor != 0 && avp.Type == rfc2865.VendorSpecific_Type:
			vendor, rest, err := radius.VendorSpecific(avp.Attribute)
			if err != nil || vendor != kind.vendor {
				continue
			}
			inner, err := radius.ParseAttributes(rest)
			if err != nil {
				continue
			}
			for _, in := range inner {
				if in.Type == kind.kind {
					add(in.Attribute)
				}
			}
		}
	}
}

// request is an Access-Request, with Message-Authenticator as its first attribute.
func (r *RADIUS) request(ctx context.Context, login string, password []byte) (*radius.Packet, []byte, error) {
	p := radius.New(radius.CodeAccessRequest, r.secret)
	p.Add(rfc2869.MessageAuthenticator_Type, make([]byte, md5.Size))
	hidden, err := radius.NewUserPassword(password, r.secret, p.Authenticator[:])
	if err != nil {
		return nil, nil, err
	}
	p.Add(rfc2865.UserName_Type, []byte(login))
	p.Add(rfc2865.UserPassword_Type, hidden)
	p.Add(rfc2865.NASIdentifier_Type, []byte(r.o.NASIdentifier))
	p.Add(rfc2865.ServiceType_Type, radius.NewInteger(uint32(rfc2865.ServiceType_Value_AuthenticateOnly)))
	if a := clientAddr(ctx); a.IsValid() {
		p.Add(rfc2865.CallingStationID_Type, []byte(a.String()))
	}
	wire, err := p.MarshalBinary()
	if err != nil {
		return nil, nil, err
	}
	mac := hmac.New(md5.New, r.secret)
	mac.Write(wire)
	mac.Sum(wire[22:22]) // over itself as zeroes; header 20, type and length 2
	return p, wire, nil
}

// ask sends the request to one server until there is an answer that is the server's.
func (r *RADIUS) ask(ctx context.Context, server, login string, password []byte) (*radius.Packet, error) {
	request, wire, err := r.request(ctx, login, password)
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	buffer := make([]byte, radius.MaxPacketLength+1)
	var last error
	for range r.o.Tries {
		// A retransmission is the same packet, so that the server knows it as such (RFC 5080 §2.2.1).
		answer, err := r.try(ctx, conn, wire, buffer, request)
		if err == nil {
			return answer, nil
		}
		if last = err; ctx.Err() != nil {
			break
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			select { // refused at once: nobody listens there now
			case <-time.After(r.o.Timeout / 10):
			case <-ctx.Done():
			}
		}
	}
	return nil, last
}

// try sends once, and waits. A packet that is not right is not the server's word: it is dropped, and the wait goes on.
func (r *RADIUS) try(ctx context.Context, conn net.Conn, wire, buffer []byte, request *radius.Packet) (*radius.Packet, error) {
	ctx, cancel := context.WithTimeout(ctx, r.o.Timeout)
	defer cancel()
	defer until(ctx, conn)()
	if _, err := conn.Write(wire); err != nil {
		return nil, err
	}
	var dropped error
	for {
		n, err := conn.Read(buffer)
		if ctx.Err() != nil || isTimeout(err) {
			return nil, errors.Join(context.DeadlineExceeded, dropped)
		}
		if err != nil {
			return nil, err
		}
		answer, err := r.verify(buffer[:n], wire, request)
		if err == nil {
			return answer, nil
		}
		dropped = fmt.Errorf("a packet was dropped: %w", err)
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// verify parses an answer and checks all that makes it one to this request.
func (r *RADIUS) verify(b, wire []byte, request *radius.Packet) (*radius.Packet, error) {
	if len(b) > radius.MaxPacketLength {
		return nil, errors.New("too long")
	}
	p, err := radius.Parse(b, r.secret)
	if err != nil {
		return nil, err
	}
	b = b[:int(b[2])<<8|int(b[3])]
	if p.Identifier != request.Identifier {
		return nil, errors.New("an answer to something else")
	}
	if !radius.IsAuthenticResponse(b, wire, r.secret) {
		return nil, errors.New("its authenticator is wrong: another secret, or another sender")
	}
	checked := slices.Clone(b)
	copy(checked[4:20], request.Authenticator[:])
	var said []byte
	for at := 20; at+2 <= len(checked); at += int(checked[at+1]) { // Parse has checked the lengths
		if radius.Type(checked[at]) != rfc2869.MessageAuthenticator_Type {
			continue
		}
		if said != nil || checked[at+1] != 2+md5.Size {
			return nil, errors.New("its Message-Authenticator is malformed")
		}
		said = slices.Clone(checked[at+2 : at+2+md5.Size])
		clear(checked[at+2 : at+2+md5.Size])
	}
	if said == nil {
		return nil, errors.New("it has no Message-Authenticator: make the server send it (CVE-2024-3596)")
	}
	mac := hmac.New(md5.New, r.secret)
	mac.Write(checked)
	if !hmac.Equal(mac.Sum(nil), said) {
		return nil, errors.New("its Message-Authenticator is wrong")
	}
	return p, nil
}
