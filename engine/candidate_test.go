package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
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

// TestShadowNoticesWhatTheClientWould: each difference that a client would notice has its kind, and nothing else is a difference.
func TestShadowNoticesWhatTheClientWould(t *testing.T) {
	edits := func(value string) string {
		return fmt.Sprintf("package postern.message\nedit contains {\"op\": \"add_header\", \"name\": \"X-New\", \"value\": %q} if input.id == \"t1\"", value)
	}
	reply := func(set, code, status, text string) string {
		return fmt.Sprintf("package postern.message\n%s contains {\"rule\": \"r\", \"code\": %s, \"status\": %q, \"message\": %q} if input.message.size > 0", set, code, status, text)
	}
	for name, c := range map[string]struct{ active, candidate, kind, log string }{
		"same":           {reply("reject", "550", "5.7.1", "No"), reply("reject", "550", "5.7.1", "No"), "same", ""},
		"code":           {reply("reject", "550", "5.7.1", "No"), reply("reject", "554", "5.7.1", "No"), "reply", `reply="554 5.7.1 No"`},
		"status":         {reply("reject", "550", "5.7.1", "No"), reply("reject", "550", "5.7.0", "No"), "reply", `reply="550 5.7.0 No"`},
		"text":           {reply("defer", "451", "4.7.1", "Later"), reply("defer", "451", "4.7.1", "Not now"), "reply", `reply="451 4.7.1 Not now"`},
		"verdict":        {reply("reject", "550", "5.7.1", "No"), reply("defer", "451", "4.7.1", "No"), "verdict", "candidate=defer"},
		"value of edit":  {edits("1"), edits("2"), "edits", "kind=edits"},
		"no edit":        {edits("1"), "package postern.message\nnote contains input.message.size", "edits", "kind=edits"},
		"both fail":      {"package postern.message\nedit contains {\"op\": input.message.header[\"x-tag\"][0]}", "package postern.message\nedit contains {\"op\": input.message.header[\"x-tag\"][0], \"x\": 1}", "same", ""},
		"8-bit edit":     {edits("\u00e9"), edits("\u00e9") + "\nnote contains 1", "same", ""},
		"same edit":      {edits("1"), edits("1") + "\nnote contains 1", "same", ""},
		"only candidate": {"package postern.message\nnote contains input.message.size", reply("reject", "550", "5.7.1", "No"), "verdict", `reply="550 5.7.1 No"`},
	} {
		e, out, _ := beside(t, c.active, c.candidate)
		tr := submission(t)
		tr.Failure, tr.Envelope.FromParams = Reject, map[string]string{"SMTPUTF8": ""}
		e.Decide(context.Background(), tr)
		drain(e.Shadow)
		if n := testutil.ToFloat64(e.Shadow.Metrics.decisions.WithLabelValues("message", c.kind)); n != 1 {
			t.Errorf("%s: no outcome %s; logged %q", name, c.kind, out)
		}
		if !strings.Contains(out.String(), c.log) || (c.kind == "same") != (out.Len() == 0) {
			t.Errorf("%s: logged %q", name, out)
		}
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
	job := <-e.Shadow.jobs
	if got, want := e.Shadow.waiting.Load(), 3*job.octets(); got != want {
		t.Errorf("%d octets wait, want %d", got, want)
	}
	drain(e.Shadow)
	noSize := submission(t)
	noSize.Message.Size = -1
	e.Decide(context.Background(), noSize)
	if n := testutil.ToFloat64(e.Shadow.Metrics.dropped.WithLabelValues("facts")); n != 1 {
		t.Errorf("%v dropped for facts, want 1", n)
	}
	e.Shadow.QueueOctets = 1
	before := e.Shadow.waiting.Load()
	e.Decide(context.Background(), submission(t))
	if now := e.Shadow.waiting.Load(); now != before {
		t.Errorf("a decision that was dropped holds %d octets", now-before)
	}
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
	if n := e.Shadow.waiting.Load(); n != 0 {
		t.Errorf("%d octets still wait", n)
	}
}

// TestShadowIsBounded: rules in one line of the log, lines in a second, and rules with a time series of their own.
func TestShadowIsBounded(t *testing.T) {
	many := "package postern.message\nreject contains sprintf(\"rule %d\", [n]) if some n in numbers.range(1, 30)"
	e, out, _ := beside(t, "package postern.message\nnote contains input.message.size", many)
	for range 50 {
		e.Decide(context.Background(), submission(t))
	}
	drain(e.Shadow)
	line, _, _ := strings.Cut(out.String(), "\n")
	if !strings.Contains(line, "and ") || strings.Count(line, "+reject") != 20 {
		t.Errorf("the line is %s", line)
	}
	if n := strings.Count(out.String(), "\n"); n < 10 || n > 30 {
		t.Errorf("%d lines at once", n)
	}
	m := NewShadowMetrics(nil)
	for i := range maxRuleLabels {
		if l := fmt.Sprint("rule", i); m.label(l) != l {
			t.Fatalf("%s has no label", l)
		}
	}
	if m.label("one more") != "other" || m.label("rule0") != "rule0" {
		t.Error("the labels are not bounded")
	}
}

// A decision that ended because the program stops is no difference.
func TestShadowStops(t *testing.T) {
	e, out, _ := beside(t, "package postern.message\nnote contains input.message.size", "package postern.message\nnote contains input.message.size")
	e.Decide(context.Background(), submission(t))
	ctx, stop := context.WithCancel(context.Background())
	stop()
	j := <-e.Shadow.jobs
	e.Shadow.decide(ctx, &j)
	if n := testutil.CollectAndCount(e.Shadow.Metrics.decisions); n != 0 || out.Len() > 0 {
		t.Errorf("it was counted %d times, and logged %q", n, out)
	}
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

// TestCanaryDecidesForItsShare: of many logins, the candidate decides for its share and the active policy for the others, and always
// the same one for each login.
func TestCanaryDecidesForItsShare(t *testing.T) {
	const note = "package postern.message\nnote contains %q if input.message.size > 0"
	for _, share := range []float64{0.05, 0.5, 0.95} {
		var e Engine
		e.Swap(compile(t, nil, fmt.Sprintf(note, "active")))
		candidate := compile(t, nil, fmt.Sprintf(note, "candidate"))
		e.SwapCanary(&Canary{Policy: candidate, Share: share})
		const logins = 2000
		by, sides := map[string]int{}, map[string]*Policy{}
		for i := range logins {
			login := fmt.Sprintf("user%d@example.com", i)
			sides[login] = e.Pin(login)
			tr := loggedIn(t, login)
			tr.Policy = sides[login]
			by[fmt.Sprint(e.Decide(context.Background(), tr).Notes)]++
		}
		if got := float64(by["[candidate]"]) / logins; got < share-0.02 || got > share+0.02 || len(by) != 2 {
			t.Errorf("share %v: the candidate decided for %v of the logins; decisions: %v", share, got, by)
		}
		for login, side := range sides {
			if e.Pin(login) != side {
				t.Fatalf("share %v: %s changes sides", share, login)
			}
		}
	}
}

func loggedIn(t testing.TB, login string) *Transaction {
	tr := submission(t)
	auth := *tr.Auth
	auth.Login = login
	tr.Auth = &auth
	return tr
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
			var took int // decisions of the candidate
			for i := range 200 {
				login := fmt.Sprint("user", i)
				tr := loggedIn(t, login)
				if tr.Policy = e.Pin(login); tr.Policy == canary.Policy {
					took++
				}
				e.Decide(context.Background(), tr)
			}
			fell := e.canary.Load() == nil
			if fell != (c.why != "") || len(why) > 1 || fell && !strings.Contains(why[0], c.why) {
				t.Errorf("fell back: %v, because %q", fell, why)
			}
			if fell && (took != 20 || e.Pin("anybody") != e.Policy()) {
				t.Errorf("it decided %d times, want 20; %v", took, e.Pin("anybody") != e.Policy())
			}
			if got := testutil.ToFloat64(canary.Metrics.active); fell == (got != 0) {
				t.Errorf("postern_canary_share is %v", got)
			}
		})
	}
}

