package smtpd

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/auth"
)

// TestAuthenticationRequired: RFC 6409 §4.3.
func TestAuthenticationRequired(t *testing.T) {
	t.Parallel()
	s := start(t, wantsAuth)
	s.talk(hello + `
		C: MAIL FROM:<alice@example.com>
		S: 530 5.7.0 Must issue a STARTTLS command first
		C: STARTTLS
		S: 220
		TLS
		C: EHLO client.example
		S: 250
		C: MAIL FROM:<alice@example.com>
		S: 530 5.7.0 Authentication required
		C: RCPT TO:<bob@example.net>
		S: 503 5.5.1
		C: DATA
		S: 503 5.5.1
		C: AUTH PLAIN {alice:secret}
		S: 235 2.7.0
	` + envelope + message1 + quit)
	s.hop.want("one\r\n")
}

// TestAuthBeforeTLS: the server asks for no password in the clear (RFC 4954 §4), and one that comes anyway proves nothing.
func TestAuthBeforeTLS(t *testing.T) {
	t.Parallel()
	start(t, wantsAuth).talk(hello + `
		C: AUTH PLAIN {alice:secret}
		S: 530 5.7.0
		C: AUTH LOGIN
		S: 530 5.7.0
		C: MAIL FROM:<alice@example.com>
		S: 530 5.7.0
	` + quit)
}

// TestAuthInTransaction: AUTH in a transaction is refused (RFC 4954 §4); go-smtp accepts it.
func TestAuthInTransaction(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.talk(secure + "C: MAIL FROM:<alice@example.com>\nS: 250" + `
		C: AUTH PLAIN {alice:secret}
		S: 503 5.5.1
		C: RSET
		S: 250
		C: AUTH PLAIN {alice:secret}
		S: 235 2.7.0
		C: AUTH PLAIN {alice:secret}
		S: 503 5.5.1 Already
	` + envelope + message1 + quit)
}

// TestAuthDialogues: exchanges of PLAIN (RFC 4616) and LOGIN that succeed and that fail, with the replies of RFC 4954 §4 and §6.
func TestAuthDialogues(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"initial response":      "C: AUTH PLAIN {alice:secret}\nS: 235 2.7.0 Authentication successful",
		"lower case":            "C: auth plain {alice:secret}\nS: 235 2.7.0",
		"challenge":             "C: AUTH PLAIN\nS: 334 \nC: {alice:secret}\nS: 235 2.7.0",
		"login":                 "C: AUTH LOGIN\nS: 334 {=Username:}\nC: {=alice}\nS: 334 {=Password:}\nC: {=secret}\nS: 235 2.7.0",
		"login, initial":        "C: AUTH LOGIN {=alice}\nS: 334 {=Password:}\nC: {=secret}\nS: 235 2.7.0",
		"authzid is login":      "C: AUTH PLAIN {=alice\x00alice\x00secret}\nS: 235 2.7.0",
		"authzid of another":    "C: AUTH PLAIN {=ceo\x00alice\x00secret}\nS: 535 5.7.8",
		"wrong password":        "C: AUTH PLAIN {alice:guess}\nS: 535 5.7.8",
		"unknown login":         "C: AUTH PLAIN {mallory:secret}\nS: 535 5.7.8",
		"empty login":           "C: AUTH PLAIN {:secret}\nS: 535 5.7.8",
		"empty password":        "C: AUTH PLAIN {alice:}\nS: 535 5.7.8",
		"control character":     "C: AUTH PLAIN {alice\n:secret}\nS: 535 5.7.8",
		"malformed, no NUL":     "C: AUTH PLAIN {=alice}\nS: 501 5.5.2",
		"malformed, one NUL":    "C: AUTH PLAIN {=alice\x00secret}\nS: 501 5.5.2",
		"malformed, three":      "C: AUTH PLAIN {=\x00alice\x00secret\x00}\nS: 501 5.5.2",
		"empty initial":         "C: AUTH PLAIN =\nS: 501 5.5.2",
		"empty answer":          "C: AUTH PLAIN\nS: 334 \nC: \nS: 501 5.5.2",
		"not base64":            "C: AUTH PLAIN !!!\nS: 501 5.5.2",
		"base64 with a space":   "C: AUTH PLAIN AGFsaWNl AHNlY3JldA==\nS: 501 5.5.2",
		"loose base64":          "C: AUTH PLAIN AGFsaWNlAHNlY3JldB==\nS: 501 5.5.2",
		"answer not base64":     "C: AUTH LOGIN\nS: 334\nC: alice@example.com\nS: 501 5.5.2",
		"cancel":                "C: AUTH PLAIN\nS: 334 \nC: *\nS: 501 5.7.0",
		"cancel login":          "C: AUTH LOGIN\nS: 334\nC: {=alice}\nS: 334\nC: *\nS: 501 5.7.0",
		"command for an answer": "C: AUTH LOGIN\nS: 334\nC: QUIT\nS: 334 {=Password:}\nC: *\nS: 501 5.7.0", // "QUIT" is base64
		"no mechanism":          "C: AUTH\nS: 501 5.5.4",
		"other mechanism":       "C: AUTH CRAM-MD5\nS: 504 5.5.4",
		"two in one":            "C: AUTH PLAIN LOGIN\nS: 501 5.5.2", // "LOGIN" is not base64
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script = strings.ReplaceAll(script, "alice\n", "alice\x01")
			s := start(t, wantsAuth)
			c := s.talk(secure)
			c.talk(expand(script))
			want := "S: 530 5.7.0"
			if strings.Contains(script, "235") {
				want = "S: 250 2.1.0"
			}
			c.talk("C: MAIL FROM:<alice@example.com>\n" + want + quit)
		})
	}
}

