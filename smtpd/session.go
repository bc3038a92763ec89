package smtpd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"runtime/debug"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/netaddr"
	"github.com/postern-mail/postern/smtpd/relay"
)

// session is what one connection is about: who is at the other end, and the transaction under way. It is the library's
// Session, but the library's arguments are placeholders; what came is in guard.cmd.
type session struct {
	srv    *Server
	ln     Listener
	g      *guard
	limits Limits
	id     string
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc

	client  engine.Client
	network netip.Prefix // counted under; see door

	// What EHLO, STARTTLS and AUTH have brought.
	tls         *engine.TLS
	certificate []byte // ours, DER, where it is known
	helo        string
	esmtp       bool
	auth        *engine.Auth
	failures    int

	tx *transaction
}

// forget drops what was said before TLS (RFC 3207 §4.2). Failed tries at authentication count for the connection.
func (s *session) forget() {
	s.drop()
	s.helo, s.esmtp, s.auth = "", false, nil
}

func (s *session) tlsConfig() *tls.Config {
	if s.srv.TLS == nil {
		return nil
	}
	return s.srv.TLS()
}

// begin does what comes before the greeting: the PROXY header, limits, implicit TLS, policy of stage connect.
func (s *session) begin() {
	g := s.g
	if err := s.address(); err != nil {
		s.noHeader(err)
		return
	}
	if !s.srv.door.count(s, netaddr.ClientNetwork(s.client.IP), s.limits.ConnectionsPerIP) {
		s.srv.Metrics.connection("per-ip-limit")
		s.met(limitConnectionsPerIP, s.limits.ConnectionsPerIP)
		if s.ln.TLS {
			g.rerr = io.EOF
			return
		}
		g.hangUp(say(421, "4.7.0", "Too many connections from your address"))
		return
	}
	if s.ln.TLS && !g.handshake() {
		return
	}
	d := s.decide(&engine.Transaction{Stage: engine.StageConnect, ID: s.id})
	switch d.Verdict {
	case engine.Accept, engine.Quarantine, engine.Discard:
		s.srv.Metrics.connection("accepted")
		g.send(say(220, "", s.srv.Hostname+" ESMTP"))
	default:
		s.srv.Metrics.connection("refused")
		g.hangUp(banner(orFailure(d.Reply)))
	}
}

// noHeader ends a connection whose proxy did not say for whom it is.
func (s *session) noHeader(err error) {
	switch {
	case errors.Is(err, errStopping) && !s.ln.TLS:
		s.g.hangUp(replyStopping())
		return
	case errors.Is(err, errStopping):
	case isTimeout(err):
		s.met(limitHandshake, s.limits.Handshake)
		fallthrough
	default:
		s.log.Warn("no PROXY header from a trusted proxy", "error", err)
	}
	s.g.rerr = io.EOF
}

// banner gives a refusal one of the two codes that a greeting can have (RFC 5321 §4.2.3, §3.8).
func banner(r message.Reply) message.Reply {
	code := 554
	if r.Code()/100 == 4 {
		code = 421
	}
	if b, err := message.NewReply(code, r.Status(), text(r)); err == nil {
		return b
	}
	return say(421, "4.3.0", "Temporary failure, try again later")
}

func text(r message.Reply) string {
	t := ""
	for i, l := range r.Lines() {
		if i > 0 {
			t += "\n"
		}
		t += l
	}
	return t
}

func orFailure(r message.Reply) message.Reply {
	if r.IsZero() {
		return replyFailure()
	}
	return r
}

// NeverKnown names the facts that this front end cannot know, by their dotted paths in input: it asks no DNS.
func NeverKnown() []string { return []string{"client.name"} }

