package engine

import (
	"context"
	"errors"
	"runtime/debug"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/postern-mail/postern/engine/data"
)

// answer is the result of a stage's query: the name of each set and its value.
type answer map[ast.Var]*ast.Term

// evaluate runs a stage's query on a worker, and waits until it ends or until the deadline and its grace are over.
func (p *Policy) evaluate(ctx context.Context, st *stage, input ast.Value) (answer, *EvalError) {
	if err := ctx.Err(); err != nil {
		return nil, &EvalError{Kind: kindTimeout, Err: err}
	}
	if n := p.workers.abandoned.Load(); n >= maxAbandoned {
		return nil, failf(kindBusy, "%d evaluations still run although their deadline has passed", n)
	}
	w := p.workers.get()
	w.deadline.state.Store(running)
	w.timer.Reset(p.timeout)
	stopAfterFunc := func() bool { return true } // true if ctx has not stopped the worker
	if ctx.Done() != nil {
		stopAfterFunc = context.AfterFunc(ctx, w.deadline.stop)
	}
	w.jobs <- job{func(d *deadline, c *caches) (answer, *EvalError) { return p.run(ctx, st, input, d, c) }, w.deadline}
	select {
	case r := <-w.done:
		if w.timer.Stop() && stopAfterFunc() {
			p.workers.put(w)
		}
		return r.out, r.fail
	case <-w.deadline.over:
		p.workers.abandon(w.deadline)
		return nil, failf(kindTimeout, "evaluation took longer than %v and does not stop, so it was abandoned", p.timeout)
	}
}

// run evaluates. Nothing else uses the caches meanwhile. A panic is returned as an error.
func (p *Policy) run(ctx context.Context, st *stage, input ast.Value, cancel topdown.Cancel, c *caches) (out answer, fail *EvalError) {
	defer func() {
		if r := recover(); r != nil {
			out, fail = nil, recovered(r)
		}
	}()
	c.reset(p.constants)
	query := topdown.NewQuery(st.query).
		WithQueryCompiler(st.qc).
		WithCompiler(p.compiler).
		WithStore(p.data).
		WithTransaction(data.Transaction{}).
		WithInput(ast.NewTerm(input)).
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
		return nil, p.classify(err)
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
func (p *Policy) classify(err error) *EvalError {
	var td *topdown.Error
	kind := kindEval
	switch {
	case topdown.IsCancel(err):
		return failf(kindTimeout, "evaluation took longer than %v", p.timeout)
	case !errors.As(err, &td):
	case td.Code == topdown.ConflictErr:
		kind = kindConflict
	case td.Code == topdown.BuiltinErr || td.Code == topdown.TypeErr:
		kind = kindBuiltin
	}
	return &EvalError{Kind: kind, Err: err}
}
