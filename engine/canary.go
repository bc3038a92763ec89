package engine

import (
	"fmt"
	"hash/fnv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Canary lets a candidate decide for a share of identities, with effect. The engine drops it when it fails or refuses too much. An
// identity is a login, or a client's address without one. It stays with the candidate while the share does not shrink, and a
// transaction that the candidate began to decide is decided by it to its end.
type Canary struct {
	Policy *Policy
	// Share of identities, 0 to 1.
	Share float64
	// MaxFailures is the share of the candidate's decisions that may be the failure verdict, 0 to 1.
	MaxFailures float64
	// MaxRefusals is the amount by which the candidate's share of rejections and deferrals may exceed the active policy's, 0 to 1.
	MaxRefusals float64
	// MinDecisions is the number of decisions after which the candidate is judged; 0: 100.
	MinDecisions int
	// Fallback is called once with the reason when the candidate is dropped, on the goroutine of the last decision; nil: not called.
	Fallback func(reason string)
	// Metrics count; nil: nothing is counted.
	Metrics *CanaryMetrics

	mu        sync.Mutex
	candidate tally
	active    tally
	dropped   bool
}

// tally counts decisions. It is halved when it is full, so that recent decisions count more.
type tally struct{ decisions, failures, refusals float64 }

const tallyWindow = 20_000

func (t *tally) add(d *Decision) {
	if t.decisions >= tallyWindow {
		t.decisions, t.failures, t.refusals = t.decisions/2, t.failures/2, t.refusals/2
	}
	t.decisions++
	switch {
	case d.Err != nil:
		t.failures++
	case d.Verdict == Reject || d.Verdict == Defer:
		t.refusals++
	}
}

func share(part, whole float64) float64 {
	if whole == 0 {
		return 0
	}
	return part / whole
}

// takes reports whether the candidate decides for an identity.
func (c *Canary) takes(identity string) bool {
	h := fnv.New64a()
	h.Write([]byte(identity))
	x := h.Sum64() // for short strings only the low bits of FNV are random
	x ^= x >> 32
	return float64(x%100_000) < c.Share*100_000
}

// observe counts a decision of the candidate or of the active policy. It returns the reason to drop the candidate, or "".
func (c *Canary) observe(d *Decision, candidate bool) (reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !candidate {
		c.active.add(d)
		return ""
	}
	c.candidate.add(d)
	c.Metrics.observe(d)
	least := float64(c.MinDecisions)
	if least == 0 {
		least = 100
	}
	if c.dropped || c.candidate.decisions < least {
		return ""
	}
	failures, refusals := share(c.candidate.failures, c.candidate.decisions), share(c.candidate.refusals, c.candidate.decisions)
	usual := share(c.active.refusals, c.active.decisions)
	switch {
	case failures > c.MaxFailures:
		reason = fmt.Sprintf("%.2f %% of its decisions failed, %.2f %% are allowed", 100*failures, 100*c.MaxFailures)
	case refusals > usual+c.MaxRefusals:
		reason = fmt.Sprintf("it refused %.2f %%, the active policy %.2f %%; %.2f points more are allowed", 100*refusals, 100*usual, 100*c.MaxRefusals)
	}
	c.dropped = reason != ""
	return reason
}

// CanaryMetrics count the decisions of a Canary. A nil *CanaryMetrics counts nothing.
type CanaryMetrics struct {
	decisions *prometheus.CounterVec
	active    prometheus.Gauge
	fallbacks prometheus.Counter
}

// NewCanaryMetrics registers postern_canary_decisions_total, postern_canary_share and postern_canary_fallbacks_total.
func NewCanaryMetrics(r prometheus.Registerer) *CanaryMetrics {
	m := &CanaryMetrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_canary_decisions_total", Help: "Decisions of the canary policy by stage and verdict; verdict error: it failed.",
		}, []string{"stage", "verdict"}),
		active: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_canary_share", Help: "Share of identities on the canary policy now; 0: it has fallen back, or there is none.",
		}),
		fallbacks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_canary_fallbacks_total", Help: "How often a canary policy was taken off because it failed or refused too much.",
		}),
	}
	if r != nil {
		r.MustRegister(m.decisions, m.active, m.fallbacks)
	}
	return m
}

func (m *CanaryMetrics) observe(d *Decision) {
	if m == nil {
		return
	}
	verdict := d.Verdict.String()
	if d.Err != nil {
		verdict = "error"
	}
	m.decisions.WithLabelValues(d.Stage.String(), verdict).Inc()
}

func (m *CanaryMetrics) setShare(share float64) {
	if m != nil {
		m.active.Set(share)
	}
}

func (m *CanaryMetrics) fellBack() {
	if m != nil {
		m.fallbacks.Inc()
		m.active.Set(0)
	}
}
