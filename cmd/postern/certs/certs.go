// Package certs makes, reads and replaces the TLS certificate of the submission server.
//
// A pair that does not parse, does not belong together or is out of date never replaces one that works. The package starts no goroutines;
// its user watches Reloader.Paths and calls Reload.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/safefile"
)

// maxPEM bounds the size of each file, in bytes.
const maxPEM = 1 << 20

// ErrExpired says that the certificate is well-formed but not valid now. Load returns the certificate as well.
var ErrExpired = errors.New("certificate is not valid now")

// Load reads a certificate chain and its key, both PEM, and checks that they belong together and are valid at now. Errors name the file and
// how to mend it.
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
		return nil, fmt.Errorf("%s and %s do not belong together: %w; name the PEM chain that begins with the certificate of the server, and its unencrypted key", cert, key, err)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, fmt.Errorf("%s: %w", cert, err)
		}
	}
	return &pair, valid(pair.Leaf, cert, now)
}

// valid returns ErrExpired if the certificate of a file is not valid at now.
func valid(leaf *x509.Certificate, file string, now time.Time) error {
	if now.Before(leaf.NotBefore) {
		return fmt.Errorf("%s: %w, but from %s on", file, ErrExpired, leaf.NotBefore.UTC().Format(time.DateTime))
	}
	if now.After(leaf.NotAfter) {
		return fmt.Errorf("%s: %w, it ended on %s; renew it", file, ErrExpired, leaf.NotAfter.UTC().Format(time.DateTime))
	}
	return nil
}

// LoadPool reads the certificates of authorities from a PEM file.
func LoadPool(path string) (*x509.CertPool, error) {
	data, err := readPEM(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s: has no certificate; name a PEM file (-----BEGIN CERTIFICATE-----)", path)
	}
	return pool, nil
}

func readPEM(path string) ([]byte, error) {
	data, err := safefile.ReadFile(path, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("%w; name a PEM file", err)
	}
	return data, nil
}
