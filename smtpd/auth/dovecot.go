package auth

import (
	"bufio"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// DovecotOptions configure a Dovecot. Zero fields but Address mean the defaults.
type DovecotOptions struct {
	// Address is an auth-client listener: the path of a unix socket, or host:port.
	Address string
	// Service is the service name that is sent to Dovecot, for its rules and log; "": smtp.
	Service string
	// Groups names the field of Dovecot's answer that lists groups, separated by commas; "": none.
	Groups string
	// Timeout of one check; 0: 30 s. Dovecot itself delays failures by 2 s, and addresses that failed often by up to 17 s.
	Timeout time.Duration
	// Conns is how many connections may be open at a time; 0: 8.
	Conns int
}

// Dovecot is a Backend that asks a Dovecot server by its auth client protocol, version 1, with PLAIN. The fields of Dovecot's
// answer other than the user become attributes. Make one with NewDovecot; it is safe for concurrent use.
//
// A connection carries one check at a time, so that an answer cannot be taken for that of another check. A connection on which
// anything unexpected arrives is closed.
type Dovecot struct {
	o     DovecotOptions
	slots slots

	mu     sync.Mutex
	idle   []*dovecotConn
	closed bool
}

// Bounds of what Dovecot may send, in bytes and lines. dovecotLine is Dovecot's own limit.
const (
	dovecotLine  = 8192
	dovecotLines = 64
)

// dovecotSecrets are the fields of Dovecot's answer that must not become facts.
var dovecotSecrets = []string{"pass", "password", "master_pass", "auth_token", "token", "anvil_request", "reason", "code", "temp", "authz"}

// NewDovecot checks the options. It does not connect.
func NewDovecot(o DovecotOptions) (*Dovecot, error) {
	if o.Address == "" {
		return nil, errors.New("dovecot: the address is missing")
	}
	o.Service, o.Timeout, o.Conns = cmp.Or(o.Service, "smtp"), cmp.Or(o.Timeout, 30*time.Second), cmp.Or(o.Conns, 8)
	return &Dovecot{o: o, slots: newSlots(o.Conns)}, nil
}

// Name implements Backend.
func (d *Dovecot) Name() string { return "dovecot" }

// Close closes idle connections. Those in use are closed at the end of their check.
func (d *Dovecot) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, c := range d.idle {
		c.Close()
	}
	d.idle = nil
	return nil
}

// Password implements Backend.
func (d *Dovecot) Password(ctx context.Context, login, password string) (Identity, error) {
	login, loginOK := Login(login)
	pw, passwordOK := preparePassword(password)
	if !loginOK || !passwordOK {
		return Identity{}, ErrCredentials
	}
	ctx, cancel := context.WithTimeout(ctx, d.o.Timeout)
	defer cancel()
	give, err := d.slots.take(ctx)
	if err != nil {
		return Identity{}, err
	}
	defer give()
	for {
		c, reused, err := d.connection(ctx)
		if err != nil {
			return Identity{}, unavailable("dovecot: %w", err)
		}
		id, err := d.ask(ctx, c, login, pw)
		if err == nil || errors.Is(err, ErrCredentials) || errors.Is(err, errDovecotTemporary) {
			d.keep(c)
			return id, err
		}
		c.Close()
		// A restart of Dovecot closes idle connections. That is not an answer, so the check is tried once more.
		if reused && (errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || isReset(err)) && ctx.Err() == nil {
			continue
		}
		return Identity{}, unavailable("dovecot: %w", err)
	}
}

// errDovecotTemporary is a temporary failure that Dovecot reports. The connection can be used further.
var errDovecotTemporary = fmt.Errorf("dovecot: temporary failure: %w", ErrUnavailable)

// dovecotConn is a connection after the handshake.
type dovecotConn struct {
	net.Conn
	in  *bufio.Reader
	ids uint32
}

// connection returns an idle connection, or opens one.
func (d *Dovecot) connection(ctx context.Context) (c *dovecotConn, reused bool, err error) {
	d.mu.Lock()
	if n := len(d.idle); n > 0 {
		c, d.idle = d.idle[n-1], d.idle[:n-1]
	}
	d.mu.Unlock()
	if c != nil {
		return c, true, nil
	}
	network := "unix"
	if !strings.HasPrefix(d.o.Address, "/") {
		network = "tcp"
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, d.o.Address)
	if err != nil {
		return nil, false, err
	}
	c = &dovecotConn{Conn: conn, in: bufio.NewReaderSize(conn, dovecotLine)}
	if err := c.handshake(ctx); err != nil {
		conn.Close()
		return nil, false, fmt.Errorf("handshake: %w", err)
	}
	return c, false, nil
}

func (d *Dovecot) keep(c *dovecotConn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || c.in.Buffered() > 0 || c.ids == 1<<31 {
		c.Close()
		return
	}
	d.idle = append(d.idle, c)
}

