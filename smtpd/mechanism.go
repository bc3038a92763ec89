package smtpd

import (
	"bytes"
	"context"
	"slices"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/auth"
)

// mechanism is the server's side of one SASL dialogue.
type mechanism interface {
	// next takes an answer, nil where the client has not said anything yet, and returns either a challenge or, with a reply that
	// is not zero, the end. The answer is wiped afterwards.
	next(answer []byte) (challenge []byte, end message.Reply)
}

// scramPlus is SCRAM-SHA-256 with channel binding.
const scramPlus = auth.ScramSHA256 + "-PLUS"

// preference is the order in which EHLO names mechanisms: clients that go by it should not send a password first.
var preference = []string{auth.External, scramPlus, auth.ScramSHA256, auth.OAuthBearer, auth.XOAuth2, auth.Plain, auth.LoginMech}

// served are the mechanisms that work on this connection: some backend can serve them, and the connection has what they need.
// None without TLS, so that no password is ever asked for in the clear (RFC 4954 §4).
func (g *guard) served() []string {
	if g.s.tls == nil || len(g.s.srv.Auth) == 0 {
		return nil
	}
	can := auth.Chain(g.s.srv.Auth).Mechanisms()
	return slices.DeleteFunc(slices.Clone(preference), func(m string) bool {
		switch m {
		case scramPlus:
			return !slices.Contains(can, auth.ScramSHA256) || !g.canBind()
		case auth.External:
			return !slices.Contains(can, m) || len(g.clientChain()) == 0
		}
		return !slices.Contains(can, m)
	})
}

// mechanisms are those that are served and that the listener allows.
func (g *guard) mechanisms() []string {
	served := g.served()
	if allowed := g.s.ln.Mechanisms; len(allowed) > 0 {
		served = slices.DeleteFunc(served, func(m string) bool { return !slices.Contains(allowed, m) })
	}
	return served
}

func (s *session) mechanism(name string) mechanism {
	switch name {
	case auth.Plain:
		return plain{s}
	case auth.LoginMech:
		return &login{s: s}
	case auth.External:
		return external{s}
	case auth.OAuthBearer, auth.XOAuth2:
		return &bearer{s: s, name: name}
	}
	return &scramming{s: s, name: name}
}

// malformed ends a dialogue whose answer is not what the mechanism wants. Nothing was tried, so that it counts as an error
// and not as a failed login.
func (s *session) malformed(text string) ([]byte, message.Reply) {
	s.g.errs++
	return nil, say(501, "5.5.2", text)
}

// plain is RFC 4616.
type plain struct{ s *session }

func (m plain) next(answer []byte) ([]byte, message.Reply) {
	if answer == nil { // RFC 4954 §4: an empty challenge asks for the initial response
		return []byte{}, message.Reply{}
	}
	parts := bytes.Split(answer, []byte{0}) // RFC 4616 §2
	if len(parts) != 3 {
		return m.s.malformed("Malformed PLAIN response")
	}
	return nil, m.s.password(auth.Plain, string(parts[0]), string(parts[1]), string(parts[2]))
}

// login is LOGIN, which nobody has ever specified; the words are those that clients look for.
type login struct {
	s    *session
	name []byte
}

func (m *login) next(answer []byte) ([]byte, message.Reply) {
	switch {
	case answer == nil:
		return []byte("Username:"), message.Reply{}
	case m.name == nil:
		m.name = append([]byte{}, answer...)
		return []byte("Password:"), message.Reply{}
	}
	return nil, m.s.password(auth.LoginMech, "", string(m.name), string(answer))
}

// external is RFC 4422 appendix A: TLS has proved it, and the answer says as whom.
type external struct{ s *session }

func (m external) next(answer []byte) ([]byte, message.Reply) {
	if answer == nil {
		return []byte{}, message.Reply{}
	}
	name := string(answer)
	if _, ok := auth.Login(name); name != "" && !ok {
		return m.s.malformed("Malformed EXTERNAL response")
	}
	chain := m.s.g.clientChain()
	return nil, m.s.AUTH(attempt{
		mechanism: auth.External, authzid: name, login: name, certificate: certificate(chain[0]),
		prove: func(ctx context.Context) (auth.Identity, error) {
			canonical, _ := auth.Login(name)
			return auth.Chain(m.s.srv.Auth).Certificate(ctx, canonical, chain)
		},
	})
}
