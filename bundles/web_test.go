package bundles

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// shelf is a server with one bundle on it, and ways to go wrong.
type shelf struct {
	*httptest.Server
	t testing.TB

	mu       sync.Mutex
	handle   http.HandlerFunc // nil: serve packed
	packed   []byte
	requests []http.Request
}

func newShelf(t testing.TB, start func(*httptest.Server)) *shelf {
	t.Helper()
	s := &shelf{t: t}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, *r)
		handle, packed := s.handle, s.packed
		s.mu.Unlock()
		if handle != nil {
			handle(w, r)
			return
		}
		w.Header().Set("ETag", fmt.Sprintf("%q", hash(packed)))
		http.ServeContent(w, r, "bundle.tar.gz", time.Time{}, bytes.NewReader(packed)) // heeds If-None-Match
	}))
	start(s.Server)
	t.Cleanup(s.Close)
	return s
}

func (s *shelf) put(files map[string]string) {
	s.t.Helper()
	packed := packed(s.t, tarOf(files)...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packed = packed
}

func (s *shelf) answer(handle http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handle = handle
}

// asked counts the requests, and those that named a version.
func (s *shelf) asked() (all, conditional int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if r.Header.Get("If-None-Match") != "" {
			conditional++
		}
	}
	return len(s.requests), conditional
}

func (s *shelf) source(remote Remote) Source {
	s.t.Helper()
	source, err := Open(s.URL+"/bundle.tar.gz", remote)
	if err != nil {
		s.t.Fatal(err)
	}
	return source
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// TestWebFailures: after each failure of a server the active policy stays, the log says why once, and the watcher recovers.
func TestWebFailures(t *testing.T) {
	good := map[string]string{"a.rego": rule("one")}
	cases := map[string]struct {
		handle http.HandlerFunc
		want   string
	}{
		"404":       {status(404), "the server answers 404 Not Found (is the address right?)"},
		"500":       {status(500), "the server answers 500 Internal Server Error"},
		"401":       {status(401), "does it want token_file"},
		"502":       {status(502), "the server answers 502 Bad Gateway"},
		"no gzip":   {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) }, "not a gzip-compressed tar archive"},
		"cut short": {cutShort(t, good), "the download was cut short"},
		"half of the archive": {func(w http.ResponseWriter, _ *http.Request) {
			whole := packed(t, tarOf(good)...)
			w.Write(whole[:len(whole)/2])
		}, "the archive is truncated"},
		"another archive from the middle on": {func(w http.ResponseWriter, _ *http.Request) { // it was replaced while it was sent
			first, second := packed(t, tarOf(good)...), packed(t, tarOf(map[string]string{"a.rego": rule("zzz")})...)
			w.Write(append(first[:len(first)/2:len(first)/2], second[len(second)/2:]...))
		}, "the archive is damaged"},
		"too large by its word": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99999999")
			w.WriteHeader(200)
		}, "99999999 bytes; at most 1048576 are read"},
		"too large": {func(w http.ResponseWriter, _ *http.Request) {
			for range 64 {
				w.Write(make([]byte, 32<<10))
				w.(http.Flusher).Flush()
			}
		}, "more than 1048576 bytes"},
		"too large unpacked": {func(w http.ResponseWriter, _ *http.Request) {
			w.Write(packed(t, regular("/a.rego", rule("bomb")), regular("/data.json", strings.Repeat(" ", 1<<20)+"{}")))
		}, "data.json"},
		"slow": {func(w http.ResponseWriter, r *http.Request) { trickle(w, r) }, "the download took too long"},
		"encoded": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			w.Write([]byte("x"))
		}, "compresses the bundle a second time (br)"},
		"for ever": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"x", http.StatusFound) }, "redirects more than 5 times"},
		"to a file": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		}, "from http:// to file://"},
		"to others": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/b", http.StatusFound)
		}, "redirects to http://192.0.2.1, which is not encrypted"},
		"vanishes":  {func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }, "no answer from the server: EOF"},
		"no policy": {func(w http.ResponseWriter, _ *http.Request) { w.Write(packed(t, regular("/README", "x"))) }, "there is no .rego file"},
		"no syntax": {func(w http.ResponseWriter, _ *http.Request) {
			w.Write(packed(t, regular("/b.rego", "package b\n\nx if {")))
		}, "b.rego:3"},
		"delta only": {func(w http.ResponseWriter, _ *http.Request) { w.Write(packed(t, regular("/patch.json", "{}"))) }, "patch.json: this kind of bundle is not supported"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShelf(t, (*httptest.Server).Start)
			s.Config.ErrorLog = nil
			s.put(good)
			o := watch(t, s.source(Remote{Timeout: timeoutFor(name)}), func(w *Watcher) {
				w.Poll, w.Settle = 10*time.Millisecond, time.Millisecond
				w.Limits = Limits{File: 1 << 20, Total: 1 << 20}
			})
			o.untilRule("one")
			s.answer(c.handle)
			o.until(c.want, func() bool { err := o.w.LastError(); return err != nil && strings.Contains(err.Error(), c.want) })
			before, _ := s.asked()
			o.until("more polls", func() bool { now, _ := s.asked(); return now > before+3 })
			if n := o.logged("policy not activated"); n != 1 {
				t.Errorf("said %d times", n)
			}
			if !mentions(o.w.Active(), "one") || !strings.Contains(o.w.LastError().Error(), s.URL) {
				t.Errorf("active %v, error %v", o.w.Active(), o.w.LastError())
			}
			s.put(map[string]string{"a.rego": rule("two")})
			s.answer(nil)
			o.untilRule("two")
			o.until("no more error", func() bool { return o.w.LastError() == nil })
		})
	}
}

