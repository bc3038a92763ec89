package smtpd

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/auth"
)

// attempt is one try to log in.
type attempt struct {
	mechanism string
	authzid   string // the login that the client wants to act as; "": the one that it proves
	login     string // the login that the client claims, before anything is proved; "": it claims none
	// prove asks the backends. Its errors are those of auth.Backend.
	prove func(context.Context) (auth.Identity, error)
	// certificate that proves the login; nil: another mechanism.
	certificate *engine.Certificate
}

var errLoginForm = errors.New("malformed login or password")

// authenticate checks an attempt and returns the reply. err is why it failed, for mechanisms that tell the client. The credentials
// are neither kept nor logged.
func (s *session) authenticate(a attempt) (message.Reply, error) {
	// An attempt that claims no login is counted by its address alone.
	counted := a.login
	if counted == "" {
		counted = "[" + s.client.IP.String() + "]"
	}
	try, refusal := s.srv.Throttle.Begin(s.ctx, s.client.IP, counted)
	if refusal != "" {
		return s.throttled(a, refusal), auth.ErrCredentials
	}
	defer try.End()
	s.pause(try.Delay)
	ctx := auth.WithClient(s.ctx, s.client.IP)
	if try.Trusted {
		ctx = auth.WithTrust(ctx)
	}
	id, err := a.prove(ctx)
	if err == nil && !sameLogin(a.authzid, id.Login, a.login) {
		// Acting as another user (RFC 4422 §3.4.1) is not offered: which senders a login may use is for policy to decide.
		err = auth.ErrCredentials
	}
	switch {
	case err == nil:
		s.succeeded(a, id)
		try.Succeeded(id.Login)
		return say(235, "2.7.0", "Authentication successful"), nil
	case errors.Is(err, auth.ErrCredentials) && !errors.Is(err, auth.ErrUnavailable):
		return s.failed(a, try, err), err
	}
	s.srv.Metrics.auth(a.mechanism, "unavailable")
	s.log.Error("authentication is not available", "login", s.loggable(a.login), "mechanism", a.mechanism, "error", err)
	s.errors++
	return say(454, "4.7.0", "Temporary authentication failure, try again later"), err
}

// throttled refuses an attempt without a check.
func (s *session) throttled(a attempt, why auth.Refusal) message.Reply {
	s.srv.Metrics.auth(a.mechanism, "throttled")
	s.srv.Metrics.throttled(why)
	s.log.Warn("authentication refused unchecked", "login", s.loggable(a.login), "mechanism", a.mechanism, "client", s.client.IP, "reason", why)
	if why == auth.RefusedParallel {
		return say(421, "4.7.0", "Too many logins at once from your address, try again later")
	}
	return say(421, "4.7.0", "Too many authentication failures")
}

// sameLogin reports whether the login to act as is the one that was proved.
func sameLogin(authzid, proved, claimed string) bool {
	if authzid == "" || authzid == proved || authzid == claimed {
		return true
	}
	canonical, ok := auth.Login(authzid)
	return ok && canonical == proved
}

func (s *session) succeeded(a attempt, id auth.Identity) {
	authzid := a.authzid
	if authzid == id.Login {
		authzid = ""
	}
	s.auth = &engine.Auth{
		Login: id.Login, Mechanism: a.mechanism, Backend: id.Backend, AuthzID: authzid,
		Groups: id.Groups, Attributes: id.Attributes, Certificate: a.certificate,
	}
	s.failures, s.used = 0, true
	s.srv.Metrics.auth(a.mechanism, "success")
	s.log.Info("authenticated", "login", id.Login, "mechanism", a.mechanism, "backend", id.Backend)
}

// password is an attempt by PLAIN or LOGIN. The backends are asked only about what can be a login.
func (s *session) password(mechanism, authzid, login, password string) message.Reply {
	r, _ := s.authenticate(attempt{mechanism: mechanism, authzid: authzid, login: login, prove: func(ctx context.Context) (auth.Identity, error) {
		if _, ok := auth.Login(login); !ok || password == "" || len(password) > auth.MaxPassword {
			return auth.Identity{}, errors.Join(auth.ErrCredentials, errLoginForm)
		}
		return auth.Chain(s.srv.Auth).Password(ctx, login, password)
	}})
	return r
}

// failed slows the client down, and after too many failures closes the connection.
func (s *session) failed(a attempt, try *auth.Try, why error) message.Reply {
	s.failures++
	trustEnded := try.Failed()
	s.srv.Metrics.auth(a.mechanism, "failure")
	fields := []any{"login", s.loggable(a.login), "mechanism", a.mechanism, "client", s.client.IP, "failures", s.failures}
	if why != auth.ErrCredentials {
		fields = append(fields, "reason", why)
	}
	s.log.Warn("authentication failed", fields...)
	if trustEnded {
		s.log.Warn("the address is no longer trusted with the login: too many wrong passwords since it proved it", "login", s.loggable(a.login), "client", s.client.IP)
	}
	if s.limits.AuthDelay > 0 {
		s.pause(s.limits.AuthDelay << min(s.failures-1, 4))
	}
	if s.failures >= s.limits.AuthFailures {
		s.hit(limitAuthFailures)
		return say(421, "4.7.0", "Too many authentication failures")
	}
	return say(535, "5.7.8", "Authentication credentials invalid")
}

// loggable is what the log may show of a login that was not proved, because users type their password where the login belongs. A
// known login is shown. Of any other there is a keyed hash, by which attempts can be told apart until the next start.
func (s *session) loggable(login string) string {
	if login == "" || s.srv.Throttle.Proved(login) {
		return login
	}
	for _, b := range s.srv.Auth {
		if k, ok := b.(interface{ Knows(login string) bool }); ok && k.Knows(login) {
			return login
		}
	}
	return fmt.Sprintf("unknown-%08x", uint32(maphash.String(s.srv.logSeed, login)))
}

// pause waits for d and up to a quarter more, so that the time does not tell why an attempt failed.
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

// malformed ends an exchange whose answer has the wrong form. No login was tried, so it counts as an error and not as a failure.
func (s *session) malformed(text string) ([]byte, message.Reply) {
	s.errors++
	return nil, say(501, "5.5.2", text)
}
