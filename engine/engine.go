package engine

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/engine/contract"
)

// Engine holds the active Policy, and candidates beside it. Its zero value defers everything.
type Engine struct {
	// Recorder receives every decision; nil: none does. Set before the first Decide.
	Recorder Recorder
	// Metrics count decisions; nil: none are. Set before the first Decide.
	Metrics *Metrics
	// Shadow evaluates the shadow candidate; nil: there can be none. Set before the first Decide.
	Shadow *Shadow

	active atomic.Pointer[Policy] // with the shadow candidate in it
	canary atomic.Pointer[Canary]

	mu     sync.Mutex // for those who swap
	shadow *Policy
}

// Policy returns the active snapshot; nil before the first Swap.
func (e *Engine) Policy() *Policy { return e.active.Load() }

// Pin returns the snapshot by which a transaction of an identity (its login, or else its client's address) is decided from
// MAIL to its end: the canary candidate where the identity is on it, and otherwise the active one.
func (e *Engine) Pin(identity string) *Policy {
	if c := e.canary.Load(); c != nil && c.takes(identity) {
		return c.Policy
	}
	return e.Policy()
}

// Needs are those of the active snapshot and of the candidates together: what a front end has to be ready for before it knows
// whose transaction comes. Nothing is active: false.
func (e *Engine) Needs() (Needs, bool) {
	p := e.Policy()
	if p == nil {
		return Needs{}, false
	}
	n := p.Needs()
	if c := e.canary.Load(); c != nil {
		n = n.and(c.Policy.needs)
	}
	return n, true
}

// Swap makes p the active snapshot and returns the one before.
func (e *Engine) Swap(p *Policy) *Policy {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.active.Swap(p.beside(e.shadow))
}

// SwapShadow makes p the candidate that decides beside the active policy without effect; nil: none. It needs Engine.Shadow.
func (e *Engine) SwapShadow(p *Policy) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.shadow = p
	if now := e.active.Load(); now != nil {
		e.active.Store(now.beside(p))
	}
}

// SwapCanary puts a candidate in charge of a share of identities; nil: takes it off. It is taken off by itself where it fails
// or refuses too much.
func (e *Engine) SwapCanary(c *Canary) {
	old := e.canary.Swap(c)
	switch {
	case c != nil:
		c.Metrics.setShare(c.Share)
	case old != nil:
		old.Metrics.setShare(0)
	}
}

// lacks says whether a front end has left out of t what p reads, because nothing needed it when that was settled.
func (p *Policy) lacks(t *Transaction) bool {
	if t.Stage != StageMessage || p.stages[StageMessage] == nil {
		return false
	}
	m, n := t.Message, p.own
	return m == nil || n.Header && m.Header == nil || n.Size && m.Size < 0 || n.Body && m.Body == nil
}

// beside is p with a shadow candidate: the same decisions, on an input that has what either of the two reads.
func (p *Policy) beside(shadow *Policy) *Policy {
	if p == nil || p.shadow == shadow {
		return p
	}
	out := *p
	out.shadow, out.needs = shadow, p.own
	out.also, out.alsoFields = [StageMessage + 1]contract.Parts{}, [StageMessage + 1]*fieldSet{}
	if shadow != nil {
		facts := shadow.own // its actions are never carried out
		facts.Edits, facts.Quarantine, facts.Discard = nil, false, false
		out.needs = p.own.and(facts)
		for s, st := range shadow.stages {
			if st == nil {
				continue
			}
			out.also[s], out.alsoFields[s] = st.reads, st.buildFields
			if own := p.stages[s]; own != nil {
				out.alsoFields[s] = own.buildFields.or(st.buildFields)
			}
		}
	}
	return &out
}

// Decide asks policy about t. It never fails: whatever goes wrong is the failure verdict of t with Err set.
// A stage that the bundle does not define is accepted with no reasons and no evaluation.
// The decision is recorded before it is returned, where a Recorder is set.
func (e *Engine) Decide(ctx context.Context, t *Transaction) Decision {
	start := time.Now()
	p := t.Policy
	if p == nil {
		p = e.Policy()
	}
	var d Decision
	var in *Input
	if p == nil {
		d = failure(t, "", &EvalError{Kind: kindNoPolicy, Err: errors.New("no policy is active")})
	} else {
		var asked bool
		if d, in, asked = p.decide(ctx, t); !asked {
			e.beside(p, t, in, &d)
			return d
		}
	}
	d.Latency = time.Since(start)
	if e.Recorder != nil {
		if err := e.Recorder.Record(ctx, record(t, &d, in)); err != nil {
			latency := d.Latency
			d = failure(t, d.Revision, &EvalError{Kind: kindRecord, Err: err})
			d.Latency = latency
		}
	}
	e.Metrics.observe(&d)
	e.beside(p, t, in, &d)
	return d
}

// beside tells the candidates of a decision that was taken.
func (e *Engine) beside(p *Policy, t *Transaction, in *Input, d *Decision) {
	if p == nil {
		return
	}
	if p.shadow != nil && e.Shadow != nil && in != nil {
		if p.shadow.lacks(t) {
			e.Shadow.Metrics.drop("facts")
		} else {
			e.Shadow.offer(p.shadow, t, in, d)
		}
	}
	c := e.canary.Load()
	if c == nil || t.Stage == StageConnect { // nobody is on a candidate before MAIL
		return
	}
	if reason := c.observe(d, p == c.Policy); reason != "" && e.canary.CompareAndSwap(c, nil) {
		c.Metrics.fellBack()
		if c.Fallback != nil {
			c.Fallback(reason)
		}
	}
}

// decide is Decide by one snapshot. asked is false where the bundle does not define the stage.
func (p *Policy) decide(ctx context.Context, t *Transaction) (d Decision, in *Input, asked bool) {
	if t.Stage < StageConnect || t.Stage > StageMessage {
		return failure(t, p.revision, failf(kindStage, "no stage %d", t.Stage)), nil, true
	}
	st := p.stages[t.Stage]
	if st == nil {
		if p.shadow != nil && p.shadow.stages[t.Stage] != nil {
			in, _ = p.input(t, p.also[t.Stage], p.alsoFields[t.Stage])
		}
		return Decision{Verdict: Accept, Stage: t.Stage, Revision: p.revision}, in, false
	}
	build, fields := st.build, st.buildFields
	if also := p.also[t.Stage]; also != 0 {
		build, fields = build|also, p.alsoFields[t.Stage]
	}
	in, fail := p.input(t, build, fields)
	if fail != nil {
		return failure(t, p.revision, fail), in, true
	}
	in.parts = st.parts
	return p.settle(ctx, t, st, in), in, true
}

// settle evaluates an input and decodes what came.
func (p *Policy) settle(ctx context.Context, t *Transaction, st *stage, in *Input) Decision {
	var d Decision
	out, fail := p.evaluate(ctx, st, in.value)
	if fail == nil {
		d, fail = decode(t, st, out)
	}
	if fail != nil {
		return failure(t, p.revision, fail)
	}
	d.Stage, d.Revision = t.Stage, p.revision
	return d
}