// canaryDecisions gives a Canary n decisions for a login, of which the last bad are d.
func canaryDecisions(t testing.TB, c *Canary, login string, now time.Time, candidate bool, n, bad int, d Decision) (reason string) {
	tr := loggedIn(t, login)
	tr.Now = now
	for i := range n {
		made := Decision{Verdict: Accept}
		if i >= n-bad {
			made = d
		}
		if why := c.observe(tr, &made, candidate); why != "" {
			reason = why
		}
	}
	return reason
}

var (
	refused = Decision{Verdict: Reject}
	failed  = Decision{Verdict: Defer, Err: errors.New("failed")}
	aTime   = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
)

// TestCanaryOutlivesOneLogin: what one or two logins do, however often, does not take the candidate off, whether it is refused or makes
// the candidate fail. A third one does, where there are few; among many, as many as the bounds say.
func TestCanaryOutlivesOneLogin(t *testing.T) {
	for name, bad := range map[string]Decision{"refusals": refused, "deferrals": {Verdict: Defer}, "failures": failed} {
		c := &Canary{MaxFailures: 0.01, MaxRefusals: 0.05}
		for i := range 10 {
			canaryDecisions(t, c, fmt.Sprint("good", i), aTime, true, 5, 0, bad)
			canaryDecisions(t, c, fmt.Sprint("other", i), aTime, false, 5, 0, bad)
		}
		for _, login := range []string{"mallory", "marvin"} {
			if why := canaryDecisions(t, c, login, aTime, true, 1000, 1000, bad); why != "" {
				t.Errorf("%s of %s took it off: %s", name, login, why)
			}
		}
		if why := canaryDecisions(t, c, "third", aTime, true, 1, 1, bad); why == "" {
			t.Errorf("%s of three logins did not take it off", name)
		}
		if why := canaryDecisions(t, c, "third", aTime, true, 10, 10, bad); why != "" {
			t.Errorf("it is taken off twice: %s", why)
		}
	}
	// A third one who is refused once in a hundred times is not enough: the two who fare worst are left out, not others.
	c := &Canary{MaxRefusals: 0.05}
	for i := range 10 {
		canaryDecisions(t, c, fmt.Sprint("good", i), aTime, true, 5, 0, refused)
	}
	for login, bad := range map[string]int{"third": 1, "mallory": 100, "marvin": 100} {
		if why := canaryDecisions(t, c, login, aTime, true, 100, bad, refused); why != "" {
			t.Errorf("%s took it off: %s", login, why)
		}
	}
	// Nor does one login take the candidate off where nobody else is on it.
	c = &Canary{}
	if why := canaryDecisions(t, c, "mallory", aTime, true, 1000, 1000, refused); why != "" {
		t.Error(why)
	}
}