func timeoutFor(name string) time.Duration {
	if name == "slow" {
		return 200 * time.Millisecond
	}
	return 30 * time.Second
}

// trickle sends a byte at a time, until the client has had enough.
func trickle(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := w.Write([]byte{0x1f}); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		time.Sleep(5 * time.Millisecond)
	}
}

// cutShort promises more than it sends.
func cutShort(t *testing.T, files map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		whole := packed(t, tarOf(files)...)
		w.Header().Set("Content-Length", fmt.Sprint(len(whole)))
		w.Write(whole[:len(whole)-5])
	}
}

// TestEntityTag: what is active is asked for by its tag and not sent again; what was refused is sent again until it is taken
// (opa#2220).
func TestEntityTag(t *testing.T) {
	s := newShelf(t, (*httptest.Server).Start)
	s.put(map[string]string{"a.rego": rule("one")})
	o := watch(t, s.source(Remote{}), func(w *Watcher) { w.Poll, w.Settle = 10*time.Millisecond, time.Millisecond })
	o.untilRule("one")
	o.until("polls", func() bool { _, conditional := s.asked(); return conditional > 5 })
	if all, conditional := s.asked(); all != conditional+1 || o.activations() != 1 {
		t.Errorf("%d requests, %d by tag, %d activations", all, conditional, o.activations())
	}
	first := fmt.Sprintf("%q", o.w.loaderVersion())
	o.refusing(&Refusal{StageTest, errors.New("not now")})
	s.put(map[string]string{"a.rego": rule("two")})
	o.until("the refusal", func() bool { r := o.w.Refused(); return r != nil && r.Stage == StageTest })
	before, _ := s.asked()
	o.until("more polls", func() bool { now, _ := s.asked(); return now > before+5 })
	s.mu.Lock()
	for _, r := range s.requests[before:] {
		if got := fmt.Sprintf("%q", r.Header.Get("If-None-Match")); got != first {
			t.Errorf("asked by the tag %s while %s is active", got, first)
		}
	}
	s.mu.Unlock()
	if n := o.logged("not now"); n != 1 {
		t.Errorf("refused %d times in the log", n)
	}
	if o.metric("postern_policy_reloads_total", "failure", "test") < 1 || o.metric("postern_policy_last_reload_successful") != 0 {
		t.Error("the metrics know nothing of it")
	}
	o.refusing(nil)
	o.untilRule("two") // nothing has changed at the server
	s.answer(status(304))
	if _, err := s.source(Remote{}).Read(context.Background(), Limits{}); err == nil || !strings.Contains(err.Error(), "304 Not Modified") {
		t.Errorf("304 to one who has nothing: %v", err)
	}
}

func (w *Watcher) loaderVersion() string {
	w.looking.Lock()
	defer w.looking.Unlock()
	return w.loader.kept.Version
}

// TestDocumentsWithoutServer: the operator's documents count while the server is down, and after a start with the copy.
func TestDocumentsWithoutServer(t *testing.T) {
	dir := tempDir(t, map[string]string{"s.yaml": "senders: {alice: [one]}\n"})
	s := newShelf(t, (*httptest.Server).Start)
	s.put(map[string]string{"a.rego": rule("one")})
	with := func(w *Watcher) {
		w.Poll, w.Settle, w.Keep, w.Data = 20*time.Millisecond, time.Millisecond, filepath.Join(dir, "keep"), []string{filepath.Join(dir, "s.yaml")}
	}
	source := s.source(Remote{})
	o := watch(t, source, with)
	o.untilRule("alice")
	s.Close()
	o.until("the failure", func() bool { return o.w.LastError() != nil })
	write(t, dir, map[string]string{"s.yaml": "senders: {bob: [two]}\n"})
	c := o.untilRule("bob")
	o.until("the failure again", func() bool { return o.w.LastError() != nil })
	if r := o.w.Refused(); !mentions(c, "one") || r.Stage != StageRead || !strings.Contains(r.Error(), "no connection to the server") {
		t.Errorf("refused %+v", r)
	}
	w, err := starting(t, source, filepath.Join(dir, "keep"), with)
	if err != nil || !w.Active().LastGood || w.Active().Revision != c.Revision {
		t.Errorf("after a restart: %v %+v", err, w.Active())
	}
}

