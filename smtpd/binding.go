package smtpd

import (
	"crypto"
	_ "crypto/sha256" // for tls-server-end-point
	_ "crypto/sha512"
	"crypto/tls"
	"crypto/x509"

	"github.com/xdg-go/scram"
)

// bindings in the order of preference.
var bindings = []scram.ChannelBindingType{
	scram.ChannelBindingTLSExporter, scram.ChannelBindingTLSServerEndpoint, scram.ChannelBindingTLSUnique,
}

// tlsState is the state of the encryption, where there is any.
func (g *guard) tlsState() (tls.ConnectionState, bool) {
	conn, ok := g.conn.(*tls.Conn)
	if !ok {
		return tls.ConnectionState{}, false
	}
	return conn.ConnectionState(), true
}

// clientChain is what the client has shown in the handshake, its own certificate first. TLS has checked that it holds the key, and
// nothing else.
func (g *guard) clientChain() []*x509.Certificate {
	state, _ := g.tlsState()
	return state.PeerCertificates
}

// binding is the data that ties an authentication to this connection. tls-exporter is for TLS 1.3 (RFC 9266), and for 1.2 where
// it has the extended master secret, without which Go refuses to export; tls-unique is for 1.2 alone and empty where it would
// not be unique (RFC 5929 §3); tls-server-end-point is for both, where we know which certificate was sent.
func (g *guard) binding(kind scram.ChannelBindingType) (scram.ChannelBinding, bool) {
	state, ok := g.tlsState()
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
		b.Data = endPoint(g.s.certificate)
	}
	return b, b.IsSupported()
}

// anyBinding is the best that there is.
func (g *guard) anyBinding() (b scram.ChannelBinding) {
	for _, kind := range bindings {
		if b, ok := g.binding(kind); ok {
			return b
		}
	}
	return b
}

func (g *guard) canBind() bool { b := g.anyBinding(); return b.IsSupported() }

// offers says that EHLO names the mechanism.
func (g *guard) offers(name string) bool {
	for _, m := range g.mechanisms() {
		if m == name {
			return true
		}
	}
	return false
}

// endPoint is the hash of a certificate by the hash of its signature, SHA-256 in place of what is older (RFC 5929 §4.1). Nil
// where the signature has no single hash.
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
