package engine

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// beside is an engine with an active policy and a shadow that tells what it finds.
func beside(t *testing.T, active, candidate string) (*Engine, *bytes.Buffer, *prometheus.Registry) {
	t.Helper()
	var out bytes.Buffer
	r := prometheus.NewRegistry()
	e := &Engine{Shadow: &Shadow{Log: slog.New(slog.NewTextHandler(&out, nil)), Metrics: NewShadowMetrics(r)}}
	e.Swap(compile(t, nil, active))
	e.SwapShadow(compile(t, nil, candidate))
	return e, &out, r
}

// drain evaluates all that waits.
func drain(s *Shadow) {
	s.setup()
	for {
		select {
		case j := <-s.jobs:
			s.decide(context.Background(), &j)
		default:
			return
		}
	}
}

func TestShadow(t *testing.T) {
	const plain = "package postern.message\nreject contains \"tag\" if input.message.header[\"x-tag\"][0] == \"bad\""
	for name, c := range map[string]struct{ candidate, outcome, rule, log string }{
		"same":    {plain + "\nnote contains input.message.size", "same", "", ""},
		"verdict": {plain + "\nreject contains \"size\" if input.message.size > 10", "verdict", "+reject size", "candidate=reject"},
		"edits":   {plain + "\nedit contains {\"op\": \"add_header\", \"name\": \"X-New\", \"value\": \"1\"}", "edits", "", "kind=edits"},
		"error":   {plain + "\nedit contains {\"op\": input.message.header[\"x-tag\"][0]}", "error", "+error error.answer", "kind=error"},
		// The candidate reads what the active policy does not: it is built for it all the same.
		"facts":       {"package postern.message\nreject contains input.tls.cipher", "verdict", "+reject TLS_AES_128_GCM_SHA256", "TLS_AES"},
		"other stage": {"package postern.rcpt\nreject contains \"x\"", "same", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			e, out, r := beside(t, plain, c.candidate)
			d := e.Decide(context.Background(), submission(t))
			if d.Verdict != Accept || d.Edits.Len() != 0 || d.Err != nil {
				t.Fatalf("the live decision became %s", describe(d))
			}
			drain(e.Shadow)
			want := fmt.Sprintf("# TYPE postern_shadow_decisions_total counter\n# HELP postern_shadow_decisions_total Decisions of the shadow policy by stage and outcome: same, verdict, reply, edits, error.\npostern_shadow_decisions_total{outcome=%q,stage=\"message\"} 1\n", c.outcome)
			if err := testutil.GatherAndCompare(r, strings.NewReader(want), "postern_shadow_decisions_total"); err != nil {
				t.Error(err)
			}
			if !strings.Contains(out.String(), c.log) || c.outcome == "same" && out.Len() > 0 {
				t.Errorf("logged %q", out)
			}
			if c.rule != "" && testutil.ToFloat64(e.Shadow.Metrics.rules.WithLabelValues("message", c.rule)) != 1 {
				t.Errorf("rule %q was not counted; logged %s", c.rule, out)
			}
		})
	}
}

// A stage that only the candidate defines is evaluated as well.
func TestShadowOfAnUndefinedStage(t *testing.T) {
	e, _, _ := beside(t, "package postern.rcpt\nreject contains \"x\" if input.recipient.local == \"x\"", "package postern.message\nreject contains input.message.from[0].key")
	if !e.Policy().Needs().Message || !e.Policy().Needs().Header {
		t.Errorf("needs %+v lack what the candidate reads", e.Policy().Needs())
	}
	e.Decide(context.Background(), submission(t))
	drain(e.Shadow)
	if n := testutil.ToFloat64(e.Shadow.Metrics.rules.WithLabelValues("message", "+reject alice@example.com")); n != 1 {
		t.Errorf("counted %v", n)
	}
	e.SwapShadow(nil)
	if e.Policy().Needs().Message {
		t.Error("the needs of a shadow that is gone stay")
	}
}

// A decision that does not fit into the queue is dropped and counted, and its caller does not wait.
func TestShadowDrops(t *testing.T) {
	const policy = "package postern.message\nnote contains input.message.size"
	e, _, _ := beside(t, policy, policy)
	e.Shadow.Queue, e.Shadow.QueueOctets = 3, 1<<30
	for range 10 {
		e.Decide(context.Background(), submission(t))
	}
	if n := testutil.ToFloat64(e.Shadow.Metrics.dropped.WithLabelValues("queue")); n != 7 {
		t.Errorf("%v dropped, want 7", n)
	}
	drain(e.Shadow)
	noSize := submission(t)
	noSize.Message.Size = -1
	e.Decide(context.Background(), noSize)
	if n := testutil.ToFloat64(e.Shadow.Metrics.dropped.WithLabelValues("facts")); n != 1 {
		t.Errorf("%v dropped for facts, want 1", n)
	}
	e.Shadow.QueueOctets = 1
	e.Decide(context.Background(), submission(t))
	if n := testutil.ToFloat64(e.Shadow.Metrics.dropped.WithLabelValues("memory")); n != 1 {
		t.Errorf("%v dropped for memory, want 1", n)
	}
}

