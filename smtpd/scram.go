package smtpd

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/xdg-go/scram"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/auth"
)

// scramming is SCRAM-SHA-256 (RFC 5802, RFC 7677), with channel binding or without. The library does the arithmetic and compares
// in constant time; here are the rules about which channel binding goes with which mechanism, and what the client hears.
//
// A login that nobody knows goes through the same steps to the same end: its keys are made up.
type scramming struct {
	s    *session
	name string

	talk *scram.ServerConversation
	keys auth.StoredKeys
	err  error         // of looking the keys up
	auth *engine.Auth  // what was proved, until the client has had our proof
	done message.Reply // with it
}

func (m *scramming) next(answer []byte) ([]byte, message.Reply) {
	switch {
	case answer == nil:
		return []byte{}, message.Reply{}
	case m.talk == nil:
		return m.first(string(answer))
	case m.done.IsZero():
		return m.final(string(answer))
	case len(answer) > 0:
		return m.s.malformed("Malformed SCRAM response")
	}
	m.s.auth = m.auth
	return nil, m.done
}

// first takes client-first-message.
func (m *scramming) first(text string) ([]byte, message.Reply) {
	flag, _, _ := strings.Cut(text, ",")
	kind, binds := strings.CutPrefix(flag, "p=")
	// RFC 5802 §6: who binds says so by the mechanism, and the other way round.
	if binds != (m.name == scramPlus) || !utf8.ValidString(text) {
		return m.s.malformed("Malformed SCRAM response")
	}
	server, err := scram.SHA256.NewServer(m.look)
	if err != nil {
		return nil, say(454, "4.7.0", "Temporary authentication failure, try again later")
	}
	switch {
	case m.name == scramPlus:
		binding, ok := m.s.g.binding(scram.ChannelBindingType(kind))
		if !ok {
			return m.s.malformed("Channel binding type is not available")
		}
		m.talk = server.NewConversationWithChannelBindingRequired(binding)
	case m.s.g.offers(scramPlus):
		// The client that says "y" has not seen that we offer -PLUS: somebody has taken it out of EHLO's reply on the way.
		m.talk = server.NewConversationWithChannelBinding(m.s.g.anyBinding())
	default:
		m.talk = server.NewConversation()
	}
	challenge, err := m.talk.Step(text)
	switch {
	case err == nil:
		return []byte(challenge), message.Reply{}
	case m.err != nil:
		return nil, m.finish(func(context.Context) (auth.Identity, error) { return auth.Identity{}, m.err })
	case flag == "y" && challenge == scram.ErrServerDoesSupportChannelBinding:
		return nil, m.finish(refusing("the client does not see that channel binding is offered: somebody is in between"))
	}
	return m.s.malformed("Malformed SCRAM response")
}

// look is asked for the keys of a user in client-first-message.
func (m *scramming) look(user string) (scram.StoredCredentials, error) {
	if _, ok := auth.Login(user); !ok {
		m.err = errors.Join(auth.ErrCredentials, errLoginForm)
		return scram.StoredCredentials{}, m.err
	}
	if m.keys, m.err = auth.Chain(m.s.srv.Auth).StoredKeys(m.s.ctx, user); m.err != nil {
		return scram.StoredCredentials{}, m.err
	}
	return scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(m.keys.Salt), Iters: m.keys.Iterations},
		StoredKey:  m.keys.StoredKey, ServerKey: m.keys.ServerKey,
	}, nil
}

// final takes client-final-message. Our own proof goes out as one more challenge, because 235 cannot carry it (RFC 4954 §4).
func (m *scramming) final(text string) ([]byte, message.Reply) {
	var proof string
	r := m.finish(func(context.Context) (auth.Identity, error) {
		var err error
		if proof, err = m.talk.Step(text); err != nil || !m.talk.Valid() || !m.keys.Known() {
			return auth.Identity{}, auth.ErrCredentials // the library's words quote what came
		}
		return m.keys.Identity, nil
	})
	if r.Code() != 235 {
		return nil, r
	}
	// A client that does not like it cancels, and is then not authenticated.
	m.auth, m.s.auth, m.done = m.s.auth, nil, r
	return []byte(proof), message.Reply{}
}

func (m *scramming) finish(prove func(context.Context) (auth.Identity, error)) message.Reply {
	return m.s.AUTH(attempt{mechanism: m.name, authzid: m.talk.AuthzID(), login: m.talk.Username(), prove: prove})
}

// refusing proves nothing, for a reason.
func refusing(why string) func(context.Context) (auth.Identity, error) {
	return func(context.Context) (auth.Identity, error) {
		return auth.Identity{}, errors.Join(auth.ErrCredentials, errors.New(why))
	}
}
