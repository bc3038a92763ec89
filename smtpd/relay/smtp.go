package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/postern-mail/postern/internal/limit"
	"github.com/postern-mail/postern/internal/tlsprofile"
)

// SMTP is a next hop that speaks SMTP or LMTP. It keeps connections for reuse. Open makes it.
type SMTP struct {
	o             Options
	name          string // the target, for logs and metrics
	network, addr string
	host          string // for the certificate
	implicitTLS   bool
	lmtp          bool
	pool          pool
	slots         chan struct{} // one for each connection in use
	limits        limit.Reporter
	seen          atomic.Pointer[capabilities] // of the last connection; nil: there was none
	prober        prober
	sessions      tls.ClientSessionCache // crypto/tls resumes no unverified session where verification is required
	blocks        sync.Pool              // *[]byte, blockSize
}

// maxSessions is the number of TLS sessions kept for a next hop, one for each certificate name.
const maxSessions = 4

func newSMTP(name, network, addr, host string, o Options) *SMTP {
	o = o.withDefaults()
	h := &SMTP{o: o, name: name, network: network, addr: addr, host: host, sessions: tls.NewLRUClientSessionCache(maxSessions)}
	h.pool.Pool, h.pool.now = o.Pool, o.Now
	h.blocks.New = newBlock
	h.slots = make(chan struct{}, o.Connections)
	h.prober.turn = make(chan struct{}, 1)
	h.limits.Count = func(name string) { o.Metrics.limit(h.name, name) }
	o.Metrics.begin(h.name, limitNames())
	return h
}

// late reports a time limit that was reached.
func (h *SMTP) late(s step) { h.limits.Met(h.o.Log, s.limit, s.wait, "hop", h.name) }

var errBusy = errors.New("all connections that may be open to the next hop are in use, and none became free in time")

// slot waits until one more connection may be in use. leave gives it back.
func (h *SMTP) slot(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}:
	default:
		h.limits.Met(h.o.Log, limitConnections, cap(h.slots), "hop", h.name)
		timer := time.NewTimer(h.o.Timeouts.Connect)
		defer timer.Stop()
		select {
		case h.slots <- struct{}{}:
		case <-timer.C:
			return errBusy
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	h.o.Metrics.inUse(h.name, 1)
	return nil
}

func (h *SMTP) leave() {
	<-h.slots
	h.o.Metrics.inUse(h.name, -1)
}

// String is the target.
func (h *SMTP) String() string { return h.name }

// Close ends idle connections with QUIT. The Hop may still be used, but keeps no connections any more.
func (h *SMTP) Close() error {
	h.pool.close()
	return nil
}

// connection returns a kept connection that is alive, or else a new one.
func (h *SMTP) connection(ctx context.Context) (c *conn, reused bool, err error) {
	for c := h.pool.get(); c != nil; c = h.pool.get() {
		if c.alive(ctx) {
			c.times = h.o.Timeouts
			h.o.Metrics.connection(h.name, "reused")
			return c, true, nil
		}
		c.doubt = true
		c.close()
	}
	c, err = h.fresh(ctx)
	return c, false, err
}

func (h *SMTP) fresh(ctx context.Context) (*conn, error) {
	c, err := h.dial(ctx)
	if err != nil {
		h.o.Metrics.connection(h.name, "failed")
		return nil, cutShort(ctx, err)
	}
	h.o.Metrics.connection(h.name, "opened")
	return c, nil
}

// dial opens a connection, up to the point where MAIL may be sent.
func (h *SMTP) dial(ctx context.Context) (*conn, error) {
	dctx, cancel := context.WithTimeout(ctx, h.o.Timeouts.Connect)
	defer cancel()
	nc, err := h.o.Dial(dctx, h.network, h.addr)
	if err != nil {
		if ctx.Err() == nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)) {
			h.late(h.o.Timeouts.connect())
		}
		return nil, err
	}
	c := &conn{nc: nc, rd: bufio.NewReaderSize(nc, maxReplyLine), times: h.o.Timeouts, late: h.late}
	if err := h.greet(ctx, c); err != nil {
		c.close()
		return nil, err
	}
	caps := c.caps
	h.seen.Store(&caps)
	return c, nil
}

func (h *SMTP) greet(ctx context.Context, c *conn) error {
	if h.implicitTLS {
		if err := h.handshake(ctx, c, true); err != nil {
			return err
		}
	}
	c.owed++
	r, err := c.read(ctx, c.times.greeting())
	if err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	if r.code != 220 {
		return fmt.Errorf("greeting: %w", r.err())
	}
	if err := h.hello(ctx, c); err != nil {
		return err
	}
	if !h.implicitTLS {
		if err := h.upgrade(ctx, c); err != nil {
			return err
		}
	}
	if h.o.Login != "" {
		return h.authenticate(ctx, c)
	}
	return nil
}

