// Package tlsprofile is the one place that chooses TLS versions and cipher suites, for servers and for clients of next hops,
// LDAP, OAuth providers, bundles and log services.
//
// It allows TLS 1.3, and TLS 1.2 with forward secrecy and authenticated encryption (RFC 8997, RFC 9325 §3.1.1, §4.2). crypto/tls
// does not renegotiate by default, and has no compression (RFC 9325 §3.5). The package has no goroutines and no state.
package tlsprofile

import (
	"crypto/tls"
	"errors"
	"slices"
)

// New returns a new configuration, which the caller completes with certificates, roots and names.
func New() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{ // for TLS 1.2; crypto/tls does not let a program choose those of 1.3
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	}
}

// ErrWebClient is the error of a handshake in which the client announces HTTP.
var ErrWebClient = errors.New("the client announces HTTP (ALPN): a web browser was directed to this mail server")

// NotHTTP returns ErrWebClient if the client announces HTTP in ALPN, and nil otherwise. An attacker can redirect a browser to
// this port; with a certificate that the web site shares, the browser would take the mail server's answer for the site's
// (RFC 9325 §3.8, RFC 7301 §3.2). Other protocol names are ignored, because mail submission has none registered.
func NotHTTP(hello *tls.ClientHelloInfo) error {
	for _, web := range []string{"http/1.1", "http/1.0", "h2", "h3"} {
		if slices.Contains(hello.SupportedProtos, web) {
			return ErrWebClient
		}
	}
	return nil
}
