// Package certs makes, reads and replaces the TLS certificate of the submission server.
//
// What it does when things fail: a pair that does not parse, does not belong together or is out of date never replaces one
// that works. No goroutines: whoever watches Reloader.Paths calls Reload.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/safefile"
)

// maxPEM bounds each file, in octets.
const maxPEM = 1 << 20

// ErrExpired: the certificate is well-formed but not valid now. Load returns the certificate beside it.
var ErrExpired = errors.New("certificate is not valid now")

// Load reads a certificate chain and its key, both PEM, and checks that they belong together and are valid at now. The errors
// name the file and how to mend it.
func Load(cert, key string, now time.Time) (*tls.Certificate, error) {
	certPEM, err := readPEM(cert)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readPEM(key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s and %s are no pair: %w; give the PEM chain that begins with the server's certificate, and its unencrypted key", cert, key, err)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, fmt.Errorf("%s: %w", cert, err)
		}
	}
	return &pair, valid(pair.Leaf, cert, now)
}

// valid says whether the certificate in a file is out of date.
func valid(leaf *x509.Certificate, file string, now time.Time) error {
	if now.Before(leaf.NotBefore) {
		return fmt.Errorf("%s: %w: it begins on %s", file, ErrExpired, leaf.NotBefore.UTC().Format(time.DateTime))
	}
	if now.After(leaf.NotAfter) {
		return fmt.Errorf("%s: %w: it ended on %s; renew it", file, ErrExpired, leaf.NotAfter.UTC().Format(time.DateTime))
	}
	return nil
}

// LoadPool reads the PEM certificates of authorities.
func LoadPool(path string) (*x509.CertPool, error) {
	data, err := readPEM(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s: no certificate in it; give a PEM file (-----BEGIN CERTIFICATE-----)", path)
	}
	return pool, nil
}

func readPEM(path string) ([]byte, error) {
	data, err := safefile.ReadFile(path, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("%w; give a PEM file", err)
	}
	return data, nil
}
