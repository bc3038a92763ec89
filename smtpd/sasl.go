package smtpd

import (
	"bytes"
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/auth"
)

// mechanisms that EHLO offers, under TLS.
const mechanisms = "PLAIN LOGIN"

// exchange is one AUTH dialogue (RFC 4954). It is the sasl.Server that the library drives, but the client's answers never
// go through the library, whose buffers would keep them: the guard leaves them in response, for Next to take and wipe.
type exchange struct {
	g         *guard
	mechanism string
	response  []byte // nil: none yet
	login     []byte // LOGIN, after the first answer
	challenge []byte // the library's, base64
}

func challenge(line []byte) []byte {
	_, text, _ := bytes.Cut(line, []byte(" "))
	text = bytes.TrimRight(text, "\r")
	for _, c := range text {
		if c != '+' && c != '/' && c != '=' && !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z') {
			return nil
		}
	}
	return bytes.Clone(text)
}

// startsAuth says whether the line that is too long for a command is an AUTH, which may be longer.
func (g *guard) startsAuth() bool {
	return g.s.tls != nil && g.buffered() >= 5 && strings.EqualFold(string(g.in[g.r:g.r+5]), "AUTH ")
}

// auth begins an exchange.
func (g *guard) auth(arg string) {
	name, initial, hasInitial := strings.Cut(arg, " ")
	name = strings.ToUpper(name)
	switch {
	case !g.s.esmtp:
		g.refuse(replySequence("EHLO first"))
	case g.s.tls == nil && g.s.tlsConfig() != nil && len(g.s.srv.Auth) > 0:
		g.refuse(say(530, "5.7.0", "Must issue a STARTTLS command first"))
	case !g.mayAuthenticate():
		g.refuse(say(502, "5.5.1", "AUTH is not offered"))
	case g.s.auth != nil: // RFC 4954 §4
		g.refuse(replySequence("Already authenticated"))
	case g.s.tx != nil:
		g.refuse(replySequence("AUTH is not allowed in a transaction"))
	case name == "":
		g.refuse(replySyntax("The syntax is AUTH mechanism [initial-response]"))
	case !strings.Contains(" "+mechanisms+" ", " "+name+" "):
		g.refuse(say(504, "5.5.4", "Mechanism is not offered"))
	default:
		g.sasl = exchange{g: g, mechanism: name}
		if hasInitial {
			if g.sasl.response = decode([]byte(initial)); g.sasl.response == nil {
				g.refuse(say(501, "5.5.2", "Not base64"))
				return
			}
			g.wipe()
			g.hand(verbAUTH, "AUTH "+name+" =")
			return
		}
		g.hand(verbAUTH, "AUTH "+name)
	}
}

// wipe clears the line that was read last from the input buffer: it has a password in it.
func (g *guard) wipe() { clear(g.in[:g.r]) }

// decode is nil where b is not base64.
func decode(b []byte) []byte {
	if string(b) == "=" { // RFC 4954 §4: an empty initial response
		return []byte{}
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(b)))
	n, err := base64.StdEncoding.Strict().Decode(out, b)
	if err != nil {
		return nil
	}
	return out[:n]
}

// continueAuth sends the challenge and reads the client's answer to it. The library gets an empty one, or "*" where the
// exchange is to end.
func (g *guard) continueAuth() error {
	g.out = append(append(append(g.out, "334 "...), g.sasl.challenge...), '\r', '\n')
	g.code = 0
	line, err := g.readLine(authLine, g.s.limits.Idle, true)
	if err != nil {
		g.broken(err)
		return err
	}
	g.line = []byte("=\r\n")
	if string(line) == "*" { // RFC 4954 §4
		g.reply = say(501, "5.7.0", "Authentication cancelled")
	} else if g.sasl.response = decode(line); g.sasl.response == nil {
		g.reply = say(501, "5.5.2", "Not base64")
	}
	g.wipe()
	if !g.reply.IsZero() {
		g.errs++
		g.line = []byte("*\r\n")
	}
	return nil
}