// TestAuthAfterHELO: AUTH is an extension, so it needs EHLO at a strict server; some old devices say HELO.
func TestAuthAfterHELO(t *testing.T) {
	t.Parallel()
	const tried = hello + "C: STARTTLS\nS: 220\nTLS\nC: AUTH PLAIN {alice:secret}\nS: 503 5.5.1\nC: HELO x\nS: 250 mail\nC: AUTH PLAIN {alice:secret}\n"
	start(t, strictCommands).talk(tried + "S: 503 5.5.1" + quit)
	start(t).talk(tried + "S: 235 2.7.0" + quit)
}

// TestAuthWithBlanks: two blanks in AUTH are one.
func TestAuthWithBlanks(t *testing.T) {
	t.Parallel()
	start(t).talk(secure + "C: AUTH   PLAIN   {alice:secret}\nS: 235 2.7.0" + quit)
	start(t, strictCommands).talk(secure + "C: AUTH  PLAIN {alice:secret}\nS: 50" + quit)
}

// TestOldAuth: AUTH= in the reply to EHLO, for clients from before RFC 2554, is off by default.
func TestOldAuth(t *testing.T) {
	t.Parallel()
	s := start(t, func(s *Server, _ *Listener) { s.Extensions = map[string]bool{extOldAuth: true} })
	c := s.talk(hello + "C: STARTTLS\nS: 220\nTLS")
	c.write("EHLO x\r\n")
	if r, err := c.reply(); err != nil || !strings.Contains(r, " | AUTH=") || !strings.Contains(r, " | AUTH ") {
		t.Errorf("%q, %v", r, err)
	}
	c.talk(quit)
}

// TestBadAuthSlowsDownAndEnds: go-smtp would answer two hundred attempts on one connection. The delay doubles with each attempt,
// with up to a quarter of jitter. Other mechanisms, RSET and EHLO between them change nothing.
func TestBadAuthSlowsDownAndEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := startPipe(t, wantsAuth, limits(func(l *Limits) { l.AuthDelay, l.AuthFailures = time.Second, 5 }))
		c := s.talk(secure)
		tries := []string{
			"C: AUTH PLAIN {alice:guess}\nS: 535 5.7.8", "C: AUTH LOGIN {=alice}\nS: 334\nC: {=guess}\nS: 535 5.7.8",
			"C: EHLO x\nS: 250\nC: RSET\nS: 250\nC: AUTH PLAIN {bob:guess}\nS: 535 5.7.8", "C: AUTH PLAIN\nS: 334\nC: {alice:guess}\nS: 535 5.7.8",
			"C: AUTH PLAIN {alice:guess}\nS: 421 4.7.0 Too many authentication failures",
		}
		for i, script := range tries {
			begin := time.Now()
			c.talk(script)
			if took, least := time.Since(begin), time.Second<<i; took < least || took > least+least/4 {
				t.Errorf("try %d took %v", i, took)
			}
		}
		c.talk("EOF")
	})
}

// TestAuthSuccessAfterFailure: a success resets the count of failures.
func TestAuthSuccessAfterFailure(t *testing.T) {
	t.Parallel()
	start(t, wantsAuth).talk(secure + "C: AUTH PLAIN {alice:guess}\nS: 535\nC: AUTH PLAIN {alice:guess}\nS: 535\nC: AUTH PLAIN {alice:secret}\nS: 235 2.7.0" + envelope + message1 + quit)
}

