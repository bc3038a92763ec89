package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/safefile"
)

// issuerName marks a certificate as ours to replace.
const issuerName = "Postern self-signed"

// lifetime of a certificate of ours: what the strictest clients accept; renewBefore its end, at start, it is made anew.
const (
	lifetime    = 820 * 24 * time.Hour
	renewBefore = 30 * 24 * time.Hour
)

// EnsureSelfSigned makes a certificate for hostname, localhost and the loopback addresses, signed by itself, unless the two
// files hold a pair that is good at now. It replaces only what it made itself; files of other origin are left alone and, where
// they do not work, are an error.
func EnsureSelfSigned(cert, key, hostname string, now time.Time) (made bool, err error) {
	_, certErr := os.Lstat(cert)
	_, keyErr := os.Lstat(key)
	if errors.Is(certErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist) {
		return true, makePair(cert, key, hostname, now)
	}
	pair, err := Load(cert, key, now)
	if err == nil && !(ours(pair.Leaf) && now.After(pair.Leaf.NotAfter.Add(-renewBefore))) {
		return false, nil
	}
	// What we made may be half there, because the machine stopped between the two files.
	if oursAt(cert) || errors.Is(certErr, fs.ErrNotExist) && oursAt(cert+".new") {
		return true, makePair(cert, key, hostname, now)
	}
	if err == nil {
		return false, nil
	}
	return false, fmt.Errorf("%w (it was not made here, so it is not replaced: mend it, or move %s and %s away)", err, cert, key)
}

func ours(c *x509.Certificate) bool { return slices.Contains(c.Subject.Organization, issuerName) }

func oursAt(path string) bool {
	data, err := readPEM(path)
	if err != nil {
		return false
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return false
	}
	c, err := x509.ParseCertificate(block.Bytes)
	return err == nil && ours(c)
}

// makePair writes first the key, then the certificate, which says that the pair is whole.
func makePair(cert, key, hostname string, now time.Time) error {
	certPEM, keyPEM, err := generate(hostname, now)
	if err != nil {
		return err
	}
	for _, dir := range []string{filepath.Dir(cert), filepath.Dir(key)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	// cert.new is written first: should the machine stop after the key, it tells whose key that is.
	if err := safefile.WriteFile(cert+".new", certPEM, 0o644); err != nil {
		return err
	}
	if err := safefile.WriteFile(key, keyPEM, 0o600); err != nil {
		return err
	}
	if err := safefile.WriteFile(cert, certPEM, 0o644); err != nil {
		return err
	}
	return os.Remove(cert + ".new")
}

func generate(hostname string, now time.Time) (certPEM, keyPEM []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	names := []string{"localhost"}
	if hostname != "" && hostname != "localhost" {
		names = append(names, hostname)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: names[len(names)-1], Organization: []string{issuerName}},
		NotBefore:             now.Add(-time.Hour), // clocks differ
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              names,
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, nil, fmt.Errorf("self-signed certificate for %q: %w", hostname, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	_, err = tls.X509KeyPair(certPEM, keyPEM)
	return certPEM, keyPEM, err
}
