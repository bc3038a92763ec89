package smtpd

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/auth"
	"github.com/postern-mail/postern/smtpd/wire"
)

// AUTH is one SASL exchange (RFC 4954 §4).
func (s *session) AUTH(arg string) message.Reply {
	if !s.srv.StrictCommands {
		arg = strings.TrimLeft(arg, " ")
	}
	name, initial, hasInitial := strings.Cut(arg, " ")
	if !s.srv.StrictCommands {
		initial = strings.TrimLeft(initial, " ")
	}
	name = strings.ToUpper(name)
	if r := s.mayAuthenticate(name); !r.IsZero() {
		return s.refuse(r)
	}
	var answer []byte // nil: the client has not answered yet
	if hasInitial {
		var err error
		if answer, err = wire.DecodeAnswer([]byte(initial)); err != nil {
			return s.refuse(say(501, "5.5.2", "Not base64"))
		}
	}
	for m := s.mechanism(name); ; {
		challenge, end := answerWith(m, answer)
		if !end.IsZero() {
			return end
		}
		var err error
		switch answer, err = s.conn.Ask(challenge, s.limits.Idle); {
		case errors.Is(err, wire.ErrCancelled):
			s.errors++
			return say(501, "5.7.0", "Authentication cancelled")
		case errors.Is(err, wire.ErrNotBase64):
			s.errors++
			return say(501, "5.5.2", "Not base64")
		case err != nil:
			return s.Lost(err)
		}
	}
}

// answerWith gives the answer to m, and clears it: it may be a password.
func answerWith(m mechanism, answer []byte) (challenge []byte, end message.Reply) {
	defer clear(answer)
	return m.next(answer)
}

// mayAuthenticate refuses AUTH where it is not in order, and mechanisms that are not offered. Zero: it may go on.
func (s *session) mayAuthenticate(mechanism string) message.Reply {
	switch {
	case !s.greeted, s.srv.StrictCommands && !s.esmtp: // old devices say HELO and AUTH
		return replySequence("EHLO first")
	case s.tls == nil && s.srv.tlsConfig() != nil && len(s.srv.Auth) > 0:
		return say(530, "5.7.0", "Must issue a STARTTLS command first")
	case s.tls == nil && len(s.srv.Auth) > 0: // RFC 4954 §6
		return say(538, "5.7.11", "Encryption is required for authentication")
	case len(s.srv.Auth) == 0:
		return say(502, "5.5.1", "AUTH is not offered")
	case s.auth != nil: // RFC 4954 §4
		return replySequence("Already authenticated")
	case s.tx != nil:
		return replySequence("AUTH is not allowed in a transaction")
	case mechanism == "":
		return replySyntax("The syntax is AUTH mechanism [initial-response]")
	case !slices.Contains(s.mechanisms(), mechanism) && slices.Contains(s.served(), mechanism): // RFC 4954 §6
		return say(534, "5.7.9", "Mechanism is not allowed here")
	case !slices.Contains(s.mechanisms(), mechanism):
		return say(504, "5.5.4", "Mechanism is not offered")
	}
	return message.Reply{}
}

// mechanism is the server's side of one SASL exchange.
type mechanism interface {
	// next takes an answer; nil: the client has not answered yet. It returns a challenge or, as a reply that is not zero, the end
	// of the exchange. The caller clears the answer afterwards.
	next(answer []byte) (challenge []byte, end message.Reply)
}

// served lists the mechanisms that work on this connection: a backend can serve them, and the connection has what they need. There
// are none without TLS, so that no client sends a password in the clear (RFC 4954 §4). The order is that in which EHLO names them:
// a client that takes the first one it knows should not send a password.
func (s *session) served() []string {
	if s.tls == nil || len(s.srv.Auth) == 0 {
		return nil
	}
	can := auth.Chain(s.srv.Auth).Mechanisms()
	all := []string{auth.External, scramPlus, auth.ScramSHA256, auth.OAuthBearer, auth.XOAuth2, auth.Plain, auth.LoginMech}
	return slices.DeleteFunc(all, func(m string) bool {
		switch m {
		case scramPlus:
			return !slices.Contains(can, auth.ScramSHA256) || !s.canBind()
		case auth.External:
			return !slices.Contains(can, m) || len(s.clientChain()) == 0
		}
		return !slices.Contains(can, m)
	})
}

// mechanisms lists those of served that the listener allows.
func (s *session) mechanisms() []string {
	served := s.served()
	if allowed := s.ln.Mechanisms; len(allowed) > 0 {
		served = slices.DeleteFunc(served, func(m string) bool { return !slices.Contains(allowed, m) })
	}
	return served
}

// mechanism returns the server's side of a new exchange.
func (s *session) mechanism(name string) mechanism {
	switch name {
	case auth.Plain:
		return plainServer{s}
	case auth.LoginMech:
		return &loginServer{s: s}
	case auth.External:
		return externalServer{s}
	case auth.OAuthBearer, auth.XOAuth2:
		return &bearerServer{s: s, name: name}
	}
	return &scramServer{s: s, name: name, offersPlus: slices.Contains(s.mechanisms(), scramPlus)}
}

// plainServer is RFC 4616.
type plainServer struct{ s *session }

func (m plainServer) next(answer []byte) ([]byte, message.Reply) {
	if answer == nil { // RFC 4954 §4: an empty challenge asks for the initial response
		return []byte{}, message.Reply{}
	}
	parts := bytes.Split(answer, []byte{0}) // RFC 4616 §2
	if len(parts) != 3 {
		return m.s.malformed("Malformed PLAIN response")
	}
	return nil, m.s.password(auth.Plain, string(parts[0]), string(parts[1]), string(parts[2]))
}

// loginServer is LOGIN, which has no specification. The challenges are those that clients expect.
type loginServer struct {
	s    *session
	name []byte
}

func (m *loginServer) next(answer []byte) ([]byte, message.Reply) {
	switch {
	case answer == nil:
		return []byte("Username:"), message.Reply{}
	case m.name == nil:
		m.name = append([]byte{}, answer...)
		return []byte("Password:"), message.Reply{}
	}
	return nil, m.s.password(auth.LoginMech, "", string(m.name), string(answer))
}

// externalServer is RFC 4422 appendix A: TLS has proved the certificate, and the answer claims a login.
type externalServer struct{ s *session }

func (m externalServer) next(answer []byte) ([]byte, message.Reply) {
	if answer == nil {
		return []byte{}, message.Reply{}
	}
	name := string(answer)
	if _, ok := auth.Login(name); name != "" && !ok {
		return m.s.malformed("Malformed EXTERNAL response")
	}
	chain := m.s.clientChain()
	r, _ := m.s.authenticate(attempt{
		mechanism: auth.External, authzid: name, login: name, certificate: certificateFacts(chain[0]),
		prove: func(ctx context.Context) (auth.Identity, error) {
			canonical, _ := auth.Login(name)
			return auth.Chain(m.s.srv.Auth).Certificate(ctx, canonical, chain)
		},
	})
	return nil, r
}
