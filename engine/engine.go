package engine

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// Engine holds the active Policy. Its zero value defers everything.
type Engine struct {
	// Recorder receives every decision; nil: none does. Set before the first Decide.
	Recorder Recorder
	// Metrics count decisions; nil: none are. Set before the first Decide.
	Metrics *Metrics

	active atomic.Pointer[Policy]
}

// Policy returns the active snapshot; nil before the first Swap.
func (e *Engine) Policy() *Policy { return e.active.Load() }

// Swap makes p the active snapshot and returns the one before.
func (e *Engine) Swap(p *Policy) *Policy { return e.active.Swap(p) }

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
	return d
}

// decide is Decide by one snapshot. asked is false where the bundle does not define the stage.
func (p *Policy) decide(ctx context.Context, t *Transaction) (d Decision, in *Input, asked bool) {
	if t.Stage < StageConnect || t.Stage > StageMessage {
		return failure(t, p.revision, failf(kindStage, "no stage %d", t.Stage)), nil, true
	}
	st := p.stages[t.Stage]
	if st == nil {
		return Decision{Verdict: Accept, Stage: t.Stage, Revision: p.revision}, nil, false
	}
	in, fail := p.input(t, st.build)
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