// handshake sends a greeting, and reads Dovecot's greeting to its end.
func (c *dovecotConn) handshake(ctx context.Context) error {
	defer until(ctx, c)()
	if _, err := fmt.Fprintf(c, "VERSION\t1\t1\nCPID\t%d\n", os.Getpid()); err != nil {
		return err
	}
	version, plain := false, false
	for range dovecotLines {
		line, err := c.line()
		if err != nil {
			return err
		}
		switch {
		case line[0] == "VERSION":
			if len(line) < 2 || line[1] != "1" {
				return fmt.Errorf("it uses version %q of the protocol, and only 1 is supported", line[1:])
			}
			version = true
		case line[0] == "MECH" && len(line) > 1 && strings.EqualFold(line[1], "PLAIN"):
			plain = true
		case line[0] == "DONE" && !version:
			return errors.New("it does not send its version")
		case line[0] == "DONE" && !plain:
			return errors.New("it does not offer PLAIN; add plain to auth_mechanisms")
		case line[0] == "DONE":
			return nil
		}
	}
	return errors.New("the greeting does not end")
}

// line reads one line, and splits it into its fields.
func (c *dovecotConn) line() ([]string, error) {
	b, err := c.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("a line is longer than %d bytes", dovecotLine)
	}
	if err != nil {
		return nil, err
	}
	fields := strings.Split(string(b[:len(b)-1]), "\t")
	for i := range fields {
		fields[i] = dovecotUnescape(fields[i])
	}
	return fields, nil
}

// dovecotUnescape replaces the escape sequences of Dovecot, \001 with a digit or letter, by the characters that they stand for.
func dovecotUnescape(s string) string {
	return strings.NewReplacer("\x010", "\x00", "\x011", "\x01", "\x01t", "\t", "\x01r", "\r", "\x01n", "\n").Replace(s)
}

// ask sends one AUTH command and reads its answer.
func (d *Dovecot) ask(ctx context.Context, c *dovecotConn, login string, password []byte) (Identity, error) {
	defer until(ctx, c)()
	if c.in.Buffered() > 0 {
		return Identity{}, errors.New("it sent data before it was asked")
	}
	c.ids++
	id := strconv.FormatUint(uint64(c.ids), 10)
	request := "AUTH\t" + id + "\tPLAIN\tservice=" + d.o.Service + "\tsecured"
	if a := clientAddr(ctx); a.IsValid() {
		request += "\trip=" + a.String()
	}
	// resp must be the last parameter.
	plain := append([]byte("\x00"+login+"\x00"), password...)
	request += "\tresp=" + base64.StdEncoding.EncodeToString(plain) + "\n"
	if _, err := io.WriteString(c, request); err != nil {
		return Identity{}, err
	}
	for range dovecotLines {
		line, err := c.line()
		if err != nil {
			return Identity{}, err
		}
		switch line[0] {
		case "OK", "FAIL", "CONT":
			if len(line) < 2 || line[1] != id {
				return Identity{}, fmt.Errorf("it answered %s to %q, which was not asked", line[0], line[1:min(len(line), 2)])
			}
		}
		switch line[0] {
		case "OK":
			return d.proved(line[2:])
		case "FAIL":
			return Identity{}, dovecotRefusal(line[2:])
		case "CONT":
			return Identity{}, errors.New("it asks for more than PLAIN sends")
		}
		// Ignore changes of mechanisms, and commands of later minor versions.
	}
	return Identity{}, errors.New("it does not answer the question")
}

// proved returns the identity in the fields after OK.
func (d *Dovecot) proved(fields []string) (Identity, error) {
	id := Identity{Backend: d.Name()}
	attributes := facts{}
	var groups []string
	for _, f := range fields {
		name, value, has := strings.Cut(f, "=")
		if has && name == d.o.Groups && d.o.Groups != "" {
			groups = append(groups, value)
		}
		switch {
		case name == "user":
			id.Login = value
		case name == "nologin":
			// The password is right, but Dovecot's administrator does not let this user log in.
			return Identity{}, fmt.Errorf("%w: nologin", ErrCredentials)
		case slices.Contains(dovecotSecrets, name) || strings.HasPrefix(name, "proxy"):
		case !has:
			attributes.add(name, "yes")
		default:
			attributes.add(name, value)
		}
	}
	login, ok := Login(id.Login)
	if !ok {
		return Identity{}, fmt.Errorf("it answered OK for %q, which is not a login", id.Login)
	}
	id.Login, id.Attributes = login, attributes
	return id.inGroups(words(groups))
}

// dovecotRefusal returns the error for the fields after FAIL.
func dovecotRefusal(fields []string) error {
	if slices.Contains(fields, "temp") || slices.Contains(fields, "code=temp_fail") {
		return errDovecotTemporary
	}
	for _, f := range fields {
		if code, is := strings.CutPrefix(f, "code="); is && factText(code) {
			return fmt.Errorf("%w: %s", ErrCredentials, code)
		}
	}
	return ErrCredentials
}
