package smtpd

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"io"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/smtpd/auth"
)

// wantTLS begins STARTTLS (RFC 3207).
//
// Nothing of what was said in the clear survives it, and the library's own STARTTLS, which goes on in the clear after a
// failed handshake, is not used. The library is given RSET instead: it knows nothing of the connection but placeholders,
// its transaction ends with the reset, and all that counts (EHLO's argument, authentication, transaction) is in session
// and forgotten by startTLS. Octets that came behind the command were written by who could speak before the encryption:
// they end the connection (CVE-2011-0411).
func (g *guard) wantTLS(arg string) {
	switch {
	case arg != "": // RFC 3207 §4
		g.refuse(replySyntax("STARTTLS takes no argument"))
	case g.s.tls != nil:
		g.refuse(replySequence("TLS is active"))
	case g.s.tlsConfig() == nil:
		g.refuse(say(502, "5.5.1", "STARTTLS is not offered"))
	case g.s.helo == "":
		g.refuse(replySequence("EHLO first"))
	case g.buffered() > 0:
		g.hangUp(replySyntax("Nothing may follow STARTTLS before its reply"))
	default:
		g.hand(verbSTARTTLS, "RSET")
	}
}

func (g *guard) startTLS() {
	g.flush()
	if g.buffered() > 0 { // it came while the library was busy
		g.rerr = io.EOF
		return
	}
	if !g.handshake() {
		return
	}
	g.s.forget()
	g.errs, g.idles, g.tries, g.cmd = 0, 0, 0, command{}
}

// handshake puts TLS above the connection. Where it fails, the connection is over: there is no way back to clear text.
func (g *guard) handshake() bool {
	config := g.s.tlsConfig()
	if config == nil || g.werr != nil {
		g.rerr = io.EOF
		return false
	}
	used := &handshake{}
	conn := tls.Server(g.raw, g.s.ln.observed(config))
	end := time.Now().Add(g.s.limits.Handshake)
	g.raw.SetWriteDeadline(end) // before interrupt may set it
	err := g.arm(end, true)
	if err == nil {
		err = g.disarm(true, conn.HandshakeContext(context.WithValue(g.s.ctx, handshakeKey{}, used)))
	}
	if err != nil {
		g.s.log.Info("TLS handshake failed", "error", err)
		g.s.srv.Metrics.connection("tls-failed")
		if isTimeout(err) {
			g.s.met(limitHandshake, g.s.limits.Handshake)
		}
		g.rerr, g.werr = io.EOF, io.EOF
		return false
	}
	g.conn = conn
	g.s.certificate = used.certificate
	g.s.tls = tlsFacts(conn.ConnectionState(), used.authorities, g.s.srv.now())
	return true
}

// handshake is what we used in one: it is nowhere in tls.ConnectionState.
type handshake struct {
	certificate []byte         // ours, DER; nil: one of several, and we do not know which
	authorities *x509.CertPool // of the client's
}

type handshakeKey struct{}

// observer is a configuration and the same one with a look at what is used of it. Each listener keeps one for as long as the
// first does not change: it holds the keys of session tickets, which are made with its first handshake. A ticket of one listener
// therefore says nothing at another, whose clients may have been asked for more.
type observer struct{ config, observed *tls.Config }

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
		if h, ok := hello.Context().Value(handshakeKey{}).(*handshake); ok {
			h.authorities = use.ClientCAs
			if use.GetCertificate == nil && len(use.Certificates) == 1 {
				h.certificate = use.Certificates[0].Certificate[0]
			}
		}
		return chosen, nil
	}
	if !l.observer.CompareAndSwap(before, o) { // another connection was faster; its keys are the listener's
		return l.observed(config)
	}
	return o.observed
}

// tlsFacts tells policy of the encryption. A certificate is told of only where it was verified: by TLS itself, or, where TLS only
// asked for one, now. One that does not verify is as good as none, but for a backend that has pinned it.
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
		t.Client = certificate(state.PeerCertificates[0])
	}
	return t
}

// cipherName is tls.CipherSuiteName, which makes a list of all for each name: those of TLS 1.3 are known.
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

func certificate(c *x509.Certificate) *engine.Certificate {
	sum := sha256.Sum256(c.Raw)
	return &engine.Certificate{Subject: c.Subject.String(), Issuer: c.Issuer.String(), SHA256: hex.EncodeToString(sum[:]), SANs: auth.SANs(c)}
}
