package engine

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Canary lets a candidate decide for a share of identities, with effect. The engine drops it when it fails or refuses too much. An
// identity is a login, or a client's address without one. It stays with the candidate while the share does not shrink, and a
// transaction that the candidate began to decide is decided by it to its end.
//
// The candidate is judged by identities, so that one login with many refused messages cannot have it dropped. In each window, an
// identity weighs as much as any other, however much it sends: the share of its own decisions that failed or were refused. For
// this, clients without a login are one identity for each network. The MinIdentities - 1 identities that fare worst are left out, so
// that the candidate is dropped only if at least MinIdentities fare badly.
type Canary struct {
	Policy *Policy
	// Share of identities, 0 to 1.
	Share float64
	// MaxFailures is the share of the candidate's decisions that may be the failure verdict, 0 to 1, as the mean over identities.
	MaxFailures float64
	// MaxRefusals is the amount by which the candidate's share of rejections and deferrals, as the mean over identities, may exceed the
	// active policy's, 0 to 1.
	MaxRefusals float64
	// MinDecisions is the number of decisions in a window after which the candidate is judged; 0: 100.
	MinDecisions int
	// MinIdentities is the number of identities that must fare badly before the candidate is dropped; 0: 3.
	MinIdentities int
	// Window is how long an identity's decisions are remembered. A window lasts longer if fewer than MinDecisions were made by
	// then, or for fewer than MinIdentities; 0: an hour.
	Window time.Duration
	// Fallback is called once with the reason when the candidate is dropped, on the goroutine of the last decision; nil: not called.
	Fallback func(reason string)
	// Metrics count; nil: nothing is counted.
	Metrics *CanaryMetrics

	mu        sync.Mutex
	begin     time.Time // of the window
	candidate tally
	active    tally
	judged    int // candidate.decisions when it was judged last
	dropped   bool
}

// maxIdentities limits the identities that are weighed in one window, for the candidate and for the active policy. There are enough
// to tell a share by, and further ones are left out.
const maxIdentities = 4000

// counts are an identity's decisions in a window.
type counts struct{ decisions, failures, refusals int }

// tally counts the decisions of one policy in a window.
type tally struct {
	decisions  int
	identities map[clientKey]*counts
}

func (t *tally) add(who clientKey, d *Decision) {
	t.decisions++
	c := t.identities[who]
	switch {
	case c != nil:
	case len(t.identities) >= maxIdentities:
		return
	default:
		if t.identities == nil {
			t.identities = map[clientKey]*counts{}
		}
		c = &counts{}
		t.identities[who] = c
	}
	c.decisions++
	switch {
	case d.Err != nil:
		c.failures++
	case d.Verdict == Reject || d.Verdict == Defer:
		c.refusals++
	}
}

// share returns the mean over identities of the share of their decisions that of counts, without the identities in which it is
// highest, of which there are leaveOut; 0 if there are no more identities than that.
func (t *tally) share(leaveOut int, of func(*counts) int) float64 {
	n := len(t.identities) - leaveOut
	if n <= 0 {
		return 0
	}
	var shares []float64 // above 0
	for _, c := range t.identities {
		if part := of(c); part > 0 {
			shares = append(shares, float64(part)/float64(c.decisions))
		}
	}
	slices.Sort(shares)
	sum := 0.0
	for _, s := range shares[:max(0, len(shares)-leaveOut)] {
		sum += s
	}
	return sum / float64(n)
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
func (c *Canary) observe(t *Transaction, d *Decision, candidate bool) (reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turnWindow(t.Now)
	if !candidate {
		c.active.add(keyOf(t), d)
		return ""
	}
	c.candidate.add(keyOf(t), d)
	c.Metrics.observe(d)
	// Judging takes time for each identity, so it waits for a twentieth as many decisions.
	identities := len(c.candidate.identities) + len(c.active.identities)
	if c.dropped || c.candidate.decisions < max(c.minDecisions(), c.judged+identities/20) {
		return ""
	}
	c.judged = c.candidate.decisions
	reason = c.judge()
	c.dropped = reason != ""
	return reason
}

// turnWindow begins a new window if the last one is over and the candidate could be judged in it.
func (c *Canary) turnWindow(now time.Time) {
	over := now.Sub(c.begin).Abs() >= cmp.Or(c.Window, time.Hour) // also after a jump of the clock
	if over && (c.begin.IsZero() || c.candidate.decisions >= c.minDecisions() && len(c.candidate.identities) >= c.minIdentities()) {
		c.begin, c.candidate, c.active, c.judged = now, tally{}, tally{}, 0
	}
}

func (c *Canary) minDecisions() int  { return cmp.Or(c.MinDecisions, 100) }
func (c *Canary) minIdentities() int { return cmp.Or(c.MinIdentities, 3) }

// judge returns the reason to drop the candidate, or "".
func (c *Canary) judge() string {
	least := c.minIdentities()
	failures := c.candidate.share(least-1, func(k *counts) int { return k.failures })
	refusals := c.candidate.share(least-1, func(k *counts) int { return k.refusals })
	usual := c.active.share(least-1, func(k *counts) int { return k.refusals })
	identities := len(c.candidate.identities)
	switch {
	case failures > c.MaxFailures:
		return fmt.Sprintf("%.2f %% of its decisions failed, as the mean over %d identities without the worst %d; %.2f %% are allowed",
			100*failures, identities, least-1, 100*c.MaxFailures)
	case refusals > usual+c.MaxRefusals:
		return fmt.Sprintf("it refused %.2f %%, the active policy %.2f %%, as the mean over %d identities without the worst %d; %.2f points more are allowed",
			100*refusals, 100*usual, identities, least-1, 100*c.MaxRefusals)
	}
	return ""
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