// TestCanaryIsJudgedAfterEnough: by default, after a hundred decisions; and not by the stage connect, in which it decides nothing.
func TestCanaryIsJudgedAfterEnough(t *testing.T) {
	c := &Canary{}
	for n, login := range []string{"a", "b", "c"} {
		if why := canaryDecisions(t, c, login, aTime, true, 33, 33, failed); why != "" {
			t.Errorf("after %d decisions: %s", 33*(n+1), why)
		}
	}
	if canaryDecisions(t, c, "a", aTime, true, 1, 1, failed) == "" {
		t.Error("it is not judged after a hundred decisions")
	}

	var e Engine
	e.Swap(compile(t, nil, "package postern.connect\nreject contains \"x\" if input.client.ip"))
	c = &Canary{Policy: e.Policy(), Share: 1}
	e.SwapCanary(c)
	tr := submission(t)
	tr.Stage = StageConnect
	e.Decide(context.Background(), tr)
	if c.candidate.decisions+c.active.decisions != 0 {
		t.Error("a decision at the stage connect is counted")
	}
}

// TestCanaryWeighsLoginsAlike: a login that sends a thousand times weighs as one that sends ten times, on both sides.
func TestCanaryWeighsLoginsAlike(t *testing.T) {
	c := &Canary{MaxRefusals: 0.1, MinIdentities: 1}
	canaryDecisions(t, c, "much", aTime, true, 1000, 0, refused)
	for i := range 4 { // the active policy refuses a quarter for each of four, and nothing for one who sends much
		canaryDecisions(t, c, fmt.Sprint("usual", i), aTime, false, 8, 2, refused)
	}
	canaryDecisions(t, c, "much, active", aTime, false, 1000, 0, refused)
	if why := canaryDecisions(t, c, "half", aTime, true, 100, 50, refused); why != "" { // (0 + 1/2)/2 is 5 points above (4/4)/5 = 20 %
		t.Error(why)
	}
	if why := canaryDecisions(t, c, "all", aTime, true, 10, 10, refused); !strings.Contains(why, "it refused 50.00 %, the active policy 20.00 %") {
		t.Errorf("it stays: %q", why)
	}
}