// Next takes the client's answer. It is called by the library.
func (x *exchange) Next([]byte) (ask []byte, done bool, err error) {
	answer := x.response
	x.response = nil
	if answer == nil && x.mechanism == "PLAIN" { // RFC 4954 §4: an empty challenge asks for the initial response
		return []byte{}, false, nil
	}
	if answer == nil {
		return []byte("Username:"), false, nil
	}
	defer clear(answer)
	if x.mechanism == "PLAIN" {
		parts := bytes.Split(answer, []byte{0}) // RFC 4616 §2
		if len(parts) != 3 {
			x.g.errs++ // no password was tried, so failed does not count it
			return nil, false, x.finish(say(501, "5.5.2", "Malformed PLAIN response"))
		}
		return nil, true, x.finish(x.g.s.AUTH("PLAIN", string(parts[0]), string(parts[1]), string(parts[2])))
	}
	if x.login == nil {
		x.login = bytes.Clone(answer)
		return []byte("Password:"), false, nil
	}
	return nil, true, x.finish(x.g.s.AUTH("LOGIN", "", string(x.login), string(answer)))
}

// finish leaves the reply for the guard.
func (x *exchange) finish(r message.Reply) error {
	x.g.reply = r
	if r.Code() == 421 {
		x.g.override, x.g.reply = r, message.Reply{}
		return &smtp.SMTPError{Code: 421, EnhancedCode: smtp.NoEnhancedCode, Message: "-"}
	}
	return libraryError(r)
}

var errLoginForm = errors.New("malformed login or password")

// AUTH checks a password (RFC 4954 §4). The password is not kept, and nothing of it is logged.
func (s *session) AUTH(mechanism, authzid, login, password string) message.Reply {
	if s.srv.Throttle.Refused(s.client.IP, login) {
		s.srv.Metrics.auth(mechanism, "throttled")
		s.log.Warn("authentication refused unchecked: too many failures before", "login", login, "mechanism", mechanism, "client", s.client.IP)
		return say(421, "4.7.0", "Too many authentication failures")
	}
	release, ok := s.srv.Throttle.Hold(s.client.IP, login)
	if !ok {
		s.srv.Metrics.auth(mechanism, "throttled")
		return say(421, "4.7.0", "Too many logins at once from your address, try again later")
	}
	defer release()
	s.pause(s.srv.Throttle.Delay(s.client.IP, login))
	id, err := s.prove(login, password)
	if err == nil && authzid != "" && authzid != login && authzid != id.Login {
		// Speaking for somebody else (RFC 4616 §2) is not offered: what one may send as is policy.
		err = auth.ErrCredentials
	}
	switch {
	case err == nil:
		s.auth = &engine.Auth{
			Login: id.Login, Mechanism: mechanism, Backend: id.Backend, AuthzID: authzid,
			Groups: id.Groups, Attributes: id.Attributes,
		}
		s.failures = 0
		s.srv.Throttle.Succeeded(s.client.IP, login)
		s.srv.Metrics.auth(mechanism, "success")
		s.log.Info("authenticated", "login", id.Login, "mechanism", mechanism, "backend", id.Backend)
		return say(235, "2.7.0", "Authentication successful")
	case errors.Is(err, auth.ErrCredentials):
		return s.failed(mechanism, login)
	}
	s.srv.Metrics.auth(mechanism, "unavailable")
	s.log.Error("authentication is not available", "login", login, "mechanism", mechanism, "error", err)
	s.g.errs++
	return say(454, "4.7.0", "Temporary authentication failure, try again later")
}

// prove asks the backends about what can be a login at all.
func (s *session) prove(login, password string) (auth.Identity, error) {
	if _, ok := auth.Login(login); !ok || password == "" || len(password) > auth.MaxPassword {
		return auth.Identity{}, errors.Join(auth.ErrCredentials, errLoginForm)
	}
	ctx := auth.WithClient(s.ctx, s.client.IP)
	if s.srv.Throttle.Trusts(s.client.IP, login) {
		ctx = auth.WithTrust(ctx)
	}
	return auth.Chain(s.srv.Auth).Password(ctx, login, password)
}

// failed slows down who guesses, and then closes the connection.
func (s *session) failed(mechanism, login string) message.Reply {
	s.failures++
	s.srv.Throttle.Failed(s.client.IP, login)
	s.srv.Metrics.auth(mechanism, "failure")
	s.log.Warn("authentication failed", "login", login, "mechanism", mechanism, "client", s.client.IP, "failures", s.failures)
	if s.limits.AuthDelay > 0 {
		s.pause(s.limits.AuthDelay << min(s.failures-1, 4))
	}
	if s.failures >= s.limits.AuthFailures {
		return say(421, "4.7.0", "Too many authentication failures")
	}
	return say(535, "5.7.8", "Authentication credentials invalid")
}

// pause holds the client up for d and up to a quarter more, so that the time tells nothing.
func (s *session) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d + rand.N(d/4+1))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.ctx.Done():
	case <-s.srv.stopping():
	}
}