// TestMalformedAuthIsBounded: exchanges that never reach a password count as errors.
func TestMalformedAuthIsBounded(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"malformed": "C: AUTH PLAIN {=alice}\nS: 501 5.5.2", "cancelled": "C: AUTH PLAIN\nS: 334\nC: *\nS: 501 5.7.0",
		"not base64": "C: AUTH LOGIN\nS: 334\nC: !\nS: 501 5.5.2", "mechanism": "C: AUTH X\nS: 504 5.5.4",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t, limits(func(l *Limits) { l.Errors = 5 })).talk(secure)
			c.talk(strings.Repeat(script+"\n", 6) + "S: 421 4.7.0 Too many errors\nEOF")
		})
	}
}

// unavailable is a backend that is down.
type unavailable struct{ users }

func (unavailable) Password(context.Context, string, string) (auth.Identity, error) {
	return auth.Identity{}, fmt.Errorf("%w: the directory is down", auth.ErrUnavailable)
}

// TestAuthUnavailable: if one backend refuses a login and another is down, the reply is temporary, and no failure is counted.
func TestAuthUnavailable(t *testing.T) {
	t.Parallel()
	s := start(t, wantsAuth, func(s *Server, _ *Listener) {
		s.Auth = []auth.Backend{unavailable{}, users{"alice": "secret"}}
		s.Limits.AuthFailures = 1
	})
	s.talk(secure + "C: AUTH PLAIN {bob:x}\nS: 454 4.7.0\nC: AUTH PLAIN {bob:x}\nS: 454 4.7.0\nC: AUTH PLAIN {alice:secret}\nS: 235 2.7.0" + quit)
	if strings.Contains(s.log.String(), "secret") {
		t.Error("a password is in the log")
	}
}

// TestAuthFacts: policy sees the login that was proved, not the one that MAIL AUTH= claims.
func TestAuthFacts(t *testing.T) {
	t.Parallel()
	s := start(t, wantsAuth, rules(t, "mail", `
		reject contains {"rule": "who", "message": sprintf("%v by %v from %v under %v, helo %v, listener %v", [
			input.auth.login, input.auth.mechanism, input.auth.backend, input.tls.version, input.client.ehlo, input.server.listener])}`))
	s.talk(secure + "C: AUTH LOGIN {=alice}\nS: 334\nC: {=secret}\nS: 235\nC: MAIL FROM:<a@b.example> AUTH=ceo@example.com\n" +
		"S: 550 5.7.1 alice by LOGIN from test under 1.3, helo client.example, listener test" + quit)
}

// TestThrottleAcrossConnections: failures are counted over connections. A login that has succeeded from an address lately is
// still accepted from there, so that others at the address cannot lock it out.
func TestThrottleAcrossConnections(t *testing.T) {
	t.Parallel()
	s := start(t, wantsAuth, func(s *Server, _ *Listener) {
		s.Auth = []auth.Backend{users{"alice": "secret", "bob": "secret"}}
		s.Throttle = &auth.Throttle{Free: 100, Refuse: 3}
	})
	s.talk(secure + "C: AUTH PLAIN {alice:secret}\nS: 235 2.7.0" + quit)
	for range 2 {
		s.talk(secure + "C: AUTH PLAIN {bob:guess}\nS: 535 5.7.8\nC: AUTH PLAIN {bob:guess}\nS: 535 5.7.8" + quit)
	}
	s.talk(secure + "C: AUTH PLAIN {bob:secret}\nS: 421 4.7.0 Too many authentication failures\nEOF")
	s.talk(secure + "C: AUTH PLAIN {alice:secret}\nS: 235 2.7.0" + quit)
}

// TestAnswersAreCleared: an answer of the client, which may be a password, is cleared after use, also after a panic.
func TestAnswersAreCleared(t *testing.T) {
	t.Parallel()
	for _, m := range []mechanism{keeping{}, keeping{panics: true}} {
		answer := []byte("secret")
		func() {
			defer func() { _ = recover() }()
			answerWith(m, answer)
		}()
		if string(answer) != "\x00\x00\x00\x00\x00\x00" {
			t.Errorf("%+v: the answer is %q", m, answer)
		}
	}
}

// keeping is a mechanism.
type keeping struct{ panics bool }

func (k keeping) next([]byte) ([]byte, message.Reply) {
	if k.panics {
		panic("test")
	}
	return nil, replyFailure()
}