// TestCanaryIdentityWithoutLogin: clients without a login are weighed by network.
func TestCanaryIdentityWithoutLogin(t *testing.T) {
	c := &Canary{MaxRefusals: 0.05, MinDecisions: 1}
	from := func(ip string) string {
		tr := submission(t)
		tr.Auth, tr.Client.IP, tr.Now = nil, netip.MustParseAddr(ip), aTime
		return c.observe(tr, &refused, true)
	}
	for _, ip := range []string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::ffff:4", "192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1"} {
		if why := from(ip); why != "" {
			t.Fatalf("%s took it off: %s", ip, why)
		}
	}
	if from("192.0.2.2") == "" {
		t.Error("three networks did not take it off")
	}
}

// TestCanaryWindow: after an hour, or with a clock that jumped, everybody begins anew, unless there was too little to judge by.
func TestCanaryWindow(t *testing.T) {
	for name, tc := range map[string]struct {
		between time.Duration
		logins  int // on the candidate in the first window
		off     bool
	}{
		"within":            {59 * time.Minute, 3, true},
		"after":             {time.Hour, 3, false},
		"jump back":         {-time.Hour, 3, false},
		"too few to judge":  {time.Hour, 2, true},
		"longer and longer": {30 * time.Hour, 2, true},
	} {
		c := &Canary{MaxRefusals: 0.05, MinDecisions: 10}
		why := ""
		for i := range tc.logins {
			bad := 5 * max(0, 2-i)
			why += canaryDecisions(t, c, fmt.Sprint("user", i), aTime, true, 5, bad, refused)
		}
		why += canaryDecisions(t, c, "last", aTime.Add(tc.between), true, 5, 5, refused)
		if (why != "") != tc.off {
			t.Errorf("%s: taken off because %q", name, why)
		}
	}
}

// TestCanaryWindowForgets: nothing of the window before counts in the next one, on neither side.
func TestCanaryWindowForgets(t *testing.T) {
	c := &Canary{MaxRefusals: 0.05, MinDecisions: 10}
	for _, login := range []string{"a", "b", "c"} {
		canaryDecisions(t, c, login, aTime, true, 1000, 0, refused)
		canaryDecisions(t, c, login, aTime, false, 10, 10, refused)
	}
	why := ""
	for _, login := range []string{"a", "b", "c"} {
		why += canaryDecisions(t, c, login, aTime.Add(2*time.Hour), true, 4, 4, refused)
	}
	if !strings.Contains(why, "it refused 100.00 %, the active policy 0.00 %") {
		t.Errorf("it stays: %q", why)
	}
}

// TestCanaryIsBounded: it weighs a bounded number of identities, and judging them costs little for each decision.
func TestCanaryIsBounded(t *testing.T) {
	c := &Canary{MaxRefusals: 1, MaxFailures: 1}
	for i := range maxIdentities + 500 {
		canaryDecisions(t, c, fmt.Sprint("user", i), aTime, true, 1, 1, refused)
		canaryDecisions(t, c, fmt.Sprint("user", i), aTime, false, 1, 1, refused)
	}
	if a, b := len(c.candidate.identities), len(c.active.identities); a != maxIdentities || b != maxIdentities {
		t.Errorf("%d and %d identities", a, b)
	}
	judged, last := 0, c.judged
	for range 4 * maxIdentities {
		canaryDecisions(t, c, "mallory", aTime, true, 1, 1, refused)
		if c.judged != last {
			judged, last = judged+1, c.judged
		}
	}
	if judged != 40 {
		t.Errorf("it was judged %d times in %d decisions, want 40", judged, 4*maxIdentities)
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