// decide completes t with what the connection knows, and asks policy.
func (s *session) decide(t *engine.Transaction) engine.Decision {
	t.Now = s.srv.now()
	t.Server = engine.Server{Hostname: s.srv.Hostname, Listener: s.ln.Name, Door: "submission"}
	t.Client = s.client
	t.Client.EHLO = s.helo
	t.TLS, t.Auth = s.tls, s.auth
	s.recent(t)
	t.Failure = s.ln.Failure
	t.Unknown = NeverKnown()
	if s.srv.RecentLogins == nil {
		t.Unknown = append(t.Unknown, "client.recent_login")
	}
	d := s.srv.Engine.Decide(s.ctx, t)
	if d.Err != nil {
		s.log.Error("policy could not decide", "id", t.ID, "error", d.Err)
	}
	return d
}

// recent completes t with what has happened of late at other connections and other servers.
func (s *session) recent(t *engine.Transaction) {
	if s.srv.RecentLogins != nil {
		if login, age, ok := s.srv.RecentLogins.Last(t.Client.IP); ok {
			t.Client.RecentLogin = &engine.RecentLogin{Login: login, Age: age}
		}
	}
	if s.srv.Throttle == nil {
		return
	}
	login := ""
	if t.Auth != nil {
		login = t.Auth.Login
	}
	ofAddr, ofLogin := s.srv.Throttle.Failures(t.Client.IP, login)
	t.Client.RecentAuthFailures = &ofAddr
	if t.Auth != nil {
		known := *t.Auth
		known.RecentFailures = &ofLogin
		t.Auth = &known
	}
}

// answer leaves r for the guard, which writes it, and tells the library as much as it has to know.
func (s *session) answer(r message.Reply) error {
	r = orFailure(r)
	s.g.reply = r
	return libraryError(r)
}

// drop ends the transaction under way, if there is one. It does not panic, whatever the next hop does: the library calls it
// while it cleans up after another panic, where one more would end the whole process.
func (s *session) drop() {
	t := s.tx
	if t == nil {
		return
	}
	s.tx = nil
	defer func() {
		if r := recover(); r != nil {
			s.srv.panicked(s, r, debug.Stack())
		}
	}()
	t.close(s)
}

// end is called once, when the connection is closed.
func (s *session) end() {
	s.drop()
	s.cancel()
	s.srv.gone(s)
}

// errOutOfStep: the library called a method for a command that the guard did not hand to it.
var errOutOfStep = errors.New("out of step")

// The methods of smtp.Session and smtp.AuthSession.

func (s *session) Mail(string, *smtp.MailOptions) error {
	if s.g.pending != verbMAIL {
		return errOutOfStep
	}
	return s.answer(s.MAIL(s.g.cmd.path, s.g.cmd.params))
}

func (s *session) Rcpt(string, *smtp.RcptOptions) error {
	if s.g.pending != verbRCPT || s.tx == nil {
		return errOutOfStep
	}
	return s.answer(s.RCPT(s.g.cmd.path, s.g.cmd.params))
}

// Data does not use the library's reader: guard reads the message.
func (s *session) Data(io.Reader) error {
	if s.g.pending != verbDATA || s.tx == nil {
		return errOutOfStep
	}
	s.g.dot = true
	return s.answer(s.DATA())
}

func (s *session) Reset() { s.drop() }

func (s *session) Logout() error { s.drop(); return nil }

func (s *session) AuthMechanisms() []string { return nil } // EHLO's reply is the guard's

func (s *session) Auth(string) (sasl.Server, error) {
	if s.g.pending != verbAUTH {
		return nil, errOutOfStep
	}
	return &s.g.sasl, nil
}

var _ smtp.AuthSession = (*session)(nil)

// hopError gives what a next hop's failure means to the client.
func hopError(err error) (message.Reply, *relay.Error) {
	var e *relay.Error
	if errors.As(err, &e) && !e.Reply.IsZero() && e.Reply.Code()/100 != 2 {
		return complete(e.Reply), e
	}
	return say(451, "4.4.1", "The next mail server cannot be reached, try again later"), e
}
