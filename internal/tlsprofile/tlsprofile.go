// Package tlsprofile is the one place that says which TLS we speak: as a server and as a client of next hops, of LDAP, of OAuth
// providers, of bundles and of log services.
//
// TLS 1.2 with forward secrecy and authenticated encryption, or TLS 1.3 (RFC 8997, RFC 9325 §3.1.1, §4.2). Renegotiation is off, as
// it is in crypto/tls (RFC 9325 §3.5); compression does not exist there. No goroutines, no state.
package tlsprofile

import (
	"crypto/tls"
	"errors"
	"slices"
)

// New is a configuration for one use, to be completed by the caller.
func New() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{ // of 1.2; those of 1.3 are all good and not ours to choose
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	}
}

// ErrWebClient: a client came to speak HTTP.
var ErrWebClient = errors.New("the client announces HTTP (ALPN): it is a browser that was sent to a mail server")

// NotHTTP refuses a client that announces HTTP. Mail submission has no name of its own in ALPN, so that a client's list is not
// looked at otherwise; but a browser that somebody has redirected to our port, with our certificate, must not get an answer
// that passes for the web site's (RFC 9325 §3.8, RFC 7301 §3.2).
func NotHTTP(hello *tls.ClientHelloInfo) error {
	for _, web := range []string{"http/1.1", "http/1.0", "h2", "h3"} {
		if slices.Contains(hello.SupportedProtos, web) {
			return ErrWebClient
		}
	}
	return nil
}
