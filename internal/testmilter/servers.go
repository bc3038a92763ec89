package testmilter

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

func write(t testing.TB, path, text string, mode os.FileMode) string {
	t.Helper()
	testenv.Must(t, os.WriteFile(path, []byte(text), mode))
	testenv.Must(t, os.Chmod(path, mode))
	return path
}

// certificate writes a self-signed certificate for mta.example.com and gives the paths of its PEM files.
func certificate(t testing.TB, dir string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	testenv.Must(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mta.example.com"}, DNSNames: []string{"mta.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	testenv.Must(t, err)
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	testenv.Must(t, err)
	cert = write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644)
	key = write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder})), 0o600)
	return cert, key
}
