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

// RADIUSOptions configure a RADIUS backend. Zero fields but Servers and Secret mean the defaults.
type RADIUSOptions struct {
	// Servers are host:port, in order of preference.
	Servers []string
	// Secret is the shared secret of all servers.
	Secret string
	// NASIdentifier is the name that is sent to servers; "": postern.
	NASIdentifier string
	// Attributes are the attributes of an Access-Accept that become facts: one of radiusNames, the number of a type, or
	// vendor.type for Vendor-Specific.
	Attributes []string
	// Groups is the attribute with the groups, separated by commas; "": none.
	Groups string
	// Timeout of one try; 0: 2 s.
	Timeout time.Duration
	// Tries at each server; 0: 3.
	Tries int
	// Conns is how many checks may run at a time; 0: 64.
	Conns int
	// Logger gets a record of servers that do not answer and of packets that are dropped; nil: nothing is logged.
	Logger *slog.Logger
}

// RADIUS is a Backend that asks RADIUS servers by PAP (RFC 2865). Message-Authenticator (RFC 2869 §5.14) is the first attribute of
// every request, and an answer without a valid one is dropped, because an attacker on the network could have made it (Blast-RADIUS,
// CVE-2024-3596). Make one with NewRADIUS; it is safe for concurrent use. Each check has a socket of its own.
type RADIUS struct {
	o      RADIUSOptions
	secret []byte
	kinds  map[string]radiusKind
	slots  slots
	first  atomic.Int32 // the server that answered last
}

// radiusKind identifies an attribute.
type radiusKind struct {
	vendor uint32 // 0: none
	kind   radius.Type
}

// radiusNames are the text attributes that servers use for facts about a user.
var radiusNames = map[string]radius.Type{
	"Filter-Id": rfc2865.FilterID_Type, "Class": rfc2865.Class_Type, "Reply-Message": rfc2865.ReplyMessage_Type,
	"Callback-Id": rfc2865.CallbackID_Type, "Connect-Info": rfc2869.ConnectInfo_Type, "Configuration-Token": rfc2869.ConfigurationToken_Type,
	"User-Name": rfc2865.UserName_Type,
}

// maxRADIUSPassword is the longest password that fits into a request (RFC 2865 §5.2).
const maxRADIUSPassword = 128

// NewRADIUS checks the options. It does not connect.
func NewRADIUS(o RADIUSOptions) (*RADIUS, error) {
	o.NASIdentifier, o.Timeout, o.Tries, o.Conns = cmp.Or(o.NASIdentifier, "postern"), cmp.Or(o.Timeout, 2*time.Second), cmp.Or(o.Tries, 3), cmp.Or(o.Conns, 64)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &RADIUS{o: o, secret: []byte(o.Secret), kinds: map[string]radiusKind{}, slots: newSlots(o.Conns)}
	if len(o.Servers) == 0 {
		return nil, errors.New("radius: the servers are missing")
	}
	for _, s := range o.Servers {
		if host, port, err := net.SplitHostPort(s); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("radius: %q is not a server; write host:1812", s)
		}
	}
	if len(o.Secret) < 16 {
		return nil, errors.New("radius: the secret is shorter than 16 bytes and could be guessed from one packet; use openssl rand -hex 16")
	}
	for _, name := range append(slices.Clone(o.Attributes), o.Groups) {
		if name == "" {
			continue
		}
		kind, ok := parseRADIUSKind(name)
		if !ok {
			return nil, fmt.Errorf("radius: attribute %q is not known; write its number, or vendor.type", name)
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
	give, err := r.slots.take(ctx)
	if err != nil {
		return Identity{}, err
	}
	defer give()
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

// judge returns the result of a server's answer. Only an Access-Accept is a success.
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

// collect adds the values of one attribute. A value that is not text is added in hexadecimal.
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

// request returns an Access-Request with Message-Authenticator as its first attribute.
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
	mac.Sum(wire[22:22]) // computed with zeros in its place; the header has 20 bytes, type and length have 2
	return p, wire, nil
}

// ask sends the request to one server until a valid answer comes, or all tries have failed.
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
		// A retransmission is the same packet, so that the server recognises it (RFC 5080 §2.2.1).
		answer, err := r.try(ctx, conn, wire, buffer, request)
		if err == nil {
			return answer, nil
		}
		if last = err; ctx.Err() != nil {
			break
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			select { // refused at once, because nothing listens there now
			case <-time.After(r.o.Timeout / 10):
			case <-ctx.Done():
			}
		}
	}
	return nil, last
}

// try sends the request once and waits for an answer. An invalid packet is dropped, because it may not be the server's.
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

// verify parses a packet and checks that it is an answer to this request.
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
		return nil, errors.New("it answers another request")
	}
	if !radius.IsAuthenticResponse(b, wire, r.secret) {
		return nil, errors.New("its authenticator is wrong; the secret or the sender is not the right one")
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
		return nil, errors.New("it has no Message-Authenticator; configure the server to send it (CVE-2024-3596)")
	}
	mac := hmac.New(md5.New, r.secret)
	mac.Write(checked)
	if !hmac.Equal(mac.Sum(nil), said) {
		return nil, errors.New("its Message-Authenticator is wrong")
	}
	return p, nil
}
