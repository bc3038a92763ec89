package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func pair(t *testing.T, dir, name, hostname string, at time.Time) (cert, key string) {
	t.Helper()
	cert, key = filepath.Join(dir, name+"-cert.pem"), filepath.Join(dir, name+"-key.pem")
	made, err := EnsureSelfSigned(cert, key, hostname, at)
	if err != nil || !made {
		t.Fatal(made, err)
	}
	return cert, key
}

func copyTo(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	// As certbot and editors do it.
	if err := os.WriteFile(to+".tmp", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(to+".tmp", to); err != nil {
		t.Fatal(err)
	}
}

func TestSelfSigned(t *testing.T) {
	cert, key := pair(t, filepath.Join(t.TempDir(), "tls"), "own", "mail.example.com", now)
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", info.Mode(), err)
	}
	c, err := Load(cert, key, now)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(c.Leaf)
	for _, name := range []string{"localhost", "mail.example.com", "127.0.0.1", "::1"} {
		if _, err := c.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: now}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := c.Leaf.VerifyHostname("example.com"); err == nil {
		t.Error("the certificate is for everything")
	}
}

func TestEnsureSelfSigned(t *testing.T) {
	cases := []struct {
		name string
		do   func(t *testing.T, cert, key string)
		at   time.Time
		made bool
		fail string
	}{
		{"kept", func(*testing.T, string, string) {}, now.Add(24 * time.Hour), false, ""},
		{"soon over", func(*testing.T, string, string) {}, now.Add(lifetime - 24*time.Hour), true, ""},
		{"over", func(*testing.T, string, string) {}, now.Add(2 * lifetime), true, ""},
		{"key lost", func(t *testing.T, _, key string) { remove(t, key) }, now, true, ""},
		{"stopped between the two files", func(t *testing.T, cert, key string) {
			other, otherKey := pair(t, t.TempDir(), "x", "", now)
			copyTo(t, otherKey, key)
			copyTo(t, other, cert+".new")
		}, now, true, ""},
		{"stopped on first start", func(t *testing.T, cert, _ string) {
			copyTo(t, cert, cert+".new")
			remove(t, cert)
		}, now, true, ""},
		{"certificate of another origin lost", func(t *testing.T, cert, _ string) { remove(t, cert) }, now, false, "not replaced"},
		{"not ours and broken", func(t *testing.T, cert, _ string) {
			if err := os.WriteFile(cert, []byte("-----BEGIN CERTIFICATE-----\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, now, false, "not replaced"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cert, key := pair(t, t.TempDir(), "own", "mail.example.com", now)
			before, err := os.ReadFile(key)
			if err != nil {
				t.Fatal(err)
			}
			c.do(t, cert, key)
			made, err := EnsureSelfSigned(cert, key, "mail.example.com", c.at)
			if made != c.made || (err == nil) != (c.fail == "") || err != nil && !strings.Contains(err.Error(), c.fail) {
				t.Fatalf("made %v, error %v", made, err)
			}
			if c.fail != "" {
				return
			}
			if _, err := Load(cert, key, c.at); err != nil {
				t.Error(err)
			}
			if after, err := os.ReadFile(key); err != nil || (string(after) == string(before)) == made {
				t.Errorf("made %v, but the key says otherwise; %v", made, err)
			}
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	clock := now
	var mu sync.Mutex
	tick := func() time.Time { mu.Lock(); defer mu.Unlock(); return clock }
	cert, key := pair(t, dir, "a", "a.example", now)
	otherCert, otherKey := pair(t, dir, "b", "b.example", now)
	oldCert, oldKey := pair(t, dir, "old", "old.example", now.Add(-2*lifetime))
	var log bytes.Buffer
	r, err := NewReloader(Files{Cert: cert, Key: key}, true, tick, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	server := r.Config()
	want := func(what, name string) {
		t.Helper()
		if got := handshake(t, server, nil, tick).PeerCertificates[0].Subject.CommonName; got != name {
			t.Errorf("%s: %s is served, want %s", what, got, name)
		}
	}
	want("at first", "a.example")
	steps := []struct {
		what      string
		cert, key string
		fail      string
		served    string
	}{
		{"the certificate has come, its key not yet", otherCert, "", "do not belong together", "a.example"},
		{"now the key", "", otherKey, "", "b.example"},
		{"an old pair", oldCert, oldKey, "not valid now", "b.example"},
		{"no certificate at all", key, "", "do not belong together", "b.example"},
	}
	for _, s := range steps {
		if s.cert != "" {
			copyTo(t, s.cert, cert)
		}
		if s.key != "" {
			copyTo(t, s.key, key)
		}
		err := r.Reload()
		if (err == nil) != (s.fail == "") || err != nil && !strings.Contains(err.Error(), s.fail) {
			t.Errorf("%s: %v", s.what, err)
		}
		want(s.what, s.served)
	}
	for what, text := range map[string]string{"empty": "", "half": "-----BEGIN CERTIFICATE-----\nMIIB", "half of a good one": half(t, otherCert)} {
		for _, file := range []string{cert, key} {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := r.Reload(); err == nil || !strings.Contains(err.Error(), cert) {
				t.Errorf("%s in %s: %v", what, file, err)
			}
			want(what, "b.example")
			copyTo(t, otherCert, cert)
			copyTo(t, otherKey, key)
			if err := r.Reload(); err != nil {
				t.Error(err)
			}
		}
	}
	// It ends while it is served, or the clock says so: it is served on.
	for _, jump := range []time.Duration{2 * lifetime, -4 * lifetime} {
		mu.Lock()
		clock = clock.Add(jump)
		mu.Unlock()
		want("after a jump of the clock", "b.example")
		if err := r.Reload(); !errors.Is(err, ErrExpired) {
			t.Errorf("read again after a jump of the clock: %v", err)
		}
		want("read again after a jump of the clock", "b.example")
	}
	if n := strings.Count(log.String(), "served although it is not valid"); n != 1 {
		t.Errorf("that the certificate is over was logged %d times:\n%s", n, log.String())
	}
	mu.Lock()
	clock = now
	mu.Unlock()
	remove(t, cert)
	if r.Reload() == nil {
		t.Error("a missing file was taken")
	}
	want("a missing file", "b.example")
	if p := r.Paths(); len(p) != 2 || p[0] != cert {
		t.Error(p)
	}
}

func half(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data[:len(data)/2])
}

// TestExpiredAtStart: a server comes up with an old certificate, but does not with a broken one.
func TestExpiredAtStart(t *testing.T) {
	dir := t.TempDir()
	cert, key := pair(t, dir, "a", "a.example", now)
	r, err := NewReloader(Files{Cert: cert, Key: key}, true, func() time.Time { return now.Add(2 * lifetime) }, nil)
	if err != nil || !r.NotAfter().Equal(now.Add(lifetime)) {
		t.Errorf("%v, %v", r, err)
	}
	_, other := pair(t, dir, "b", "b.example", now)
	if _, err := NewReloader(Files{Cert: cert, Key: other}, true, nil, nil); err == nil || errors.Is(err, ErrExpired) {
		t.Error(err)
	}
	if _, err := NewReloader(Files{Cert: cert, Key: key, ClientCA: key}, true, func() time.Time { return now }, nil); err == nil {
		t.Error("a key was taken for authorities")
	}
}

func TestHandshake(t *testing.T) {
	dir := t.TempDir()
	tick := func() time.Time { return now }
	cert, key := pair(t, dir, "a", "localhost", now)
	clientCert, clientKey := pair(t, dir, "client", "client", now)
	r, err := NewReloader(Files{Cert: cert, Key: key, ClientCA: clientCert}, true, tick, nil)
	if err != nil {
		t.Fatal(err)
	}
	state := handshake(t, r.Config(), nil, tick)
	if state.Version != tls.VersionTLS13 {
		t.Errorf("version %x", state.Version)
	}
	state = handshake(t, r.Config(), &tls.Config{MaxVersion: tls.VersionTLS12}, tick)
	if !strings.Contains(tls.CipherSuiteName(state.CipherSuite), "ECDHE") {
		t.Error(tls.CipherSuiteName(state.CipherSuite))
	}
	for _, bad := range []*tls.Config{
		{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
		{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}},
		{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}},
	} {
		if _, err := try(t, r.Config(), bad, tick); err == nil {
			t.Errorf("agreed to %+v", bad)
		}
	}
	// A certificate that does not verify is as good as none and ends no handshake: what it is worth, the submission server finds out.
	other, err := tls.LoadX509KeyPair(clientCert, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	handshake(t, r.Config(), &tls.Config{Certificates: []tls.Certificate{other}}, tick)
}

// TestTickets: a session is resumed at its own listener only, and nowhere when tickets are off.
func TestTickets(t *testing.T) {
	dir := t.TempDir()
	tick := func() time.Time { return now }
	cert, key := pair(t, dir, "a", "localhost", now)
	for _, on := range []bool{true, false} {
		r, err := NewReloader(Files{Cert: cert, Key: key}, on, tick, nil)
		if err != nil {
			t.Fatal(err)
		}
		first, second := r.Config(), r.Config()
		client := &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(1), MaxVersion: tls.VersionTLS12}
		handshake(t, first, client, tick)
		if got := handshake(t, first, client, tick).DidResume; got != on {
			t.Errorf("tickets %v: resumed %v", on, got)
		}
		if handshake(t, second, client, tick).DidResume {
			t.Error("resumed at another listener")
		}
	}
}

func handshake(t *testing.T, server, client *tls.Config, tick func() time.Time) tls.ConnectionState {
	t.Helper()
	state, err := try(t, server, client, tick)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// try connects a client to a server over a pipe and sends an octet each way, so that both have finished.
func try(t *testing.T, server, client *tls.Config, tick func() time.Time) (tls.ConnectionState, error) {
	t.Helper()
	if client == nil {
		client = &tls.Config{}
	}
	client = client.Clone()
	client.InsecureSkipVerify, client.ServerName, client.Time = true, "localhost", tick
	a, b := net.Pipe()
	done := make(chan error, 1)
	go func() {
		defer b.Close()
		s := tls.Server(b, server)
		if err := s.Handshake(); err != nil {
			done <- err
			return
		}
		_, err := s.Write([]byte("x"))
		done <- err
	}()
	c := tls.Client(a, client)
	var buf [1]byte
	_, err := c.Read(buf[:])
	state := c.ConnectionState()
	a.Close()
	return state, errors.Join(err, <-done)
}
