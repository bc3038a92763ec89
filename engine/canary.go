package engine

import (
	"fmt"
	"hash/fnv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Canary puts a stable share of identities on a candidate, in earnest, and falls back by itself. Identities are logins, or
// client addresses where nobody has authenticated; one that is on the candidate stays there while the share does not
// shrink. A transaction that began on the candidate ends on it.
type Canary struct {
	Policy *Policy
	// Share of identities, 0 to 1.
	Share float64
	// MaxFailures is the share of the candidate's decisions that may be the failure verdict; zero: none may.
	MaxFailures float64
	// MaxRefusals is by how much the candidate's share of rejections and deferrals may exceed the active policy's, 0 to 1.
	MaxRefusals float64
	// MinDecisions is how many the candidate must have taken before it is judged. 0: 100.
	MinDecisions int
	// Fallback is told why the candidate was taken off, once, on the goroutine of the decision that was too much. nil: nobody is.
	Fallback func(reason string)
	// Metrics count; nil: nothing is.
	Metrics *CanaryMetrics

	mu      sync.Mutex
	ours    tally
	control tally
	tripped bool
}

// tally of decisions. When it has grown large it is halved, so that the past fades.
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

// takes says whether an identity is on the candidate.
func (c *Canary) takes(identity string) bool {
	h := fnv.New64a()
	h.Write([]byte(identity))
	x := h.Sum64() // FNV's low bits of short strings are good, its high ones are not: fold
	x ^= x >> 32
	return float64(x%100_000) < c.Share*100_000
}

// observe a decision of the candidate, or of the active policy, and say why the candidate has to go; "": it may stay.
func (c *Canary) observe(d *Decision, candidate bool) (reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !candidate {
		c.control.add(d)
		return ""
	}
	c.ours.add(d)
	c.Metrics.observe(d)
	least := float64(c.MinDecisions)
	if least == 0 {
		least = 100
	}
	if c.tripped || c.ours.decisions < least {
		return ""
	}
	failures, refusals := share(c.ours.failures, c.ours.decisions), share(c.ours.refusals, c.ours.decisions)
	usual := share(c.control.refusals, c.control.decisions)
	switch {
	case failures > c.MaxFailures:
		reason = fmt.Sprintf("%.2f %% of its decisions failed, %.2f %% may", 100*failures, 100*c.MaxFailures)
	case refusals > usual+c.MaxRefusals:
		reason = fmt.Sprintf("it refused %.2f %%, the active policy %.2f %%; %.2f points more are allowed", 100*refusals, 100*usual, 100*c.MaxRefusals)
	}
	c.tripped = reason != ""
	return reason
}

// CanaryMetrics count what a Canary decides. A nil *CanaryMetrics counts nothing.
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
