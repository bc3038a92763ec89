package testload

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
	"time"
)

// Replace puts a file in place of another as careful programs do: by renaming a new one over it.
func Replace(path string, content []byte) error {
	if err := os.WriteFile(path+"~", content, 0o600); err != nil {
		return err
	}
	return os.Rename(path+"~", path)
}

// Certificate writes cert.pem and key.pem for host into dir, signed by themselves and good for a day, each by renaming a
// new file over the old.
func Certificate(dir, host string, serial int64) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: host},
		DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := Replace(filepath.Join(dir, "cert.pem"), cert); err != nil {
		return err
	}
	return Replace(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}
