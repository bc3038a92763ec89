package smtpd

import (
	"context"
	"crypto/tls"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/auth"
	"github.com/postern-mail/postern/smtpd/relay"
)

// TestPanicGives421: a panic ends its own connection with 421, and no other. It is logged with its stack.
func TestPanicGives421(t *testing.T) {
	t.Parallel()
	const end = "\nS: 421 4.3.0\nEOF"
	for name, tt := range map[string]struct {
		change func(*Server, *recorder)
		script string
	}{
		"Begin": {func(_ *Server, h *recorder) { h.begin = func(relay.Envelope) error { panic("test") } },
			hello + "C: MAIL FROM:<a@b.example>\nS: 250\nC: RCPT TO:<b@c.example>"},
		"Rcpt": {func(_ *Server, h *recorder) { h.rcpt = func(message.Path) error { panic("test") } },
			hello + "C: MAIL FROM:<a@b.example>\nS: 250\nC: RCPT TO:<b@c.example>"},
		"Data": {func(_ *Server, h *recorder) {
			h.data = func(context.Context, *letter) (message.Reply, error) { panic("test") }
		}, hello + envelope + "C: DATA\nS: 354\nW: \"x: y\\r\\n\\r\\n.\\r\\n\""},
		"Data, BDAT": {func(_ *Server, h *recorder) {
			h.data = func(context.Context, *letter) (message.Reply, error) { panic("test") }
		}, hello + envelope + `W: "BDAT 14 LAST\r\n` + head + `"`},
		"Rcpt and Abort": {func(_ *Server, h *recorder) {
			h.rcpt = func(message.Path) error { panic("test") }
			h.abort = func() { panic("test again") }
		}, hello + "C: MAIL FROM:<a@b.example>\nS: 250\nC: RCPT TO:<b@c.example>"},
		"backend": {func(s *Server, _ *recorder) { s.Auth = []auth.Backend{panicking{}} }, secure + "C: AUTH PLAIN {alice:secret}"},
		"decision log": {func(s *Server, _ *recorder) { s.Engine.Recorder = panickingLog{} },
			hello + envelope + "C: DATA\nS: 354\nW: \"x: y\\r\\n\\r\\n.\\r\\n\""},
		"TLS": {func(s *Server, _ *recorder) {
			n := atomic.Int32{}
			s.TLS = func() *tls.Config {
				if n.Add(1) > 1 {
					panic("test")
				}
				return certificateOnce()
			}
		}, hello + "C: STARTTLS"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, func(s *Server, _ *Listener) { tt.change(s, s.Relay.(*recorder)) })
			other := s.talk("S: 220")
			s.talk(tt.script + end).conn.Close() // otherwise the server gives it time to read the last reply
			other.talk("C: NOOP\nS: 250" + quit)
			s.stop() // the log is complete then
			if log := s.log.String(); !strings.Contains(log, "test") || !strings.Contains(log, "panic_test.go") {
				t.Errorf("log: %s", log)
			} else if strings.Contains(log, "secret") || strings.Contains(log, expand("{alice:secret}")) {
				t.Errorf("the log has the password: %s", log)
			}
			s.hop.want()
			s.hop.ended()
		})
	}
}

// TestPanicInAbort: a panic of the next hop in Abort does not change the reply, because the command has succeeded.
func TestPanicInAbort(t *testing.T) {
	t.Parallel()
	s := start(t, func(s *Server, _ *Listener) { s.Relay.(*recorder).abort = func() { panic("test") } })
	s.talk(hello + envelope + "C: RSET\nS: 250" + envelope + "C: EHLO x\nS: 250" + envelope + message1 + envelope + quit)
	s.talk(hello + envelope).conn.Close()
	s.stop() // all connections have ended and been counted off
	s.hop.want("one\r\n")
	if !strings.Contains(s.log.String(), "panic_test.go") {
		t.Error("the panic is not logged")
	}
}

// panicking is a backend.
type panicking struct{ users }

func (panicking) Password(context.Context, string, string) (auth.Identity, error) { panic("test") }

// panickingLog is a decision log.
type panickingLog struct{}

func (panickingLog) Record(context.Context, engine.Record) error { panic("test") }
