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

// issuerName marks certificates that this package made and may replace.
const issuerName = "Postern self-signed"

// A self-signed certificate is valid for lifetime, which the strictest clients still accept. A start of the program replaces it if it ends
// within renewBefore.
const (
	lifetime    = 820 * 24 * time.Hour
	renewBefore = 30 * 24 * time.Hour
)

// EnsureSelfSigned makes a self-signed certificate for hostname, localhost and the loopback addresses, unless the two files hold a pair that
// is valid at now. It replaces only certificates that it made. Other files that do not work are an error.
func EnsureSelfSigned(cert, key, hostname string, now time.Time) (made bool, err error) {
	_, certErr := os.Lstat(cert)
	_, keyErr := os.Lstat(key)
	if errors.Is(certErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist) {
		return true, makePair(cert, key, hostname, now)
	}
	pair, err := Load(cert, key, now)
	if err == nil && !(madeHere(pair.Leaf) && now.After(pair.Leaf.NotAfter.Add(-renewBefore))) {
		return false, nil
	}
	// The pair may be incomplete, because the machine stopped between the two files.
	if madeHereAt(cert) || errors.Is(certErr, fs.ErrNotExist) && madeHereAt(cert+".new") {
		return true, makePair(cert, key, hostname, now)
	}
	if err == nil {
		return false, nil
	}
	return false, fmt.Errorf("%w (postern did not make it, so it is not replaced; mend it, or move %s and %s away)", err, cert, key)
}

// madeHere reports whether this package made a certificate.
func madeHere(c *x509.Certificate) bool { return slices.Contains(c.Subject.Organization, issuerName) }

func madeHereAt(path string) bool {
	data, err := readPEM(path)
	if err != nil {
		return false
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return false
	}
	c, err := x509.ParseCertificate(block.Bytes)
	return err == nil && madeHere(c)
}

// makePair writes the key first and then the certificate, whose presence shows that the pair is complete.
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
	// If the machine stops after the key was written, cert.new shows that this package made the key.
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
		NotBefore:             now.Add(-time.Hour), // clocks of clients differ
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
