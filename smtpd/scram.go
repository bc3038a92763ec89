package smtpd

import (
	"context"
	"crypto"
	_ "crypto/sha256" // for tls-server-end-point
	_ "crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/xdg-go/scram"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/auth"
)

// scramPlus is SCRAM-SHA-256 with channel binding.
const scramPlus = auth.ScramSHA256 + "-PLUS"

// scramServer is SCRAM-SHA-256 (RFC 5802, RFC 7677), with or without channel binding. The library does the arithmetic and compares
// in constant time. Here are the rules about which channel binding goes with which mechanism, and the replies.
//
// An unknown login takes the same steps to the same end, with made-up keys.
type scramServer struct {
	s          *session
	name       string
	offersPlus bool // EHLO names SCRAM-SHA-256-PLUS

	talk *scram.ServerConversation
	keys auth.StoredKeys
	err  error         // of looking the keys up
	auth *engine.Auth  // what was proved, until the client has accepted the server's proof
	done message.Reply // the reply then
}

func (m *scramServer) next(answer []byte) ([]byte, message.Reply) {
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
func (m *scramServer) first(text string) ([]byte, message.Reply) {
	flag, _, _ := strings.Cut(text, ",")
	kind, binds := strings.CutPrefix(flag, "p=")
	// RFC 5802 §6: a client binds if and only if it has chosen the -PLUS mechanism.
	if binds != (m.name == scramPlus) || !utf8.ValidString(text) {
		return m.s.malformed("Malformed SCRAM response")
	}
	server, err := scram.SHA256.NewServer(m.look)
	if err != nil {
		return nil, say(454, "4.7.0", "Temporary authentication failure, try again later")
	}
	switch {
	case m.name == scramPlus:
		binding, ok := m.s.binding(scram.ChannelBindingType(kind))
		if !ok {
			return m.s.malformed("Channel binding type is not available")
		}
		m.talk = server.NewConversationWithChannelBindingRequired(binding)
	case m.offersPlus:
		// A client that sends "y" has not seen -PLUS in the reply to EHLO: an attacker removed it on the way.
		m.talk = server.NewConversationWithChannelBinding(m.s.anyBinding())
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
		return nil, m.finish(refusing("the client does not see that channel binding is offered: the reply to EHLO was changed on the way"))
	}
	return m.s.malformed("Malformed SCRAM response")
}

// look returns the keys of the user that client-first-message names.
func (m *scramServer) look(user string) (scram.StoredCredentials, error) {
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

// final takes client-final-message. The server's proof goes out as one more challenge, because 235 cannot carry it (RFC 4954 §4).
func (m *scramServer) final(text string) ([]byte, message.Reply) {
	var proof string
	r := m.finish(func(context.Context) (auth.Identity, error) {
		var err error
		if proof, err = m.talk.Step(text); err != nil || !m.talk.Valid() || !m.keys.Known() {
			return auth.Identity{}, auth.ErrCredentials // not the library's error, which quotes the client
		}
		return m.keys.Identity, nil
	})
	if r.Code() != 235 {
		return nil, r
	}
	// A client that does not accept the proof cancels, and is then not authenticated.
	m.auth, m.s.auth, m.done = m.s.auth, nil, r
	return []byte(proof), message.Reply{}
}

func (m *scramServer) finish(prove func(context.Context) (auth.Identity, error)) message.Reply {
	r, _ := m.s.authenticate(attempt{mechanism: m.name, authzid: m.talk.AuthzID(), login: m.talk.Username(), prove: prove})
	return r
}

// refusing is a prove function that fails for a reason.
func refusing(why string) func(context.Context) (auth.Identity, error) {
	return func(context.Context) (auth.Identity, error) {
		return auth.Identity{}, errors.Join(auth.ErrCredentials, errors.New(why))
	}
}

// clientChain is what the client has sent in the handshake, its own certificate first. TLS has checked that the client holds the
// key, and nothing else.
func (s *session) clientChain() []*x509.Certificate {
	state, _ := s.conn.TLS()
	return state.PeerCertificates
}

// binding is the data that ties a login to this connection. tls-exporter works with TLS 1.3 (RFC 9266), and with 1.2 if it has the
// extended master secret, without which Go refuses to export. tls-unique works with 1.2 only, and is empty where it would not be
// unique (RFC 5929 §3). tls-server-end-point works with both, if it is known which certificate was sent.
func (s *session) binding(kind scram.ChannelBindingType) (scram.ChannelBinding, bool) {
	state, ok := s.conn.TLS()
	if !ok {
		return scram.ChannelBinding{}, false
	}
	b := scram.ChannelBinding{Type: kind}
	switch kind {
	case scram.ChannelBindingTLSExporter:
		b.Data, _ = state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	case scram.ChannelBindingTLSUnique:
		if state.Version == tls.VersionTLS12 {
			b.Data = state.TLSUnique
		}
	case scram.ChannelBindingTLSServerEndpoint:
		b.Data = endPoint(s.certificate)
	}
	return b, b.IsSupported()
}

// anyBinding is the best binding that the connection has; unsupported: there is none.
func (s *session) anyBinding() (b scram.ChannelBinding) {
	for _, kind := range []scram.ChannelBindingType{
		scram.ChannelBindingTLSExporter, scram.ChannelBindingTLSServerEndpoint, scram.ChannelBindingTLSUnique,
	} {
		if b, ok := s.binding(kind); ok {
			return b
		}
	}
	return b
}

func (s *session) canBind() bool { b := s.anyBinding(); return b.IsSupported() }

// endPoint is the hash of a certificate by the hash function of its signature, with SHA-256 in place of older functions (RFC 5929
// §4.1); nil: the signature has no single hash function.
func endPoint(der []byte) []byte {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil
	}
	var h crypto.Hash
	switch c.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256:
		h = crypto.SHA256
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		h = crypto.SHA384
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		h = crypto.SHA512
	default:
		return nil
	}
	sum := h.New()
	sum.Write(c.Raw)
	return sum.Sum(nil)
}
