package engine

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// Shadow lets a candidate decide live transactions without effect. The active policy's decision is made, recorded and returned
// first. The candidate then gets the same input through a bounded queue; a decision that does not fit is dropped and counted.
// Differences go into the log, and into metrics by rule.
//
// Engine.SwapShadow sets the candidate. Run evaluates, on the caller's goroutine. One Shadow serves all candidates of a process.
type Shadow struct {
	// Log gets the differences, at most ten a second; nil: they are not logged.
	Log *slog.Logger
	// Metrics count; nil: nothing is counted.
	Metrics *ShadowMetrics
	// Queue is the number of decisions that may wait; 0: 1000.
	Queue int
	// QueueOctets limits the memory of the inputs that wait, about, in bytes; 0: 64 MiB.
	QueueOctets int64

	once    sync.Once
	jobs    chan shadowJob
	waiting atomic.Int64 // octets in jobs
	limit   *rate.Limiter

	admission admission // of the candidate, so that it takes no slots of live decisions
}

// shadowJob is one live decision for the candidate to repeat.
type shadowJob struct {
	candidate *Policy
	t         Transaction // without what belongs to the front end
	input     *Input
	live      Decision
}

// octets returns about how much memory the job takes.
func (j *shadowJob) octets() int64 { return int64(j.input.Octets()) + 1024 }

func (s *Shadow) setup() {
	s.once.Do(func() {
		if s.Queue <= 0 {
			s.Queue = 1000
		}
		if s.QueueOctets <= 0 {
			s.QueueOctets = 64 << 20
		}
		if s.Log == nil {
			s.Log = slog.New(slog.DiscardHandler)
		}
		s.jobs = make(chan shadowJob, s.Queue)
		s.limit = rate.NewLimiter(10, 10)
		s.admission.slots, s.admission.each = 1, 1
	})
}

// offer queues a live decision, or drops it. It never waits.
func (s *Shadow) offer(candidate *Policy, t *Transaction, in *Input, live *Decision) {
	s.setup()
	octets := (&shadowJob{input: in}).octets()
	if s.waiting.Add(octets) > s.QueueOctets {
		s.waiting.Add(-octets)
		s.Metrics.drop("memory")
		return
	}
	j := shadowJob{candidate: candidate, input: in, live: *live, t: Transaction{
		ID: t.ID, Stage: t.Stage, Now: t.Now, Auth: t.Auth, Failure: t.Failure,
	}}
	if t.Envelope != nil {
		j.t.Envelope = &Envelope{FromParams: t.Envelope.FromParams}
	}
	select {
	case s.jobs <- j:
	default:
		s.waiting.Add(-octets)
		s.Metrics.drop("queue")
	}
}

// Run evaluates until ctx ends. It uses one goroutine, the caller's, so that a candidate takes at most one core from live decisions.
// While an evaluation that was abandoned at its deadline runs on, it waits.
func (s *Shadow) Run(ctx context.Context) {
	s.setup()
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-s.jobs:
			s.decide(ctx, &j)
			s.waiting.Add(-j.octets())
		}
	}
}

// decide lets the candidate decide and compares the decisions.
func (s *Shadow) decide(ctx context.Context, j *shadowJob) {
	defer func() {
		if r := recover(); r != nil {
			s.Log.Error("panic in a shadow decision", "id", j.t.ID, "panic", r, "stack", string(debug.Stack()))
		}
	}()
	d := Decision{Verdict: Accept, Stage: j.t.Stage, Revision: j.candidate.revision}
	if st := j.candidate.stages[j.t.Stage]; st != nil {
		own, _, fail := s.admission.enter(ctx, clientKey{}, math.MaxInt64)
		if fail != nil { // ctx has ended
			return
		}
		defer own.leave()
		d = j.candidate.decideInput(ctx, &j.t, evaluation{stage: st, input: j.input.value, limit: j.candidate.timeout, ticket: &own})
	}
	if ctx.Err() != nil { // the evaluation ended because ctx did
		return
	}
	kind := differs(&j.live, &d)
	s.Metrics.observe(j.t.Stage, kind)
	if kind == "" {
		return
	}
	rules := ruleDifference(&j.live, &d)
	s.Metrics.count(j.t.Stage, rules)
	if !s.limit.Allow() {
		return
	}
	fields := []any{"id", j.t.ID, "stage", j.t.Stage.String(), "kind", kind, "active", j.live.Verdict.String(), "candidate", d.Verdict.String(),
		"rules", rules, "revision", j.live.Revision, "candidate_revision", d.Revision}
	if j.t.Auth != nil {
		fields = append(fields, "login", j.t.Auth.Login)
	}
	if !d.Reply.IsZero() {
		fields = append(fields, "reply", d.Reply.String())
	}
	if d.Err != nil {
		fields = append(fields, "error", d.Err)
	}
	s.Log.Info("shadow policy differs", fields...)
}

