package smtpd

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/auth"
	"github.com/postern-mail/postern/smtpd/wire"
)

// STARTTLS begins TLS (RFC 3207). Nothing that was said in the clear survives it. Octets that came after the command in
// clear text may be an attacker's, so they end the connection (CVE-2011-0411).
func (s *session) STARTTLS(arg string) message.Reply {
	switch {
	case arg != "": // RFC 3207 §4
		return s.refuse(replySyntax("STARTTLS takes no argument"))
	case s.tls != nil:
		return s.refuse(replySequence("TLS is active"))
	case s.srv.tlsConfig() == nil:
		return s.refuse(say(502, "5.5.1", "STARTTLS is not offered"))
	case !s.greeted:
		return s.refuse(replySequence("EHLO first"))
	case s.conn.Buffered() > 0:
		return s.hangUp(replySyntax("Nothing may follow STARTTLS before its reply"))
	}
	s.conn.Send(say(220, "2.0.0", "Ready to start TLS"))
	if s.handshake() {
		s.drop()
		s.greeted, s.helo, s.esmtp, s.auth = false, "", false, nil
		s.errors, s.idles, s.recipients = 0, 0, 0 // failed logins are not forgotten
	}
	return message.Reply{}
}

// handshake puts TLS above the connection. If it fails, the connection is over.
func (s *session) handshake() bool {
	config := s.srv.tlsConfig()
	if config == nil {
		s.conn.HangUp()
		return false
	}
	used := &handshakeUse{}
	ctx := context.WithValue(s.ctx, handshakeKey{}, used)
	if err := s.conn.Handshake(ctx, s.ln.observed(config), s.limits.Handshake); err != nil {
		s.log.Info("TLS handshake failed", "error", err)
		s.srv.Metrics.connection("tls-failed")
		if wire.IsTimeout(err) {
			s.hit(limitHandshake)
		}
		return false
	}
	state, _ := s.conn.TLS()
	s.certificate = used.certificate
	s.tls = tlsFacts(state, used.authorities, s.srv.now())
	return true
}

// handshakeUse is what the server used in a handshake. tls.ConnectionState does not have it.
type handshakeUse struct {
	certificate []byte         // the server's, DER; nil: one of several, and it is not known which
	authorities *x509.CertPool // for certificates of clients
}

type handshakeKey struct{}

// observed returns config, or a copy of it that fills in the handshakeUse of the context.
func (l Listener) observed(config *tls.Config) *tls.Config {
	before := l.observer.Load()
	if before != nil && before.config == config {
		return before.observed
	}
	o := &observer{config, config.Clone()}
	o.observed.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		use, chosen := config, (*tls.Config)(nil)
		if config.GetConfigForClient != nil {
			var err error
			if chosen, err = config.GetConfigForClient(hello); err != nil {
				return nil, err
			}
			if chosen != nil {
				use = chosen
			}
		}
		if h, ok := hello.Context().Value(handshakeKey{}).(*handshakeUse); ok {
			h.authorities = use.ClientCAs
			if use.GetCertificate == nil && len(use.Certificates) == 1 {
				h.certificate = use.Certificates[0].Certificate[0]
			}
		}
		return chosen, nil
	}
	if !l.observer.CompareAndSwap(before, o) { // another connection was faster: its copy holds the keys
		return l.observed(config)
	}
	return o.observed
}

// tlsFacts are the facts about the encryption. A client's certificate is one of them only if it is verified: by TLS itself or, where
// TLS only asked for one, here. An unverified certificate counts as none, except for a backend that has pinned it.
func tlsFacts(state tls.ConnectionState, authorities *x509.CertPool, now time.Time) *engine.TLS {
	t := &engine.TLS{Cipher: cipherName(state.CipherSuite), SNI: state.ServerName}
	switch state.Version {
	case tls.VersionTLS13:
		t.Version = "1.3"
	case tls.VersionTLS12:
		t.Version = "1.2"
	case tls.VersionTLS11:
		t.Version = "1.1"
	case tls.VersionTLS10:
		t.Version = "1.0"
	}
	if len(state.VerifiedChains) > 0 || verifies(state.PeerCertificates, authorities, now) {
		t.Client = certificateFacts(state.PeerCertificates[0])
	}
	return t
}

// cipherName is tls.CipherSuiteName without its cost for the suites of TLS 1.3: it makes a list of all suites at each call.
func cipherName(id uint16) string {
	switch id {
	case tls.TLS_AES_128_GCM_SHA256:
		return "TLS_AES_128_GCM_SHA256"
	case tls.TLS_AES_256_GCM_SHA384:
		return "TLS_AES_256_GCM_SHA384"
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		return "TLS_CHACHA20_POLY1305_SHA256"
	}
	return tls.CipherSuiteName(id)
}

func verifies(chain []*x509.Certificate, authorities *x509.CertPool, now time.Time) bool {
	if len(chain) == 0 || authorities == nil {
		return false
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: authorities, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err == nil
}

func certificateFacts(c *x509.Certificate) *engine.Certificate {
	sum := sha256.Sum256(c.Raw)
	return &engine.Certificate{Subject: c.Subject.String(), Issuer: c.Issuer.String(), SHA256: hex.EncodeToString(sum[:]), SANs: auth.SANs(c)}
}