// TestLogin: what is in token_file goes to the server that was named, and to no other.
func TestLogin(t *testing.T) {
	other := newShelf(t, (*httptest.Server).Start)
	other.put(map[string]string{"a.rego": rule("other")})
	s := newShelf(t, (*httptest.Server).Start)
	s.put(map[string]string{"a.rego": rule("one")})
	dir := tempDir(t, map[string]string{"token": "s3cret-token\n", "password": "pass word\n", "empty": "\n", "two": "a\nb\n", "spaced": "s3cret token\n", "late": "\ns3cret\n"})
	wanted := func(check func(*http.Request) bool) {
		s.answer(func(w http.ResponseWriter, r *http.Request) {
			if !check(r) {
				w.WriteHeader(401)
				return
			}
			http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)+"/b", http.StatusTemporaryRedirect)
		})
	}
	read := func(r Remote) error { _, err := s.source(r).Read(context.Background(), Limits{}); return err }
	wanted(func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer s3cret-token" })
	if err := read(Remote{TokenFile: filepath.Join(dir, "token")}); err != nil {
		t.Error(err)
	}
	if err := read(Remote{}); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("without a token: %v", err)
	}
	wanted(func(r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		return user == "ci" && password == "pass word"
	})
	if err := read(Remote{Username: "ci", TokenFile: filepath.Join(dir, "password")}); err != nil {
		t.Error(err)
	}
	wanted(func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer a" })
	if err := read(Remote{TokenFile: filepath.Join(dir, "two")}); err != nil { // the first line counts, as in every file with a secret
		t.Error(err)
	}
	other.mu.Lock()
	defer other.mu.Unlock()
	if len(other.requests) != 3 { // one a login that was accepted
		t.Errorf("%d requests to the other host", len(other.requests))
	}
	for _, r := range other.requests {
		if r.Header.Get("Authorization") != "" {
			t.Error("another host was sent the login")
		}
	}
	for _, file := range []string{"empty", "spaced", "late", "missing"} {
		if err := read(Remote{TokenFile: filepath.Join(dir, file)}); err == nil || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestTLS: the authority is the configured one, the client shows its certificate, and nothing leads out of TLS.
func TestTLS(t *testing.T) {
	plain := newShelf(t, (*httptest.Server).Start)
	plain.put(map[string]string{"a.rego": rule("plain")})
	s := newShelf(t, func(s *httptest.Server) {
		s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
		s.Config.ErrorLog = quiet()
		s.StartTLS()
	})
	s.put(map[string]string{"a.rego": rule("one")})
	dir := t.TempDir()
	cert, key := s.TLS.Certificates[0].Certificate[0], s.TLS.Certificates[0].PrivateKey
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ca, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{ca: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(r Remote) error { _, err := s.source(r).Read(context.Background(), Limits{}); return err }
	if err := read(Remote{CA: ca}); err != nil {
		t.Error(err)
	}
	if err := read(Remote{}); err == nil || !strings.Contains(err.Error(), "the server's certificate is not from a trusted authority") {
		t.Errorf("without its authority: %v", err)
	}
	if err := read(Remote{CA: keyFile}); err == nil || !strings.Contains(err.Error(), "holds no certificate") {
		t.Errorf("no authority: %v", err)
	}
	s.answer(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 {
			w.WriteHeader(403)
			return
		}
		http.Redirect(w, r, plain.URL, http.StatusFound)
	})
	if err := read(Remote{CA: ca}); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("without a certificate: %v", err)
	}
	if err := read(Remote{CA: ca, ClientCert: ca, ClientKey: keyFile}); err == nil || !strings.Contains(err.Error(), "from https:// to http://") {
		t.Errorf("with a certificate, and a redirect out of TLS: %v", err)
	}
	if err := read(Remote{CA: ca, ClientCert: ca, ClientKey: ca}); err == nil || !strings.Contains(err.Error(), "the client certificate cannot be read") {
		t.Errorf("with half a certificate: %v", err)
	}
}

// TestNobodyThere: each failure has its own text, without local ports, which would make each one look new.
func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	for address, want := range map[string]string{
		"http://" + addr + "/b":            "http://" + addr + "/b: no connection to the server: connect: connection refused",
		"oci://" + addr + "/b:1":           "oci://" + addr + "/b:1: no connection to the server: connect: connection refused",
		"https://nobody.postern.invalid/b": "the host nobody.postern.invalid is not found",
		"oci://nobody.postern.invalid/b:1": "the host nobody.postern.invalid is not found",
	} {
		source, err := Open(address, Remote{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := source.Read(context.Background(), Limits{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", address, err, want)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := source.Read(ctx, Limits{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", address, err)
		}
	}
}