// differs returns the first difference that a client would notice: "error", "verdict", "reply", "edits", or "" if there is none.
func differs(live, candidate *Decision) string {
	switch {
	case (live.Err == nil) != (candidate.Err == nil):
		return "error"
	case live.Verdict != candidate.Verdict:
		return "verdict"
	case live.Reply.String() != candidate.Reply.String():
		return "reply"
	case live.Edits.Len() != candidate.Edits.Len():
		return "edits"
	}
	for i := range live.Edits.Len() {
		if live.Edits.At(i) != candidate.Edits.At(i) {
			return "edits"
		}
	}
	return ""
}

// ruleDifference returns the rules that fired for only one of the two: "+rule" for the candidate, "-rule" for the active policy.
func ruleDifference(live, candidate *Decision) []string {
	names := func(d *Decision) map[string]bool {
		m := map[string]bool{}
		for _, r := range d.Reasons {
			m[r.Set+" "+r.Rule] = true
		}
		return m
	}
	was, is := names(live), names(candidate)
	var out []string
	for n := range was {
		if !is[n] {
			out = append(out, "-"+n)
		}
	}
	for n := range is {
		if !was[n] {
			out = append(out, "+"+n)
		}
	}
	slices.Sort(out)
	if len(out) > 20 {
		out = append(out[:20:20], fmt.Sprintf("and %d more", len(out)-20))
	}
	return out
}

// ShadowMetrics count the decisions of a Shadow. A nil *ShadowMetrics counts nothing.
type ShadowMetrics struct {
	decisions *prometheus.CounterVec
	rules     *prometheus.CounterVec
	dropped   *prometheus.CounterVec

	mu    sync.Mutex
	known map[string]bool // labels of rules, at most maxRuleLabels
}

// maxRuleLabels limits the rules that have a time series of their own, because a policy can compute the names of its rules.
const maxRuleLabels = 500

// NewShadowMetrics registers postern_shadow_decisions_total, postern_shadow_differences_total and postern_shadow_dropped_total.
func NewShadowMetrics(r prometheus.Registerer) *ShadowMetrics {
	m := &ShadowMetrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_shadow_decisions_total", Help: "Decisions of the shadow policy by stage and outcome: same, verdict, reply, edits, error.",
		}, []string{"stage", "outcome"}),
		rules: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_shadow_differences_total", Help: "contract.Rules that fired for the shadow policy only (+) or for the active one only (-), where the outcomes differ.",
		}, []string{"stage", "rule"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_shadow_dropped_total", Help: "Decisions that the shadow policy did not take: its queue was full or held too much memory, or the front end lacked facts.",
		}, []string{"reason"}),
		known: map[string]bool{},
	}
	if r != nil {
		r.MustRegister(m.decisions, m.rules, m.dropped)
	}
	return m
}

func (m *ShadowMetrics) drop(reason string) {
	if m != nil {
		m.dropped.WithLabelValues(reason).Inc()
	}
}

func (m *ShadowMetrics) observe(s Stage, kind string) {
	if m == nil {
		return
	}
	if kind == "" {
		kind = "same"
	}
	m.decisions.WithLabelValues(s.String(), kind).Inc()
}

func (m *ShadowMetrics) count(s Stage, rules []string) {
	if m == nil {
		return
	}
	for _, r := range rules {
		m.rules.WithLabelValues(s.String(), m.label(r)).Inc()
	}
}

func (m *ShadowMetrics) label(rule string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.known[rule] {
		if len(m.known) >= maxRuleLabels {
			return "other"
		}
		m.known[rule] = true
	}
	return rule
}
