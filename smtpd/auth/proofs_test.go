package auth

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
)

// BenchmarkProofs is one login by each backend that needs no password, and by a verifier: what the server computes, without the
// network and without the client's share.
func BenchmarkProofs(b *testing.B) {
	verifier, err := HashScram(rand.Reader, "pencil")
	if err != nil {
		b.Fatal(err)
	}
	users := open(b, fmt.Sprintf("users: {alice: %q}\n", verifier), FileOptions{CacheLife: -1})
	b.Run("proof=scram-keys", func(b *testing.B) {
		for b.Loop() {
			if k, err := users.StoredKeys(b.Context(), "alice"); err != nil || !k.Known() {
				b.Fatal(err)
			}
		}
	})
	b.Run("proof=scram-by-plain", func(b *testing.B) {
		for b.Loop() {
			if _, err := users.Password(b.Context(), "alice", "pencil"); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, k := range []struct {
		alg jwa.SignatureAlgorithm
		key string
	}{{jwa.RS256(), "rsa"}, {jwa.ES256(), "ec"}, {jwa.EdDSA(), "ed"}} {
		path := filepath.Join(b.TempDir(), "keys.json")
		write(b, path, keySetOf(b, k.key))
		a, err := OpenOAuth(options(path))
		if err != nil {
			b.Fatal(err)
		}
		token := sign(b, k.alg, k.key, k.key, goodClaims())
		b.Run("proof=oauth-"+k.alg.String(), func(b *testing.B) {
			for b.Loop() {
				if _, err := a.Token(b.Context(), token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	ca := newAuthority(b, "Bench")
	chain := []*x509.Certificate{ca.issue("alice", "email:alice@example.com")}
	ca.revoke()
	c, err := OpenCertificates(CertificatesOptions{CA: ca.file("ca.pem"), CRL: ca.file("ca.crl"), SAN: []string{"email"}, Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("proof=certificate", func(b *testing.B) {
		for b.Loop() {
			if _, err := c.Certificate(b.Context(), "", chain); err != nil {
				b.Fatal(err)
			}
		}
	})
}