// hello sends EHLO, or HELO if EHLO is refused (RFC 5321 §3.2), or LHLO.
func (h *SMTP) hello(ctx context.Context, c *conn) error {
	verb := "EHLO "
	if h.lmtp {
		verb = "LHLO "
	}
	r, err := c.ask(ctx, verb+h.o.Hello)
	if err == nil && r.class() == 5 && !h.lmtp {
		c.caps = capabilities{}
		r, err = c.ask(ctx, "HELO "+h.o.Hello)
		r.lines = nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", strings.TrimSpace(verb), err)
	}
	if r.code != 250 {
		return fmt.Errorf("%s: %w", strings.TrimSpace(verb), r.err())
	}
	c.caps = parseCapabilities(r.lines)
	return nil
}

// upgrade starts TLS if Options.StartTLS says so (RFC 3207). Octets in the clear behind the 220 end the connection, because
// they would be taken for a reply under TLS. What EHLO said before is forgotten.
func (h *SMTP) upgrade(ctx context.Context, c *conn) error {
	required := h.o.StartTLS == StartTLSRequired ||
		h.o.StartTLS == StartTLSAuto && h.o.Login != "" && !nearby(c.nc)
	switch {
	case h.o.StartTLS == StartTLSOff:
		return nil
	case !c.caps.startTLS && required:
		return errors.New("STARTTLS is required and not offered; set starttls to auto or off if the network to the next hop is trusted")
	case !c.caps.startTLS:
		return nil
	}
	r, err := c.ask(ctx, "STARTTLS")
	if err != nil {
		return fmt.Errorf("STARTTLS: %w", err)
	}
	if r.code != 220 {
		return fmt.Errorf("STARTTLS: %w", r.err())
	}
	if c.rd.Buffered() > 0 {
		c.doubt = true
		return protocolError("more than one reply to STARTTLS")
	}
	if err := h.handshake(ctx, c, required); err != nil {
		return err
	}
	return h.hello(ctx, c)
}

func (h *SMTP) handshake(ctx context.Context, c *conn, verify bool) error {
	config := tlsprofile.New()
	config.ServerName, config.RootCAs = h.serverName(), h.o.CAs
	config.InsecureSkipVerify = !verify // opportunistic: see StartTLSAuto
	config.ClientSessionCache = h.sessions
	config.DynamicRecordSizingDisabled = true // small first records suit web pages; a message would take a thousand writes
	t := tls.Client(c.nc, config)
	release := c.arm(ctx, c.times.command())
	err := t.HandshakeContext(ctx)
	release()
	if err != nil {
		return fmt.Errorf("TLS: %w", c.failed(ctx, c.times.command(), err))
	}
	c.nc, c.caps = t, capabilities{}
	c.rd.Reset(t)
	return nil
}

func (h *SMTP) serverName() string {
	if h.o.ServerName != "" {
		return h.o.ServerName
	}
	return h.host
}

// nearby reports whether nc is on loopback or a unix socket, where no one else can listen.
func nearby(nc net.Conn) bool {
	switch a := nc.RemoteAddr().(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	}
	return false
}

// maxChallenges is the number of challenges that are answered.
const maxChallenges = 4

// authenticate sends AUTH PLAIN or LOGIN (RFC 4954), with the initial response in the command.
func (h *SMTP) authenticate(ctx context.Context, c *conn) error {
	if _, isTLS := c.nc.(*tls.Conn); !isTLS && !nearby(c.nc) {
		return errors.New("AUTH: the password is not sent without TLS; use smtps:// or set starttls to required")
	}
	var mech sasl.Client
	switch {
	case c.caps.has(sasl.Plain):
		mech = sasl.NewPlainClient("", h.o.Login, h.o.Password)
	case c.caps.has(sasl.Login):
		mech = sasl.NewLoginClient(h.o.Login, h.o.Password)
	default:
		return errors.New("AUTH: a login is configured, but neither PLAIN nor LOGIN is offered")
	}
	name, response, err := mech.Start()
	if err != nil {
		return fmt.Errorf("AUTH %s: %w", name, err)
	}
	sent := []string{h.o.Password, encode(response)}
	r, err := c.ask(ctx, "AUTH "+name+" "+encode(response))
	for i := 0; err == nil && r.code == 334 && i < maxChallenges; i++ {
		var challenge []byte
		if challenge, err = base64.StdEncoding.DecodeString(strings.Join(r.lines, "")); err != nil {
			break
		}
		if response, err = mech.Next(challenge); err != nil {
			break
		}
		sent = append(sent, base64.StdEncoding.EncodeToString(response))
		r, err = c.ask(ctx, base64.StdEncoding.EncodeToString(response))
	}
	if err != nil {
		c.doubt = true
		return fmt.Errorf("AUTH %s: %w", name, err)
	}
	if r.code != 235 {
		c.doubt = c.doubt || r.code == 334
		return fmt.Errorf("AUTH %s: %w", name, r.without(sent).err())
	}
	return nil
}

// encode encodes an initial SASL response; "=" is the empty one, in the AUTH command only (RFC 4954 §4).
func encode(b []byte) string {
	if len(b) == 0 {
		return "="
	}
	return base64.StdEncoding.EncodeToString(b)
}
