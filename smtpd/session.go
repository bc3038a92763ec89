package smtpd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/relay"
	"github.com/postern-mail/postern/smtpd/wire"
)

// session is one connection: what is known about the client, and the transaction under way. It is the wire.Session of its
// connection. Each SMTP command is a method of the same name, which takes the command's argument and returns the reply.
type session struct {
	srv    *Server
	ln     Listener
	conn   *wire.Conn
	limits Limits
	id     string
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc

	client  engine.Client
	network netip.Prefix // under which the connection is counted; zero: it is not
	used    bool         // the client has logged in, or its MAIL was accepted

	// What EHLO, STARTTLS and AUTH have brought.
	tls         *engine.TLS
	certificate []byte // the server's own, DER; nil: not known
	greeted     bool   // by EHLO or HELO
	helo        string
	esmtp       bool
	auth        *engine.Auth
	failures    int // of AUTH

	errors     int // refused commands
	idles      int // commands since the last message that led nowhere; see countIdle
	recipients int // offered since the last message
	messages   int

	tx *transaction
}

// transaction is one message, from an accepted MAIL to its end.
type transaction struct {
	id     string
	log    *slog.Logger
	start  time.Time
	until  time.Time      // when it must have arrived, by the system's clock; see Limits.Transaction
	policy *engine.Policy // answers all questions of the transaction
	from   message.Path
	params message.Params
	rcpts  []engine.Recipient
	tried  bool // a recipient was offered, accepted or not

	// The transaction at the next hop, which begins with the first recipient that can be passed on.
	hop     relay.Tx
	offered []engine.Recipient // accepted by the next hop, in order
	failed  error              // the next hop failed: the reply to each further recipient

	// The message.
	spool  *message.Spool
	body   *wire.Body
	chunks int // BDAT commands
}

func (t *transaction) utf8() bool {
	_, ok := t.params["SMTPUTF8"]
	return ok
}

func (t *transaction) facts(stage engine.Stage) *engine.Transaction {
	return &engine.Transaction{
		ID: t.id, Stage: stage, Policy: t.policy,
		Envelope: &engine.Envelope{From: t.from, FromParams: t.params, To: t.rcpts},
	}
}

// close frees what the transaction holds. The next hop is last, because its code may panic. It delivers nothing that it has not
// confirmed.
func (t *transaction) close(s *session) {
	if t.spool != nil {
		t.spool.Close()
		t.spool = nil
	}
	s.srv.Metrics.transaction(-1)
	if t.hop != nil {
		t.hop.Abort()
		t.hop = nil
	}
}

// drop ends the transaction under way, if there is one. A panic of the next hop is logged and goes no further: the command that
// dropped the transaction has succeeded.
func (s *session) drop() {
	t := s.tx
	if t == nil {
		return
	}
	s.tx = nil
	defer func() {
		if r := recover(); r != nil {
			s.panicked(r, debug.Stack())
		}
	}()
	t.close(s)
}

// Patience implements wire.Session.
func (s *session) Patience() (timeout time.Duration, idle bool) {
	if s.tx == nil {
		return s.limits.Idle, true
	}
	return min(s.limits.Idle, time.Until(s.tx.until)), false
}

// Lost implements wire.Session: it logs why no further command can be read, and returns the last reply.
func (s *session) Lost(err error) message.Reply { return s.lost(err, limitIdle) }

// lost is Lost, where the client was waited for under the limit named.
func (s *session) lost(err error, waiting string) message.Reply {
	var p *wire.PanicError
	switch {
	case errors.As(err, &p):
		s.panicked(p.Value, p.Stack)
		return replyInternal()
	case errors.Is(err, wire.ErrOutOfStep):
		s.log.Error("internal error: the connection is closed", "error", err)
		return replyInternal()
	case errors.Is(err, wire.ErrStopping):
		return replyStopping()
	case errors.Is(err, wire.ErrLineTooLong):
		s.hit(limitCommandLine)
		return say(500, "5.5.2", "Line too long")
	case errors.Is(err, wire.ErrBareCR), errors.Is(err, wire.ErrBareLF):
		return say(500, "5.5.2", "A line ends in CR LF, neither comes alone")
	case s.conn.WriteError() != nil:
		return message.Reply{}
	case wire.IsTimeout(err):
		s.timedOut(waiting)
		return replyIdle()
	}
	return message.Reply{} // the client has gone
}