// Run ends with its context, and swapping goes on beside deciding.
func TestShadowRuns(t *testing.T) {
	const policy = "package postern.message\nreject contains \"size\" if input.message.size > 1000"
	e, _, r := beside(t, policy, policy)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { e.Shadow.Run(ctx); close(done) }()
	other := compile(t, nil, policy)
	for i := range 500 {
		e.Decide(context.Background(), submission(t))
		if i%50 == 0 {
			e.SwapShadow(other)
			e.Swap(compile(t, nil, policy))
		}
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		n, err := testutil.GatherAndCount(r, "postern_shadow_decisions_total")
		same := testutil.ToFloat64(e.Shadow.Metrics.decisions.WithLabelValues("message", "same"))
		if err == nil && n == 1 && same == 500 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v of 500 were decided", same)
		}
	}
	stop()
	<-done
}

func TestCanaryShareIsStable(t *testing.T) {
	small, large := &Canary{Share: 0.05}, &Canary{Share: 0.3}
	taken := 0
	for i := range 20_000 {
		identity := fmt.Sprintf("user%d@example.com", i)
		if small.takes(identity) {
			taken++
			if !large.takes(identity) {
				t.Fatalf("%s left the canary when its share grew", identity)
			}
		}
		if small.takes(identity) != (&Canary{Share: 0.05}).takes(identity) {
			t.Fatal("not stable")
		}
	}
	if taken < 800 || taken > 1200 {
		t.Errorf("%d of 20000 are on a canary of 5 %%", taken)
	}
	if (&Canary{}).takes("x") || !(&Canary{Share: 1}).takes("x") {
		t.Error("none and all are wrong")
	}
}

func TestCanaryFallsBack(t *testing.T) {
	const good = "package postern.message\nreject contains \"large\" if input.message.size > 1000"
	for name, c := range map[string]struct{ candidate, why string }{
		"good":    {good, ""},
		"fails":   {"package postern.message\nedit contains {\"op\": input.message.header[\"x-tag\"][0]}", "decisions failed"},
		"refuses": {"package postern.message\nreject contains \"small\" if input.message.size > 10", "it refused 100.00 %, the active policy 0.00 %"},
	} {
		t.Run(name, func(t *testing.T) {
			var why []string
			r := prometheus.NewRegistry()
			var e Engine
			e.Swap(compile(t, nil, good))
			canary := &Canary{Policy: compile(t, nil, c.candidate), Share: 0.5, MaxFailures: 0.01, MaxRefusals: 0.05, MinDecisions: 20,
				Metrics: NewCanaryMetrics(r), Fallback: func(reason string) { why = append(why, reason) }}
			e.SwapCanary(canary)
			for i := range 200 {
				tr := submission(t)
				tr.Policy = e.Pin(fmt.Sprint("user", i))
				e.Decide(context.Background(), tr)
			}
			fell := e.canary.Load() == nil
			if fell != (c.why != "") || len(why) > 1 || fell && !strings.Contains(why[0], c.why) {
				t.Errorf("fell back: %v, because %q", fell, why)
			}
			if fell && e.Pin("anybody") != e.Policy() {
				t.Error("somebody is still on it")
			}
			if got := testutil.ToFloat64(canary.Metrics.active); fell == (got != 0) {
				t.Errorf("postern_canary_share is %v", got)
			}
		})
	}
}

// BenchmarkShadow is what a shadow costs the live path: compare the two.
func BenchmarkShadow(b *testing.B) {
	const policy = "package postern.message\nreject contains \"size\" if input.message.size > 1000"
	for _, with := range []bool{false, true} {
		b.Run(fmt.Sprintf("shadow=%v", with), func(b *testing.B) {
			e := &Engine{Shadow: &Shadow{Metrics: NewShadowMetrics(nil)}}
			e.Swap(compile(b, nil, policy))
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			if with {
				e.SwapShadow(compile(b, nil, policy))
				go e.Shadow.Run(ctx)
			}
			tr := submission(b)
			var took []time.Duration
			for b.Loop() {
				begin := time.Now()
				e.Decide(ctx, tr)
				took = append(took, time.Since(begin))
				time.Sleep(200 * time.Microsecond) // mail comes one after the other; a full queue would drop, not wait
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "p99-µs")
		})
	}
}
