package engine

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-mail/postern/engine/contract"
)

// runaways are policies that never end in time, each for the transaction of the tests alone.
const (
	loops = guarded + `reject contains "x" if { _on; some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i * j == -1 }`
	walks = guarded + `_tree := [[[[[[[i | some i in numbers.range(1, 40)] | some j in numbers.range(1, 40)] | some k in numbers.range(1, 40)] | some l in numbers.range(1, 40)]]]]
reject contains "x" if { _on; walk(_tree, [_, v]); walk(_tree, [_, w]); v == w; v == "never" }`
	bomb = guarded + `_d(s) := concat("", [s, s, s, s, s, s, s, s])
reject contains "x" if {
	_on
	some i in numbers.range(1, 1000000)
	s := _d(_d(_d(_d(_d(_d(_d(sprintf("%16d", [i]))))))))
	contains(s, "y")
}`
)

func TestRunaway(t *testing.T) {
	for _, c := range []struct{ name, rego string }{{"loops", loops}, {"walks", walks}, {"string bomb", bomb}} {
		t.Run(c.name, func(t *testing.T) {
			p := compile(t, nil, c.rego, Options{Timeout: 100 * time.Millisecond})
			start := time.Now()
			d := decide(p, submission(t))
			took := time.Since(start)
			var e *EvalError
			if !errors.As(d.Err, &e) || e.Kind != kindTimeout {
				t.Errorf("error %v, want kind timeout", d.Err)
			}
			if got := describe(d); got != "defer 451 4.3.0 Temporary failure, try again later; error/error.timeout" {
				t.Error(got)
			}
			t.Logf("took %v", took)
			if took > 3*time.Second { // far from the target, for slow machines under the race detector
				t.Errorf("took %v", took)
			}
			// The process is unharmed: the same policy goes on deciding.
			other := submission(t)
			other.ID = "t2"
			if d := decide(p, other); d.Verdict != Accept && !strings.Contains(d.Err.Error(), kindTimeout) {
				t.Errorf("afterwards: %s %v", describe(d), d.Err)
			}
		})
	}
}

func TestCallerLeaves(t *testing.T) {
	p := compile(t, nil, loops, Options{Timeout: time.Minute})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	var e Engine
	e.Swap(p)
	if d := e.Decide(ctx, submission(t)); d.Reasons[0].Rule != "error.timeout" {
		t.Error(describe(d))
	}
	if d := e.Decide(ctx, submission(t)); d.Reasons[0].Rule != "error.timeout" {
		t.Errorf("context that is over already: %s", describe(d))
	}
}

// stuck compiles a policy with a builtin of the test, which OPA's own builtins stand for that do not heed cancellation
// or panic.
func stuck(t *testing.T, body func() (*ast.Term, error)) *Policy {
	t.Helper()
	p := compile(t, nil, guarded+`reject contains "x" if _on`, Options{Timeout: 20 * time.Millisecond})
	decl := &rego.Function{Name: "test.stuck", Decl: types.NewFunction(nil, types.B)}
	caps := contract.Capabilities(nil)
	caps.Builtins = append(caps.Builtins, &ast.Builtin{Name: decl.Name, Decl: decl.Decl})
	c := ast.NewCompiler().WithCapabilities(caps)
	c.Compile(map[string]*ast.Module{"p.rego": ast.MustParseModule("package postern.message\nreject contains \"x\" if test.stuck()")})
	if c.Failed() {
		t.Fatal(c.Errors)
	}
	p.compiler = c
	st := p.stages[StageMessage]
	st.qc = c.QueryCompiler()
	query, err := st.qc.Compile(ast.MustParseBody("reject = data.postern.message.reject"))
	if err != nil {
		t.Fatal(err)
	}
	st.query = query
	st.builtins = map[string]*topdown.Builtin{decl.Name: {
		Decl: &ast.Builtin{Name: decl.Name, Decl: decl.Decl},
		Func: func(_ topdown.BuiltinContext, _ []*ast.Term, iter func(*ast.Term) error) error {
			v, err := body()
			if err != nil {
				return err
			}
			return iter(v)
		},
	}}
	return p
}

func TestPanicInside(t *testing.T) {
	p := stuck(t, func() (*ast.Term, error) { panic("builtin of doom") })
	d := decide(p, submission(t))
	if d.Verdict != Defer || d.Reasons[0].Rule != "error.panic" || !strings.Contains(d.Err.Error(), "builtin of doom") {
		t.Errorf("%s, %v", describe(d), d.Err)
	}
	if got := strings.Join(d.Reply.Lines(), ""); got != "Temporary failure, try again later" {
		t.Errorf("the client is told %q", got)
	}
}

