package milter

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/testmilter"
)

// rego compiles a policy of one module for each stage; it adds the package lines.
func rego(t testing.TB, revision string, stages map[string]string) *engine.Policy {
	t.Helper()
	b := &bundle.Bundle{Data: map[string]any{}, Manifest: bundle.Manifest{Revision: revision}}
	for stage, text := range stages {
		b.Modules = append(b.Modules, bundle.ModuleFile{Path: "/" + stage + ".rego", URL: stage + ".rego", Raw: []byte("package postern." + stage + "\n" + text)})
	}
	p, err := engine.Compile(context.Background(), b, engine.Options{Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// recorder keeps all decisions with their input.
type recorder struct {
	mu   sync.Mutex
	list []recorded
}

type recorded struct {
	id, revision string
	stage        engine.Stage
	decision     engine.Decision
	input        map[string]any
}

func (r *recorder) Record(_ context.Context, rec engine.Record) error {
	e := recorded{id: rec.Transaction.ID, revision: rec.Decision.Revision, stage: rec.Decision.Stage, decision: *rec.Decision}
	if err := json.Unmarshal(rec.Input.AppendJSON(nil), &e.input); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, e)
	return nil
}

func (r *recorder) all() []recorded {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]recorded(nil), r.list...)
}

// last is the newest decision of a stage.
func (r *recorder) last(t testing.TB, stage engine.Stage) recorded {
	t.Helper()
	list := r.all()
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].stage == stage {
			return list[i]
		}
	}
	t.Fatalf("no decision at stage %v", stage)
	return recorded{}
}

// rig is a milter under test.
type rig struct {
	*Server
	records *recorder
	addr    string
	metrics *prometheus.Registry
	logs    *logs
}

type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// take is String, and empties the log.
func (l *logs) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.b.Reset()
	return l.b.String()
}

// serve starts a milter on loopback TCP that is shut down with the test. change may be nil.
func serve(t testing.TB, p *engine.Policy, change func(*Server, *ListenerConfig)) *rig {
	t.Helper()
	r := &rig{records: &recorder{}, metrics: prometheus.NewRegistry(), logs: &logs{}}
	eng := &engine.Engine{Recorder: r.records}
	eng.Swap(p)
	r.Server = &Server{Engine: eng, Hostname: "mta.example.com", Metrics: r.metrics, Log: testLog(r.logs)}
	cfg := ListenerConfig{Name: "test"}
	if change != nil {
		change(r.Server, &cfg)
	}
	ln, err := Listen("tcp:127.0.0.1:0", 0, "")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	done := make(chan error, 1)
	go func() { done <- r.Serve(context.Background(), ln, cfg) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_ = r.Shutdown(ctx)
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if t.Failed() {
			t.Log(r.logs.String())
		}
	})
	return r
}

// alsoUnix listens on a unix socket for a group as well, and returns its address as mail servers write it.
func (r *rig) alsoUnix(t testing.TB, group string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "postern-test-") // other users may enter it, unlike t.TempDir
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "milter.sock")
	ln, err := Listen("unix:"+path, 0o660, group)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, ln, ListenerConfig{Name: "unix"}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	return "unix:" + path
}

// dial connects a mail server.
func (r *rig) dial(t testing.TB, o testmilter.Options) *testmilter.MTA {
	t.Helper()
	m, err := testmilter.Dial("tcp", r.addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// greet goes through CONNECT and EHLO as Postfix does.
func greet(t testing.TB, m *testmilter.MTA) {
	t.Helper()
	m.Macros('C', "j", "mta.example.com", "{daemon_name}", "smtpd", "v", "Postfix 3.7.11", "_", "client.example.net [192.0.2.1]")
	go1(t)(m.Connect("client.example.net", '4', 40000, "192.0.2.1"))
	go1(t)(m.Helo("client.example.net"))
}

// go1 fails the test unless the dialogue goes on.
func go1(t testing.TB) func(testmilter.Answer, error) {
	return func(a testmilter.Answer, err error) {
		t.Helper()
		if err != nil || a.Refused() || a.Code == 'd' {
			t.Fatalf("answered %q %q, %v; want to go on", a.Code, a.Text, err)
		}
	}
}

// refused fails the test unless the answer is this reply.
func refused(t testing.TB, a testmilter.Answer, err error, want string) {
	t.Helper()
	if err != nil || a.Text != want {
		t.Fatalf("answered %q %q, %v; want %q", a.Code, a.Text, err, want)
	}
}

// accepted fails the test unless the message was accepted.
func accepted(t testing.TB, r *testmilter.Result, err error) {
	t.Helper()
	if err != nil || r.Answer.Refused() || r.Answer.Code == 'd' || r.Stage != 'E' {
		t.Fatalf("message answered at %q with %q %q, %v; want it accepted", r.Stage, r.Answer.Code, r.Answer.Text, err)
	}
}

// eml gives text CRLF line ends.
func eml(s string) []byte { return []byte(strings.ReplaceAll(s, "\n", "\r\n")) }

const simple = "From: alice@example.com\nTo: bob@example.net\nSubject: one\n\nHello.\n"

// hungUp waits for the milter to close the connection, and returns what it sent.
func hungUp(t testing.TB, c net.Conn) []byte {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("not closed: %v", err)
	}
	return b
}

// gauge reads a metric of the listener "test"; labels are name, value pairs.
func (r *rig) gauge(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			have := map[string]string{}
			for _, l := range m.GetLabel() {
				have[l.GetName()] = l.GetValue()
			}
			fits := true
			for i := 0; i < len(labels); i += 2 {
				fits = fits && have[labels[i]] == labels[i+1]
			}
			if fits {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return -1
}

func testLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
