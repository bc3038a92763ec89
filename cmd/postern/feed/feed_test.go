package feed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/gate"
	"github.com/postern-mail/postern/engine"
)

// feedOf is a feed of a directory, without a last good copy.
func feedOf(t testing.TB, dir string, change func(*config.Policy)) *Feed {
	t.Helper()
	p := config.Default(t.TempDir()).Policy
	p.Bundle, p.Timeout = dir, 5*time.Second
	if change != nil {
		change(&p)
	}
	f, err := New(p, engine.Options{Timeout: p.Timeout}, "", &engine.Engine{}, slog.New(slog.NewTextHandler(io.Discard, nil)), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func putAll(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const connectRule = "package postern.connect\n\nreject contains \"blocked\" if input.client.ip in data.blocked\n"

// TestGateRefuses: every stage has its refusal, with a place, and nothing of it becomes active.
func TestGateRefuses(t *testing.T) {
	many := "package postern.connect_test\n"
	for i := range 40 {
		many += fmt.Sprintf("\ntest_%d if false\n", i)
	}
	for name, c := range map[string]struct {
		files  map[string]string
		change func(*config.Policy)
		stage  bundles.Stage
		want   []string
	}{
		"failing test": {files: map[string]string{"p_test.rego": "package p_test\n\ntest_a if true\n\ntest_b if 1 == 2\n"}, stage: bundles.StageTest,
			want: []string{"p_test.rego:5", "the test data.p_test.test_b fails"}},
		"many failing tests": {files: map[string]string{"p_test.rego": many}, stage: bundles.StageTest, want: []string{"p_test.rego:3", "and 15 more"}},
		"test that conflicts": {files: map[string]string{"p_test.rego": "package p_test\n\ntest_a if f(1) == 1\n\nf(x) := 1 if x > 0\n\nf(x) := 2 if x > 0\n"}, stage: bundles.StageTest,
			want: []string{"p_test.rego:3", "cannot be evaluated", "eval_conflict_error"}},
		"test that does not compile": {files: map[string]string{"p_test.rego": "package p_test\n\ntest_a if nothing == 1\n"}, stage: bundles.StageTest, want: []string{"p_test.rego:3"}},
		"test without end": {files: map[string]string{"p_test.rego": "package p_test\n\ntest_a if count([1 | some x in numbers.range(1, 100000); some y in numbers.range(1, 100000); x == y]) == 0\n"},
			change: func(p *config.Policy) { p.TestTimeout = 100 * time.Millisecond }, stage: bundles.StageTest, want: []string{"did not end within 100ms (policy.test_timeout)"}},
		"test that reaches out": {files: map[string]string{"p_test.rego": "package p_test\n\ntest_a if opa.runtime().env.HOME\n"}, stage: bundles.StageTest, want: []string{"p_test.rego:3", "opa.runtime is not available"}},
		"own data that tests do not fit": {files: map[string]string{"data.json": `{"blocked": []}`, "p_test.rego": "package p_test\n\nimport data.postern.connect\n\ntest_a if count(connect.reject) == 1 with input.client.ip as \"192.0.2.1\"\n"},
			stage: bundles.StageTest, want: []string{"p_test.rego:5"}},
		"slow": {files: map[string]string{"s.rego": "package postern.connect\n\ndefer contains \"x\" if count([1 | some x in numbers.range(1, 3000); some y in numbers.range(1, 3000); x == y]) == 0\n"},
			change: func(p *config.Policy) { p.Timeout = 20 * time.Millisecond }, stage: bundles.StageSmoke, want: []string{"does not decide a plain transaction"}},
		"unknown set":   {files: map[string]string{"s.rego": "package postern.connect\n\nrejects contains \"x\" if input.client.ip == \"192.0.2.1\"\n"}, stage: bundles.StageLint, want: []string{"s.rego:3"}},
		"unknown input": {files: map[string]string{"s.rego": "package postern.connect\n\ndefer contains \"x\" if input.klient.ip == \"192.0.2.1\"\n"}, stage: bundles.StageCompile, want: []string{"s.rego:3"}},
		"no such place": {change: func(p *config.Policy) { p.Bundle += "/nowhere" }, stage: bundles.StageRead, want: []string{"no such file"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			putAll(t, dir, map[string]string{"p.rego": connectRule, "data.json": `{"blocked": ["192.0.2.1"]}`})
			putAll(t, dir, c.files)
			f := feedOf(t, dir, c.change)
			err := f.Watcher.Start(context.Background())
			r := f.Watcher.Refused()
			if err == nil || r == nil || r.Stage != c.stage {
				t.Fatalf("got %v, refused %+v, want %s", err, r, c.stage)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("got %v, want %s", err, w)
				}
			}
			if list := gate.Findings(r.Err); len(list) == 0 || len(list) > gate.MaxFindings+1 {
				t.Errorf("%d findings", len(list))
			}
			if f.engine.Policy() != nil {
				t.Error("it is active all the same")
			}
		})
	}
}

// TestGateRunsTestsOfTheBundleAlone: the operator's documents are none of the tests' business, and do not make them run again.
func TestGateRunsTestsOfTheBundleAlone(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "blocked.yaml")
	putAll(t, dir, map[string]string{"blocked.yaml": "blocked: [\"198.51.100.1\"]\n", "b/p.rego": connectRule, "b/data.json": `{"blocked": ["192.0.2.1"]}`,
		"b/p_test.rego": "package p_test\n\nimport data.postern.connect\n\ntest_a if connect.reject == {\"blocked\"} with input.client.ip as \"192.0.2.1\"\n"})
	f := feedOf(t, filepath.Join(dir, "b"), func(p *config.Policy) { p.Data = []string{data} })
	if err := f.Watcher.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	first, tested := f.engine.Policy(), f.own
	f.gate.Timeout = 0 // no test could pass any more
	putAll(t, dir, map[string]string{"blocked.yaml": "blocked: [\"203.0.113.1\"]\n"})
	if err := f.Watcher.Start(context.Background()); err != nil || f.engine.Policy() == first || f.own != tested {
		t.Errorf("a change of the documents alone: %v", err)
	}
	putAll(t, dir, map[string]string{"b/data.json": `{"blocked": ["192.0.2.1", "192.0.2.2"]}`})
	if err := f.Watcher.Start(context.Background()); err == nil || f.Watcher.Refused().Stage != bundles.StageTest {
		t.Errorf("the bundle's own data came in without its tests: %v", err)
	}
	off := feedOf(t, filepath.Join(dir, "b"), func(p *config.Policy) { p.Tests, p.TestTimeout = "off", 0 })
	if err := off.Watcher.Start(context.Background()); err != nil {
		t.Errorf("tests: off: %v", err)
	}
}

// TestTestsRunOnceABuild: a start with the bundle whose tests passed at the start before does not run them again, and one with another
// bundle does.
func TestTestsRunOnceABuild(t *testing.T) {
	dir := t.TempDir()
	putAll(t, dir, map[string]string{"b/p.rego": connectRule, "b/data.json": `{"blocked": ["192.0.2.1"]}`, "b/p_test.rego": "package p_test\n\ntest_a if true\n"})
	// start returns why the bundle was refused, although the copy serves then.
	start := func(change func(*Feed)) error {
		p := config.Default(dir).Policy
		p.Bundle, p.Timeout = filepath.Join(dir, "b"), 5*time.Second
		f, err := New(p, engine.Options{Timeout: p.Timeout}, filepath.Join(dir, "keep"), &engine.Engine{}, slog.New(slog.DiscardHandler), nil)
		if err != nil {
			t.Fatal(err)
		}
		if f.Watcher.Tester == "" || f.Watcher.Tester != f.gate.Tester() || f.Watcher.Patience != Patience {
			t.Errorf("tester %q, patience %v", f.Watcher.Tester, f.Watcher.Patience)
		}
		change(f)
		if err := f.Watcher.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		return f.Watcher.LastError()
	}
	hurry := func(f *Feed) { f.gate.Timeout = 0 } // no test can pass
	if err := start(func(*Feed) {}); err != nil {
		t.Fatal(err)
	}
	if err := start(hurry); err != nil {
		t.Errorf("the tests ran again: %v", err)
	}
	if err := start(func(f *Feed) { hurry(f); f.Watcher.Tester = "another build" }); err == nil || !strings.Contains(err.Error(), "did not end within") {
		t.Errorf("another build did not run the tests: %v", err)
	}
	putAll(t, dir, map[string]string{"b/p_test.rego": "package p_test\n\ntest_a if false\n"})
	if err := start(func(*Feed) {}); err == nil || !strings.Contains(err.Error(), "p_test.rego:3") {
		t.Errorf("a changed test did not run: %v", err)
	}
}

// TestCandidatesDoNotHoldUpTheStart: after the deadline the server starts without them.
func TestCandidatesDoNotHoldUpTheStart(t *testing.T) {
	dir := t.TempDir()
	putAll(t, dir, map[string]string{"b/p.rego": connectRule, "b/data.json": `{"blocked": []}`})
	cfg := config.Default(dir)
	cfg.Policy.Shadow = &config.Candidate{Bundle: filepath.Join(dir, "b")}
	var log bytes.Buffer
	c, err := NewCandidates(cfg, &engine.Engine{}, slog.New(slog.NewTextHandler(&log, nil)), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	c.Start(context.Background(), time.Now().Add(-time.Second))
	if h, _ := c.Health(); h.Revision != "" || !strings.Contains(log.String(), "candidate is not used yet") {
		t.Errorf("%+v\n%s", h, log.String())
	}
	c.Start(context.Background(), time.Now().Add(time.Minute))
	if h, _ := c.Health(); h.Revision == "" {
		t.Errorf("%+v\n%s", h, log.String())
	}
}

// TestGateGrownTable: a table of the operator's that has become too large for what the policy does with it is refused at the
// lint, with the place in the rules, and what was active stays.
func TestGateGrownTable(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "hosts.json")
	hosts := func(n int) string {
		all := map[string]string{}
		for i := range n {
			all[fmt.Sprintf("192.0.%d.%d", i/256, i%256)] = "host"
		}
		text, err := json.Marshal(map[string]any{"hosts": all})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	putAll(t, dir, map[string]string{"hosts.json": hosts(999),
		"b/p.rego": "package postern.connect\n\nreject contains \"x\" if {\n\tsome host, _ in data.hosts\n\thost == input.client.ip\n}\n"})
	f := feedOf(t, filepath.Join(dir, "b"), func(p *config.Policy) { p.Data = []string{data} })
	if err := f.Watcher.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	first := f.engine.Policy()
	putAll(t, dir, map[string]string{"hosts.json": hosts(1000)})
	err := f.Watcher.Start(context.Background())
	want := "p.rego:4:18: data.hosts has 1000 entries and is not read whole [large-table-read-whole]"
	if err == nil || !strings.Contains(err.Error(), want) || f.Watcher.Refused().Stage != bundles.StageLint || f.engine.Policy() != first {
		t.Errorf("got %v\nwant %s", err, want)
	}
	putAll(t, dir, map[string]string{"b/p.rego": "package postern.connect\n\nreject contains \"x\" if data.hosts[input.client.ip]\n"})
	if err := f.Watcher.Start(context.Background()); err != nil || f.engine.Policy() == first {
		t.Errorf("mended: %v", err)
	}
}

// TestDecideWhileReloading: with code and data changing all the time, some of them refused, each decision is whole and by a
// revision that passed.
func TestDecideWhileReloading(t *testing.T) {
	dir := t.TempDir()
	write := func(n int) {
		expected := n
		if n%3 == 0 && n > 0 {
			expected = -1 // its test fails
		}
		putAll(t, dir, map[string]string{
			".manifest":   fmt.Sprintf(`{"revision": "r%d"}`, n),
			"p.rego":      fmt.Sprintf("package postern.connect\n\nreject contains sprintf(\"%%d-%%d\", [%d, data.n]) if input.client.ip\n", n),
			"data.json":   fmt.Sprintf(`{"n": %d}`, n),
			"p_test.rego": fmt.Sprintf("package p_test\n\ntest_a if data.n == %d\n", expected),
		})
	}
	write(0)
	f := feedOf(t, dir, nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := f.Watcher.Start(ctx); err != nil {
		t.Fatal(err)
	}
	var wrong atomic.Pointer[string]
	var clients sync.WaitGroup
	decided := atomic.Int64{}
	for range 2 {
		clients.Go(func() {
			for ctx.Err() == nil {
				d := f.engine.Decide(ctx, &engine.Transaction{ID: "t", Stage: engine.StageConnect, Now: time.Now(), Client: engine.Client{IP: netip.AddrFrom4([4]byte{192, 0, 2, 1})}})
				decided.Add(1)
				var n int
				if _, err := fmt.Sscanf(d.Revision, "r%d", &n); ctx.Err() == nil && (err != nil || d.Err != nil || len(d.Reasons) != 1 || d.Reasons[0].Rule != fmt.Sprintf("%d-%d", n, n) || n%3 == 0 && n > 0) {
					text := fmt.Sprintf("%+v", d)
					wrong.Store(&text)
				}
			}
		})
	}
	refused := 0
	for n := 1; n <= 30; n++ {
		write(n)
		err := f.Watcher.Start(ctx)
		var r *bundles.Refusal
		if errors.As(err, &r) && r.Stage == bundles.StageTest {
			refused++
		} else if err != nil {
			t.Errorf("%d: %v", n, err)
		}
	}
	cancel()
	clients.Wait()
	if w := wrong.Load(); w != nil {
		t.Errorf("decided: %s", *w)
	}
	if refused != 10 || decided.Load() == 0 {
		t.Errorf("%d refused, %d decisions", refused, decided.Load())
	}
}
