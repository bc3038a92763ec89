package engine

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/postern-mail/postern/engine/data"
)

// answer is the result of a stage's query: the name of each set and its value.
type answer map[ast.Var]*ast.Term

// evaluation is one query and the bounds of its time.
type evaluation struct {
	stage  *stage
	input  ast.Value
	limit  time.Duration // counts from when it begins
	ticket *ticket       // nil outside an Engine
	meter  *meter        // measures the evaluation; nil: nothing does
}

// evaluate runs a query on a worker, and waits until it ends or until its time and the grace are over.
func (p *Policy) evaluate(ctx context.Context, e evaluation) (answer, *EvalError) {
	if err := ctx.Err(); err != nil {
		return nil, &EvalError{Kind: kindTimeout, Err: err}
	}
	w := p.workers.get()
	w.deadline.state.Store(running)
	stopAfterFunc := func() bool { return true } // true if ctx has not stopped the worker
	if ctx.Done() != nil {
		stopAfterFunc = context.AfterFunc(ctx, w.deadline.stop)
	}
	j := job{deadline: w.deadline, timer: w.timer, limit: e.limit}
	if e.ticket != nil {
		j.client = e.ticket.client
	}
	query := evaluation{stage: e.stage, input: e.input, limit: e.limit} // without the ticket, which would move to the heap
	j.evaluate = func(d *deadline, c *caches) (answer, *EvalError) { return p.run(ctx, query, d, c) }
	if e.meter != nil {
		j.evaluate = func(d *deadline, c *caches) (answer, *EvalError) { return p.runMeasured(ctx, query, d, c, e.meter) }
	}
	w.jobs <- j
	var r result
	select {
	case r = <-w.done:
		if w.timer.Stop() && stopAfterFunc() {
			p.workers.put(w)
		}
	case <-w.deadline.over:
		p.workers.abandon(w.deadline, e.ticket)
		r.fail = failf(kindTimeout, "evaluation took longer than %v and does not stop, so it was abandoned", e.limit)
	}
	if ctx.Err() != nil && r.fail != nil && r.fail.Kind == kindTimeout {
		r.fail = failf(kindTimeout, "the caller gave up during the evaluation: %w", context.Cause(ctx))
	}
	return r.out, r.fail
}

// runMeasured is run with a meter. It keeps its thread, whose processor time is measured.
func (p *Policy) runMeasured(ctx context.Context, e evaluation, d *deadline, c *caches, m *meter) (answer, *EvalError) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	m.deadline, m.began = d, threadTime()
	defer func() { m.used.Store(int64(threadTime() - m.began)) }()
	return p.run(ctx, e, m, c)
}

// run evaluates. Nothing else uses the caches meanwhile. A panic is returned as an error.
func (p *Policy) run(ctx context.Context, e evaluation, cancel topdown.Cancel, c *caches) (out answer, fail *EvalError) {
	defer func() {
		if r := recover(); r != nil {
			out, fail = nil, recovered(r)
		}
	}()
	c.reset(p.constants)
	st := e.stage
	query := topdown.NewQuery(st.query).
		WithQueryCompiler(st.qc).
		WithCompiler(p.compiler).
		WithStore(p.data).
		WithTransaction(data.Transaction{}).
		WithInput(ast.NewTerm(e.input)).
		WithBuiltins(st.builtins).
		WithMetrics(metrics.NoOp()).
		WithCancel(cancel).
		WithVirtualCache(&c.rules).
		WithBaseCache(&c.data).
		WithInterQueryBuiltinValueCache(p.values).
		WithStrictBuiltinErrors(true)
	if p.tracer != nil {
		query = query.WithQueryTracer(p.tracer)
	}
	err := query.Iter(ctx, func(qr topdown.QueryResult) error {
		out = answer(qr)
		return nil
	})
	if err != nil {
		return nil, classify(err, e.limit)
	}
	if out == nil {
		return nil, failf(kindEval, "stage %s: the decision sets are undefined", st.name)
	}
	return out, nil
}

// recovered returns the error for a panic in OPA's evaluator. A data.LazyObject ends an evaluation by panicking with a
// *storage.Error.
func recovered(r any) *EvalError {
	if err, ok := r.(*storage.Error); ok {
		return &EvalError{Kind: kindEval, Err: err}
	}
	return failf(kindPanic, "%v\n%s", r, debug.Stack())
}

// classify gives an evaluation error its kind.
func classify(err error, limit time.Duration) *EvalError {
	var td *topdown.Error
	kind := kindEval
	switch {
	case topdown.IsCancel(err):
		return failf(kindTimeout, "evaluation took longer than %v", limit)
	case !errors.As(err, &td):
	case td.Code == topdown.ConflictErr:
		kind = kindConflict
	case td.Code == topdown.BuiltinErr || td.Code == topdown.TypeErr:
		kind = kindBuiltin
	}
	return &EvalError{Kind: kind, Err: err}
}
