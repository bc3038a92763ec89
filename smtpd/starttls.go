package smtpd

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"io"
	"time"

	"github.com/postern-mail/postern/engine"
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
	g.errs, g.idles, g.cmd = 0, 0, command{}
}

// handshake puts TLS above the connection. Where it fails, the connection is over: there is no way back to clear text.
func (g *guard) handshake() bool {
	config := g.s.tlsConfig()
	if config == nil || g.werr != nil {
		g.rerr = io.EOF
		return false
	}
	conn := tls.Server(g.raw, config)
	g.raw.SetDeadline(time.Now().Add(g.s.limits.Handshake))
	if err := conn.Handshake(); err != nil {
		g.s.log.Info("TLS handshake failed", "error", err)
		g.s.srv.Metrics.connection("tls-failed")
		g.rerr, g.werr = io.EOF, io.EOF
		return false
	}
	g.conn = conn
	g.s.tls = tlsFacts(conn.ConnectionState())
	return true
}

// tlsFacts tells policy of the encryption. A certificate is told of only where it was verified.
func tlsFacts(state tls.ConnectionState) *engine.TLS {
	t := &engine.TLS{Cipher: tls.CipherSuiteName(state.CipherSuite), SNI: state.ServerName}
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
	if len(state.VerifiedChains) > 0 {
		t.Client = certificate(state.VerifiedChains[0][0])
	}
	return t
}

func certificate(c *x509.Certificate) *engine.Certificate {
	sum := sha256.Sum256(c.Raw)
	f := &engine.Certificate{Subject: c.Subject.String(), Issuer: c.Issuer.String(), SHA256: hex.EncodeToString(sum[:])}
	for _, n := range c.DNSNames {
		f.SANs = append(f.SANs, "dns:"+n)
	}
	for _, n := range c.EmailAddresses {
		f.SANs = append(f.SANs, "email:"+n)
	}
	for _, n := range c.URIs {
		f.SANs = append(f.SANs, "uri:"+n.String())
	}
	return f
}
