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

// attempt is one try at proving who one is.
type attempt struct {
	mechanism string
	authzid   string // as whom the client wants to act; "": as who it is
	login     string // as whom the client says it is, before anything is proved; "": it does not say
	// prove asks the backends. Its errors are those of auth.Backend.
	prove func(context.Context) (auth.Identity, error)
	// certificate that proves it.
	certificate *engine.Certificate
}

var errLoginForm = errors.New("malformed login or password")

// AUTH checks a try (RFC 4954 §4). What it was tried with is not kept, and nothing of it is logged.
func (s *session) AUTH(a attempt) message.Reply {
	r, _ := s.authenticate(a)
	return r
}

// authenticate is AUTH, and says why not, for mechanisms that tell the client.
func (s *session) authenticate(a attempt) (message.Reply, error) {
	// Who does not say who he is counts by his address alone.
	counted := a.login
	if counted == "" {
		counted = "[" + s.client.IP.String() + "]"
	}
	if s.srv.Throttle.Refused(s.client.IP, counted) {
		s.srv.Metrics.auth(a.mechanism, "throttled")
		s.log.Warn("authentication refused unchecked: too many failures before", "login", s.loggable(a.login), "mechanism", a.mechanism, "client", s.client.IP)
		return say(421, "4.7.0", "Too many authentication failures"), auth.ErrCredentials
	}
	release, ok := s.srv.Throttle.Hold(s.client.IP, counted)
	if !ok {
		s.srv.Metrics.auth(a.mechanism, "throttled")
		return say(421, "4.7.0", "Too many logins at once from your address, try again later"), auth.ErrCredentials
	}
	defer release()
	s.pause(s.srv.Throttle.Delay(s.client.IP, counted))
	ctx := auth.WithClient(s.ctx, s.client.IP)
	if s.srv.Throttle.Trusts(s.client.IP, counted) {
		ctx = auth.WithTrust(ctx)
	}
	id, err := a.prove(ctx)
	if err == nil && !same(a.authzid, id.Login, a.login) {
		// Speaking for somebody else (RFC 4422 §3.4.1) is not offered: what one may send as is policy.
		err = auth.ErrCredentials
	}
	switch {
	case err == nil:
		s.succeeded(a, id)
		return say(235, "2.7.0", "Authentication successful"), nil
	case errors.Is(err, auth.ErrCredentials) && !errors.Is(err, auth.ErrUnavailable):
		return s.failed(a, counted, err), err
	}
	s.srv.Metrics.auth(a.mechanism, "unavailable")
	s.log.Error("authentication is not available", "login", s.loggable(a.login), "mechanism", a.mechanism, "error", err)
	s.g.errs++
	return say(454, "4.7.0", "Temporary authentication failure, try again later"), err
}

// same says whether the identity to act as is the one that was proved.
func same(authzid, proved, claimed string) bool {
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
	s.failures = 0
	s.srv.Throttle.Succeeded(s.client.IP, id.Login)
	s.srv.Metrics.auth(a.mechanism, "success")
	s.log.Info("authenticated", "login", id.Login, "mechanism", a.mechanism, "backend", id.Backend)
}

// password is a try by PLAIN or LOGIN. The backends are asked about what can be a login at all.
func (s *session) password(mechanism, authzid, login, password string) message.Reply {
	return s.AUTH(attempt{mechanism: mechanism, authzid: authzid, login: login, prove: func(ctx context.Context) (auth.Identity, error) {
		if _, ok := auth.Login(login); !ok || password == "" || len(password) > auth.MaxPassword {
			return auth.Identity{}, errors.Join(auth.ErrCredentials, errLoginForm)
		}
		return auth.Chain(s.srv.Auth).Password(ctx, login, password)
	}})
}

// failed slows down who guesses, and then closes the connection.
func (s *session) failed(a attempt, counted string, why error) message.Reply {
	s.failures++
	s.srv.Throttle.Failed(s.client.IP, counted)
	s.srv.Metrics.auth(a.mechanism, "failure")
	fields := []any{"login", s.loggable(a.login), "mechanism", a.mechanism, "client", s.client.IP, "failures", s.failures}
	if why != auth.ErrCredentials {
		fields = append(fields, "reason", why)
	}
	s.log.Warn("authentication failed", fields...)
	if s.limits.AuthDelay > 0 {
		s.pause(s.limits.AuthDelay << min(s.failures-1, 4))
	}
	if s.failures >= s.limits.AuthFailures {
		s.met(limitAuthFailures, s.limits.AuthFailures)
		return say(421, "4.7.0", "Too many authentication failures")
	}
	return say(535, "5.7.8", "Authentication credentials invalid")
}

// loggable is a login that was not proved, as logs may have it: people type their password where the login belongs. One that is
// known to be a login stands as it is; of another there is a keyed hash, by which tries of one run can be told apart and nothing
// else.
func (s *session) loggable(login string) string {
	if login == "" || s.srv.Throttle.Proved(login) {
		return login
	}
	for _, b := range s.srv.Auth {
		if k, ok := b.(interface{ Knows(login string) bool }); ok && k.Knows(login) {
			return login
		}
	}
	return fmt.Sprintf("unknown-%08x", uint32(maphash.String(s.srv.hide, login)))
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
