package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// configure writes postern.yaml with the listeners that door says, a users file with one user, 10,000 users' senders and a
// certificate into dir.
func configure(postern, dir, door string) error {
	cmd := exec.Command(postern, "passwd", "user1")
	cmd.Stdin = bytes.NewBufferString("bench password\n")
	line, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("postern passwd: %w", err)
	}
	var senders bytes.Buffer
	senders.WriteString("settings: {domain: example.com}\nsenders:\n")
	for i := range 10_000 {
		fmt.Fprintf(&senders, "  user%d: [user%d@example.com, alias%d@example.com, \"@team%d.example.com\"]\n", i, i, i, i%100)
	}
	// The machine may be busy with other things: a decision that had to wait for a processor is still one to be measured.
	config := "hostname: bench.example.com\n" + door +
		"policy:\n  data: [senders.yaml]\n  timeout: 2s\ndecision_log: {file: decisions.jsonl}\nlog: {level: warn}\n"
	for name, content := range map[string][]byte{
		"postern.yaml": []byte(config), "users.yaml": append([]byte("users:\n"), line...), "senders.yaml": senders.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return certificate(dir)
}

// door is a submission server at addr that relays to next.
func door(addr, next string) string {
	return fmt.Sprintf("submission:\n  listen: [%q]\n  tls: {cert: cert.pem, key: key.pem}\n"+
		"  limits: {connections: 2000, connections_per_ip: 2000}\nauth:\n  - file: users.yaml\nrelay:\n  to: %s\n", addr, next)
}

func certificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench.example.com"},
		DNSNames: []string{"bench.example.com"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), cert, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600)
}

// tool finds a program of the system, sbin included.
func tool(name string) string {
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"} {
		if p := filepath.Join(dir, name); exists(p) {
			return p
		}
	}
	return name
}

func exists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}