// End implements wire.Session.
func (s *session) End() {
	if wire.IsTimeout(s.conn.WriteError()) {
		s.hit(limitWrite)
	}
	s.drop()
	s.cancel()
	s.srv.table.remove(s.conn, s.network, !s.used)
	s.srv.Metrics.open(-1)
	s.srv.running.Done()
}

func (s *session) panicked(value any, stack []byte) {
	s.log.Error("panic serving a connection", "panic", value, "stack", string(stack))
}

// refuse counts a command that is wrong in form or order. Too many of them end the connection; see Command.
func (s *session) refuse(r message.Reply) message.Reply {
	s.srv.Metrics.refused(r.Code())
	s.errors++
	return r
}

// countIdle counts a command that leads nowhere. Its reply is zero, or ends the connection.
func (s *session) countIdle() message.Reply {
	if s.idles++; s.idles > s.limits.Commands {
		s.hit(limitCommands)
		return s.hangUp(say(421, "4.7.0", "Too many commands without a message"))
	}
	return message.Reply{}
}

// hangUp makes r the last reply on the connection.
func (s *session) hangUp(r message.Reply) message.Reply {
	s.conn.HangUp()
	return r
}

// hit counts and logs that this connection has hit the limit of that name.
func (s *session) hit(name string) {
	attrs := []any{"client", s.client.IP}
	if s.auth != nil {
		attrs = append(attrs, "login", s.auth.Login)
	}
	s.srv.hits.Met(s.log, name, s.limits.value(name), attrs...)
}

// timedOut counts and logs a time-out under the limit waiting, or as that of the whole transaction if its time is over.
func (s *session) timedOut(waiting string) {
	if t := s.tx; t != nil && !time.Now().Before(t.until) {
		waiting = limitTransaction
	}
	s.hit(waiting)
}

func (s *session) setClient(addr net.Addr) {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		s.client.IP, s.client.Port = ap.Addr().Unmap(), ap.Port()
	}
}

func (s *session) login() string {
	if s.auth == nil {
		return ""
	}
	return s.auth.Login
}

// identity is what a canary policy chooses transactions by.
func (s *session) identity() string {
	if s.auth != nil {
		return s.auth.Login
	}
	return s.client.IP.String()
}

// decide completes t with what is known about the connection, and asks policy.
func (s *session) decide(t *engine.Transaction) engine.Decision {
	t.Now = s.srv.now()
	t.Server = engine.Server{Hostname: s.srv.Hostname, Listener: s.ln.Name, Door: "submission"}
	t.Client = s.client
	t.Client.EHLO = s.helo
	t.TLS, t.Auth = s.tls, s.auth
	s.recent(t)
	t.Failure = s.ln.Failure
	t.Unknown = contract.NeverKnown("submission")
	if s.srv.RecentLogins == nil {
		t.Unknown = append(t.Unknown, "client.recent_login")
	}
	d := s.srv.Engine.Decide(s.ctx, t)
	if d.Err != nil {
		s.log.Error("policy could not decide", "id", t.ID, "error", d.Err)
	}
	return d
}

// recent completes t with recent events on other connections and at other servers.
func (s *session) recent(t *engine.Transaction) {
	if s.srv.RecentLogins != nil {
		if login, age, ok := s.srv.RecentLogins.Last(t.Client.IP); ok {
			t.Client.RecentLogin = &engine.RecentLogin{Login: login, Age: age}
		}
	}
	if s.srv.Throttle == nil {
		return
	}
	ofAddr, ofLogin := s.srv.Throttle.Failures(t.Client.IP, s.login())
	t.Client.RecentAuthFailures = &ofAddr
	if t.Auth != nil {
		known := *t.Auth
		known.RecentFailures = &ofLogin
		t.Auth = &known
	}
}
