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
	"slices"
	"strings"

	"github.com/emersion/go-sasl"

	"github.com/postern-mail/postern/internal/tlsprofile"
)

// dial opens a connection and brings it to the point where MAIL may be sent.
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
		if err := h.startTLS(ctx, c); err != nil {
			return err
		}
	}
	if h.o.Login != "" {
		return h.authenticate(ctx, c)
	}
	return nil
}

// hello says EHLO, or HELO where that is not known (RFC 5321 §3.2), or LHLO.
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

// startTLS as Options.StartTLS wants it (RFC 3207). Whatever came in the clear behind the 220 ends the connection: it
// would be taken for an answer under TLS. What was learnt before is forgotten.
func (h *SMTP) startTLS(ctx context.Context, c *conn) error {
	required := h.o.StartTLS == StartTLSRequired ||
		h.o.StartTLS == StartTLSAuto && h.o.Login != "" && !nearby(c.nc)
	switch {
	case h.o.StartTLS == StartTLSOff:
		return nil
	case !c.caps.startTLS && required:
		return errors.New("STARTTLS is required and not offered; set starttls to auto or off if the way there is trusted")
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
	config.DynamicRecordSizingDisabled = true // small records first are for web pages; of a message they would be a thousand writes
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

// nearby: on loopback or a unix socket, where nobody listens in between.
func nearby(nc net.Conn) bool {
	switch a := nc.RemoteAddr().(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	}
	return false
}

const maxChallenges = 4

// authenticate with AUTH PLAIN or LOGIN (RFC 4954), the initial response in the command.
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
	said := []string{h.o.Password, encode(response)}
	r, err := c.ask(ctx, "AUTH "+name+" "+encode(response))
	for i := 0; err == nil && r.code == 334 && i < maxChallenges; i++ {
		var challenge []byte
		if challenge, err = base64.StdEncoding.DecodeString(strings.Join(r.lines, "")); err != nil {
			break
		}
		if response, err = mech.Next(challenge); err != nil {
			break
		}
		said = append(said, base64.StdEncoding.EncodeToString(response))
		r, err = c.ask(ctx, base64.StdEncoding.EncodeToString(response))
	}
	if err != nil {
		c.doubt = true
		return fmt.Errorf("AUTH %s: %w", name, err)
	}
	if r.code != 235 {
		c.doubt = c.doubt || r.code == 334
		return fmt.Errorf("AUTH %s: %w", name, r.without(said).err())
	}
	return nil
}

// without leaves out lines that give back what was sent: the reply goes into the log.
func (r serverReply) without(said []string) serverReply {
	clean := slices.Clone(r.lines)
	for i, line := range clean {
		if slices.ContainsFunc(said, func(s string) bool { return len(s) > 1 && strings.Contains(line, s) }) {
			clean[i] = "(it repeated what it was sent)"
		}
	}
	r.lines = clean
	return r
}

// encode an initial SASL response; "=" is the empty one, in the AUTH command only (RFC 4954 §4).
func encode(b []byte) string {
	if len(b) == 0 {
		return "="
	}
	return base64.StdEncoding.EncodeToString(b)
}
