package engine

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Engine decides transactions by the active Policy, and by candidates for its place. Its zero value defers everything.
type Engine struct {
	// Recorder receives every decision; nil: none. Set it before the first Decide.
	Recorder Recorder
	// Metrics count decisions; nil: nothing is counted. Set it before the first Decide.
	Metrics *Metrics
	// Shadow evaluates the shadow candidate; nil: there can be none. Set it before the first Decide.
	Shadow *Shadow
	// MaxWait bounds how long a decision waits for its turn when many are to be made; 0: DefaultMaxWait. Set it before the first Decide.
	MaxWait time.Duration

	admission admission

	active atomic.Pointer[Policy] // with the shadow candidate in it
	canary atomic.Pointer[Canary]

	mu     sync.Mutex // held while the active policy or the shadow candidate is replaced
	shadow *Policy
}

// Policy returns the active policy; nil before the first Swap.
func (e *Engine) Policy() *Policy { return e.active.Load() }

// Pin returns the policy that decides a transaction of an identity from MAIL to its end: the canary candidate if the identity is
// in its share, and otherwise the active policy. The identity is the login or, without one, the client's address.
func (e *Engine) Pin(identity string) *Policy {
	if c := e.canary.Load(); c != nil && c.takes(identity) {
		return c.Policy
	}
	return e.Policy()
}

// Needs returns what the active policy and the candidates need together, for a front end that does not know yet whose transaction
// comes; false if no policy is active.
func (e *Engine) Needs() (Needs, bool) {
	p := e.Policy()
	if p == nil {
		return Needs{}, false
	}
	n := p.Needs()
	if c := e.canary.Load(); c != nil {
		n = n.union(c.Policy.needs)
	}
	return n, true
}

// Swap makes p the active policy and returns the one before.
func (e *Engine) Swap(p *Policy) *Policy {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.active.Swap(p.withShadow(e.shadow))
}

// SwapShadow makes p the shadow candidate, which decides every transaction after the active policy and without effect; nil: none.
// It needs Engine.Shadow.
func (e *Engine) SwapShadow(p *Policy) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.shadow = p
	if now := e.active.Load(); now != nil {
		e.active.Store(now.withShadow(p))
	}
}

// SwapCanary lets a candidate decide for a share of identities; nil: none. The engine drops a candidate that fails or refuses too
// much.
func (e *Engine) SwapCanary(c *Canary) {
	old := e.canary.Swap(c)
	switch {
	case c != nil:
		c.Metrics.setShare(c.Share)
	case old != nil:
		old.Metrics.setShare(0)
	}
}

// Decide decides t. It never fails: every error, a time-out among them, is the failure verdict of t with Err set. A stage that
// the bundle does not define is accepted without reasons and without evaluation. Only so many decisions are made at once as the
// processors can make; one more waits for its turn. If there is a Recorder, the decision is recorded before it is returned.
func (e *Engine) Decide(ctx context.Context, t *Transaction) Decision {
	p := t.Policy
	if p == nil {
		p = e.Policy()
	}
	var d Decision
	var in *Input
	switch {
	case p == nil:
		d = failure(t, "", &EvalError{Kind: kindNoPolicy, Err: errors.New("no policy is active")})
	case p.skips(t.Stage):
		d, in = p.decide(ctx, t, nil)
		e.tellCandidates(p, t, in, &d)
		return d
	default:
		d, in = e.decideInTurn(ctx, p, t)
	}
	if e.Recorder != nil {
		if err := e.Recorder.Record(ctx, Record{Transaction: t, Decision: &d, Input: in}); err != nil {
			latency, wait := d.Latency, d.Wait
			d = failure(t, d.Revision, &EvalError{Kind: kindRecord, Err: err})
			d.Latency, d.Wait = latency, wait
		}
	}
	e.Metrics.observe(&d)
	e.tellCandidates(p, t, in, &d)
	return d
}

// decideInTurn waits for a slot and decides. The time of the decision counts from the slot on.
func (e *Engine) decideInTurn(ctx context.Context, p *Policy, t *Transaction) (d Decision, in *Input) {
	s, wait, fail := e.admission.enter(ctx, keyOf(t), cmp.Or(max(e.MaxWait, 0), DefaultMaxWait))
	if fail != nil {
		d = failure(t, p.revision, fail)
		d.Wait = wait
		return d, nil
	}
	defer s.leave()
	start := time.Now()
	d, in = p.decide(ctx, t, &s)
	d.Latency, d.Wait = time.Since(start), wait
	return d, in
}

// tellCandidates hands a decision of p to the shadow candidate, which decides the same input, and to the canary, which compares
// the shares of failures and refusals.
func (e *Engine) tellCandidates(p *Policy, t *Transaction, in *Input, d *Decision) {
	if p == nil || d.busy() {
		return
	}
	if p.shadow != nil && e.Shadow != nil && in != nil {
		if p.shadow.missingFacts(t) {
			e.Shadow.Metrics.drop("facts")
		} else {
			e.Shadow.offer(p.shadow, t, in, d)
		}
	}
	c := e.canary.Load()
	if c == nil || t.Stage == StageConnect { // a canary decides from MAIL on
		return
	}
	if reason := c.observe(t, d, p == c.Policy); reason != "" && e.canary.CompareAndSwap(c, nil) {
		c.Metrics.fellBack()
		if c.Fallback != nil {
			c.Fallback(reason)
		}
	}
}

// Metrics count decisions. A nil *Metrics counts nothing.
type Metrics struct {
	decisions *prometheus.CounterVec
	errors    *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	waits     *prometheus.HistogramVec
}

// NewMetrics registers postern_decisions_total, postern_decision_errors_total, postern_decision_seconds and
// postern_decision_wait_seconds. It panics if they are registered already, which is a mistake of the program.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_decisions_total", Help: "Decisions by stage and verdict, stages without policy left out.",
		}, []string{"stage", "verdict"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_decision_errors_total", Help: "Decisions that were the failure verdict, by kind of error.",
		}, []string{"kind"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "postern_decision_seconds", Help: "Time a decision took: building the input, evaluating and decoding, without the wait for its turn.",
			Buckets: []float64{25e-6, 50e-6, 100e-6, 200e-6, 400e-6, 800e-6, 1.6e-3, 5e-3, 20e-3, 100e-3, 500e-3, 1, 5},
		}, []string{"stage"}),
		waits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "postern_decision_wait_seconds", Help: "Time a decision waited for its turn before it was made or turned away; 0 for most.",
			Buckets: []float64{0, 200e-6, 800e-6, 5e-3, 20e-3, 100e-3, 500e-3, 1, 5, 10},
		}, []string{"stage"}),
	}
	if r != nil {
		r.MustRegister(m.decisions, m.errors, m.seconds, m.waits)
	}
	return m
}

// observe counts one decision.
func (m *Metrics) observe(d *Decision) {
	if m == nil {
		return
	}
	stage := d.Stage.String()
	m.decisions.WithLabelValues(stage, d.Verdict.String()).Inc()
	m.waits.WithLabelValues(stage).Observe(d.Wait.Seconds())
	if !d.busy() { // nothing was evaluated
		m.seconds.WithLabelValues(stage).Observe(d.Latency.Seconds())
	}
	var e *EvalError
	if errors.As(d.Err, &e) {
		m.errors.WithLabelValues(e.Kind).Inc()
	}
}
