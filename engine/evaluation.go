package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/postern-mail/postern/engine/data"
)

// Kinds of errors, for the reasons "error.<kind>", the decision log and metrics.
const (
	kindNoPolicy = "no-policy" // none is active
	kindStage    = "stage"     // the front end asked at no stage
	kindInput    = "input"     // the body could not be read
	kindTimeout  = "timeout"   // the deadline passed, or the caller gave up
	kindBusy     = "busy"      // too many evaluations are past their deadline
	kindPanic    = "panic"     // the evaluator panicked
	kindConflict = "conflict"  // complete rules disagree
	kindBuiltin  = "builtin"   // a builtin failed
	kindEval     = "eval"      // anything else from the evaluator
	kindAnswer   = "answer"    // the answer has the wrong shape
	kindEdits    = "edits"     // the edits contradict each other
	kindRecord   = "record"    // the recorder failed
)

// EvalError says why a decision is the failure verdict. The message is for logs, never for clients.
type EvalError struct {
	Kind string // stable: "timeout", "builtin", "conflict", "answer", ...
	Err  error
}

// Error is the cause with its kind.
func (e *EvalError) Error() string { return e.Kind + ": " + e.Err.Error() }

// Unwrap is the cause.
func (e *EvalError) Unwrap() error { return e.Err }

// failf makes an EvalError.
func failf(kind, format string, args ...any) *EvalError {
	return &EvalError{Kind: kind, Err: fmt.Errorf(format, args...)}
}

// answer is what a query gave: set name to its value.
type answer map[ast.Var]*ast.Term

// evaluate runs the stage's query on a worker and waits for it until the deadline and its grace are over.
func (p *Policy) evaluate(ctx context.Context, st *stage, input ast.Value) (answer, *EvalError) {
	if err := ctx.Err(); err != nil {
		return nil, &EvalError{Kind: kindTimeout, Err: err}
	}
	if n := p.workers.abandoned.Load(); n >= maxAbandoned {
		return nil, failf(kindBusy, "%d evaluations run on past their deadline", n)
	}
	w := p.workers.get()
	w.watch.state.Store(running)
	w.timer.Reset(p.timeout)
	quiet := func() bool { return true } // whether the caller's context has left the worker alone
	if ctx.Done() != nil {
		quiet = context.AfterFunc(ctx, w.watch.stop)
	}
	w.jobs <- job{p, ctx, st, input, w.watch}
	select {
	case r := <-w.done:
		if w.timer.Stop() && quiet() {
			p.workers.idle.Put(w)
		}
		return r.out, r.fail
	case <-w.watch.over:
		p.workers.abandon(w.watch)
		return nil, failf(kindTimeout, "evaluation took longer than %v and does not stop: abandoned", p.timeout)
	}
}

// run is the evaluation itself, with caches that nothing else uses meanwhile. A panic inside it is an error like any other.
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

// recovered is the error of a panic in OPA's evaluator, or of the one with which an unread ends an evaluation.
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
