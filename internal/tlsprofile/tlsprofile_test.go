package tlsprofile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func shake(server, client *tls.Config) error {
	a, b := net.Pipe()
	done := make(chan error, 1)
	go func() {
		defer b.Close()
		done <- tls.Server(b, server).Handshake()
	}()
	err := tls.Client(a, client).Handshake()
	a.Close()
	return errors.Join(err, <-done)
}

// TestBothSides: obsolete versions and cipher suites are refused as a server and as a client; current ones work.
func TestBothSides(t *testing.T) {
	ours := func() *tls.Config {
		c := New()
		c.Certificates, c.InsecureSkipVerify = []tls.Certificate{certificate(t)}, true
		return c
	}
	for name, tt := range map[string]struct {
		change func(*tls.Config)
		good   bool
	}{
		"1.3":     {func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }, true},
		"1.2 GCM": {func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, true},
		"1.1":     {func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, false},
		"1.0":     {func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 }, false},
		"1.2 CBC": {func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		}, false},
		"1.2 CBC256": {func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256}
		}, false},
	} {
		theirs := func() *tls.Config {
			c := &tls.Config{Certificates: []tls.Certificate{certificate(t)}, InsecureSkipVerify: true}
			tt.change(c)
			return c
		}
		// The peer must be able to speak it, or else a refusal proves nothing.
		if err := shake(theirs(), theirs()); err != nil {
			t.Errorf("%s between two others: %v", name, err)
		}
		if err := shake(ours(), theirs()); (err == nil) != tt.good {
			t.Errorf("%s, as a server: %v", name, err)
		}
		if err := shake(theirs(), ours()); (err == nil) != tt.good {
			t.Errorf("%s, as a client: %v", name, err)
		}
	}
}

func TestNotHTTP(t *testing.T) {
	for proto, want := range map[string]error{"http/1.1": ErrWebClient, "h2": ErrWebClient, "smtp": nil, "imap": nil} {
		if err := NotHTTP(&tls.ClientHelloInfo{SupportedProtos: []string{"x", proto}}); err != want {
			t.Errorf("%s: %v", proto, err)
		}
	}
}

// TestOnlyPlace: no other package makes a tls.Config of its own.
func TestOnlyPlace(t *testing.T) {
	root, seen := filepath.Join("..", ".."), 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == "tools" || d.Name() == "e2e" || strings.HasPrefix(d.Name(), "test") || d.Name() == ".git") {
			return fs.SkipDir // developer tools and test helpers
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			made := false
			switch n := n.(type) {
			case *ast.CompositeLit:
				made = names(n.Type)
			case *ast.CallExpr:
				f, ok := n.Fun.(*ast.Ident)
				made = ok && f.Name == "new" && len(n.Args) == 1 && names(n.Args[0])
			}
			if !made {
				return true
			}
			if seen++; filepath.Base(filepath.Dir(path)) != "tlsprofile" && filepath.Base(path) != "tlsprofile.go" {
				t.Errorf("%s makes a tls.Config; use tlsprofile.New", path)
			}
			return true
		})
		return nil
	})
	if err != nil || seen == 0 {
		t.Fatal(seen, err)
	}
}

func names(e ast.Expr) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != "Config" {
		return false
	}
	pkg, ok := s.X.(*ast.Ident)
	return ok && pkg.Name == "tls"
}
