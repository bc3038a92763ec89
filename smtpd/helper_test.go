package smtpd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/testpipe"
	"github.com/postern-mail/postern/smtpd/auth"
)

// patience bounds every wait. It is long, because on a busy machine a short wait proves nothing.
const patience = 30 * time.Second

// site is a running server with a next hop that records.
type site struct {
	*Server
	t    testing.TB
	hop  *recorder
	held *recorder // quarantine
	log  *logBuffer
	dial func() (net.Conn, error)
	done chan error // what Serve returned
	wait time.Duration
}

// start runs a server on loopback until the test ends. Clients need no authentication, and policy accepts everything,
// unless change says otherwise.
func start(t testing.TB, change ...func(*Server, *Listener)) *site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	policy := func(s *Server, _ *Listener) { s.Engine.Swap(acceptAll()) }
	s := serve(t, l, append([]func(*Server, *Listener){policy}, change...)...)
	s.dial = func() (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) }
	return s
}

// startPipe runs a server over connections in memory, for tests in a synctest bubble, where time-outs take no time and are exact.
// There is no policy, because an evaluation has a goroutine that outlives the bubble. The failure verdict is accept.
func startPipe(t testing.TB, change ...func(*Server, *Listener)) *site {
	t.Helper()
	l := testpipe.NewListener()
	none := func(s *Server, ln *Listener) { s.Engine, ln.Failure = &engine.Engine{}, engine.Accept }
	s := serve(t, l, append([]func(*Server, *Listener){none}, change...)...)
	s.dial, s.wait = l.Dial, 24*time.Hour
	return s
}

func serve(t testing.TB, l net.Listener, change ...func(*Server, *Listener)) *site {
	t.Helper()
	s := &site{t: t, hop: &recorder{t: t}, held: &recorder{t: t}, log: &logBuffer{}, done: make(chan error, 1), wait: patience}
	s.Server = &Server{
		Hostname: "mail.example.com", Engine: &engine.Engine{}, Relay: s.hop, Quarantine: s.held, Anonymous: true,
		Auth: []auth.Backend{users{"alice": "secret"}}, TLS: func() *tls.Config { return certificateOnce() },
		Limits: Limits{AuthDelay: -1}, SpoolDir: t.TempDir(), Log: slog.New(slog.NewTextHandler(s.log, nil)),
	}
	ln := Listener{Listener: l, Name: "test"}
	for _, f := range change {
		f(s.Server, &ln)
	}
	go func() { s.done <- s.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			log := s.log.String()
			t.Logf("log:\n%s", log[max(0, len(log)-4096):])
		}
	})
	return s
}

// stop shuts the server down. It may be called again.
func (s *site) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), s.wait)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		s.t.Errorf("Shutdown: %v", err)
	}
	if err := <-s.done; err != ErrServerClosed {
		s.t.Errorf("Serve: %v", err)
	}
	s.done <- ErrServerClosed
}

// limits changes limits.
func limits(f func(*Limits)) func(*Server, *Listener) {
	return func(s *Server, _ *Listener) { f(&s.Limits) }
}

// strictCommands makes the server refuse commands that are not written as RFC 5321 says.
func strictCommands(s *Server, _ *Listener) { s.StrictCommands = true }

// wantsAuth makes the server want authentication, as it usually does.
func wantsAuth(s *Server, _ *Listener) { s.Anonymous = false }

// rules gives the server a policy: stage, rules, stage, rules, and so on.
func rules(t testing.TB, stages ...string) func(*Server, *Listener) {
	return func(s *Server, _ *Listener) { s.Engine.Swap(policy(t, "test", stages...)) }
}

// policy compiles a bundle of stages and their rules.
func policy(t testing.TB, revision string, stages ...string) *engine.Policy {
	t.Helper()
	p, err := compile(revision, stages...)
	if err != nil {
		t.Fatalf("compile: %v", err)
	}
	return p
}

func compile(revision string, stages ...string) (*engine.Policy, error) {
	b := &bundle.Bundle{Data: map[string]any{}, Manifest: bundle.Manifest{Revision: revision}}
	for i := 0; i < len(stages); i += 2 {
		text := "package postern." + stages[i] + "\n\n" + stages[i+1] + "\n"
		name := stages[i] + ".rego"
		b.Modules = append(b.Modules, bundle.ModuleFile{Path: "/" + name, URL: name, Raw: []byte(text)})
	}
	return engine.Compile(context.Background(), b, engine.Options{Timeout: patience})
}

// acceptAll is a policy that refuses nothing.
var acceptAll = sync.OnceValue(func() *engine.Policy {
	p, err := compile("accept", "message", `note contains "seen" if input.message.size >= 0`)
	if err != nil {
		panic(err)
	}
	return p
})

// users is an auth backend: login, password.
type users map[string]string

func (users) Name() string { return "test" }

func (u users) Password(_ context.Context, login, password string) (auth.Identity, error) {
	if want, ok := u[login]; !ok || want != password {
		return auth.Identity{}, auth.ErrCredentials
	}
	return auth.Identity{Login: login, Backend: "test"}, nil
}

// certificateOnce is a TLS configuration with a self-signed certificate.
var certificateOnce = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"mail.example.com"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
})

// logBuffer collects the log of the server.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