// TestAbandoned: evaluations that do not stop count for their client until they end. Its next decision waits for its turn and is
// told so, while others are decided at once.
func TestAbandoned(t *testing.T) {
	release := make(chan struct{})
	p := stuck(t, func() (*ast.Term, error) { <-release; return ast.BooleanTerm(true), nil })
	reg := prometheus.NewRegistry()
	e := &Engine{MaxWait: 50 * time.Millisecond, Metrics: NewMetrics(reg)}
	e.admission.slots = 4
	e.Swap(p)
	quick := compile(t, nil, "package postern.message\nreject contains \"x\" if input.id == \"\"")
	of := func(login string, p *Policy) *Transaction {
		tr := submission(t)
		tr.Auth, tr.Policy = &Auth{Login: login}, p
		return tr
	}
	for _, login := range []string{"a", "b", "c", "d", "e"} { // ten evaluations, two more than give their slots back
		for range 2 {
			if d := e.Decide(context.Background(), of(login, p)); d.Reasons[0].Rule != "error.timeout" {
				t.Fatalf("%s: %s", login, describe(d))
			}
		}
		d := e.Decide(context.Background(), of(login, quick))
		if got := describe(d); got != "defer 451 4.3.2 The system is busy, try again later; error/error.busy" || d.Wait < e.MaxWait || d.Latency != 0 {
			t.Errorf("%s has two abandoned: %s after %v", login, got, d.Wait)
		}
		if d := e.Decide(context.Background(), of("alice", quick)); d.Verdict != Accept || d.Wait != 0 {
			t.Errorf("another client beside the runaways of %s: %s after %v", login, describe(d), d.Wait)
		}
	}
	if got := e.admission.free(); got != 2 {
		t.Errorf("%d slots are free beside 10 abandoned evaluations", got)
	}
	close(release)
	until(t, "abandoned evaluations to end", func() bool {
		e.admission.mu.Lock()
		defer e.admission.mu.Unlock()
		return p.workers.abandoned.Load() == 0 && len(e.admission.clients) == 0 && e.admission.free() == 4
	})
	if d := e.Decide(context.Background(), of("a", p)); d.Err != nil {
		t.Errorf("after they ended: %s", describe(d))
	}
	for kind, want := range map[string]float64{"busy": 5, "timeout": 10} {
		if got := testutil.ToFloat64(e.Metrics.errors.WithLabelValues(kind)); got != want {
			t.Errorf("%v decisions of kind %s are counted, want %v", got, kind, want)
		}
	}
	if w, s := samples(t, reg, "postern_decision_wait_seconds"), samples(t, reg, "postern_decision_seconds"); w != 21 || s != 16 {
		t.Errorf("%d waits and %d times of decisions are counted, want 21 and 16", w, s)
	}
}

// samples returns how often a histogram of one series was observed.
func samples(t *testing.T, reg *prometheus.Registry, name string) uint64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.GetName() == name {
			return m.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	return 0
}

// TestAbandonedOffline: a replay gives up when too many evaluations run on, because nothing else bounds them there.
func TestAbandonedOffline(t *testing.T) {
	release := make(chan struct{})
	p := stuck(t, func() (*ast.Term, error) { <-release; return ast.BooleanTerm(true), nil })
	in, _ := p.input(submission(t), p.stages[StageMessage].build, nil)
	l := NewLogged(StageMessage, in, nil, nil)
	for i := range maxAbandoned {
		if d := p.DecideLogged(context.Background(), l); d.Reasons[0].Rule != "error.timeout" {
			t.Fatalf("decision %d: %s", i, describe(d))
		}
	}
	if d := p.DecideLogged(context.Background(), l); d.Reasons[0].Rule != "error.busy" {
		t.Errorf("with %d abandoned: %s", maxAbandoned, describe(d))
	}
	close(release)
	until(t, "abandoned evaluations to end", func() bool { return p.workers.abandoned.Load() == 0 })
}

// TestTimeCounts: the time of an evaluation counts from when it begins, not from when its caller asked; a caller that gives up is
// not called a time-out of the policy.
func TestTimeCounts(t *testing.T) {
	var e Engine
	e.admission.slots, e.admission.each = 1, 1
	release := make(chan struct{})
	e.Swap(stuck(t, func() (*ast.Term, error) { <-release; return ast.BooleanTerm(true), nil }))
	p := compile(t, nil, guarded+`reject contains "x" if _on`, Options{Timeout: 200 * time.Millisecond})
	first, second := submission(t), submission(t)
	second.Policy = p
	busy, _, _ := e.admission.enter(context.Background(), clientKey{login: "other"}, time.Hour)
	done := make(chan Decision, 1)
	go func() { done <- e.Decide(context.Background(), second) }()
	time.Sleep(300 * time.Millisecond) // longer than the policy may take
	busy.leave()
	if d := <-done; d.Verdict != Reject || d.Err != nil || d.Wait < 200*time.Millisecond || d.Latency > d.Wait {
		t.Errorf("after %v of waiting: %s, %v", d.Wait, describe(d), d.Err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(5*time.Millisecond, func() { cancel(errors.New("client left")) })
	if d := e.Decide(ctx, first); d.Reasons[0].Rule != "error.timeout" || !strings.Contains(d.Err.Error(), "client left") {
		t.Errorf("a client that leaves: %s, %v", describe(d), d.Err)
	}
	close(release)
}

// TestWorkersEnd: no goroutine outlives its Policy.
func TestWorkersEnd(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		p := compile(t, nil, guarded+`reject contains "x" if _on`)
		for range 20 {
			decide(p, submission(t))
		}
	}()
	until(t, "workers to end", func() bool { runtime.GC(); return runtime.NumGoroutine() <= before })
}

// until a condition holds, or fail after a generous time.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 1000 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited in vain for %s", what)
}
