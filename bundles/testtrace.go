package bundles

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// A trace holds every step of an evaluation: failed tests are traced only where there are few of them and they are short.
const (
	maxTraced   = 50
	traceBudget = 200 * time.Millisecond
)

// explain runs what failed once more and notes where it stopped.
func (t *Tests) explain(ctx context.Context, results []TestResult) error {
	var names []string
	for _, r := range results {
		if !r.Passed && !r.Skipped && r.Err == nil && r.Duration < traceBudget && len(names) < maxTraced {
			names = append(names, regexp.QuoteMeta(r.Package+"."+r.Name))
		}
	}
	if len(names) == 0 {
		return nil
	}
	filter := "^(?:" + strings.Join(names, "|") + ")$"
	return t.run(ctx, pass{filter: filter, trace: true}, func(o *tester.Result) {
		i := slices.IndexFunc(results, func(r TestResult) bool {
			return r.Package == o.Package && r.Name == o.Name && o.Location != nil && r.File == o.Location.File && r.Line == o.Location.Row
		})
		if i < 0 || !o.Fail {
			return
		}
		r := &results[i]
		if len(o.SubResults) == 0 {
			r.Stopped = stopped(o.Trace)
			return
		}
		for name, sub := range o.SubResults.Iter {
			at := slices.IndexFunc(r.Cases, func(c TestCase) bool { return c.Name == strings.Join(name, "/") })
			if at >= 0 && sub.Fail && len(sub.SubResults) == 0 {
				r.Cases[at].Stopped = stopped(sub.Trace)
			}
		}
	})
}

// stopped is the last expression of a trace that did not hold; nil where the trace has none.
func stopped(trace []*topdown.Event) *TestPlace {
	for _, e := range slices.Backward(trace) {
		expr, is := e.Node.(*ast.Expr)
		if e.Op != topdown.FailOp || !is || e.Location == nil || e.Location.File == "" {
			continue
		}
		if _, every := expr.Terms.(*ast.Every); every {
			continue // what failed is in its body
		}
		p := &TestPlace{File: e.Location.File, Line: e.Location.Row, Column: e.Location.Col, Text: string(e.Location.Text)}
		var b strings.Builder
		if topdown.PrettyEvent(&b, e, topdown.PrettyEventOpts{PrettyVars: true}) == nil {
			p.Detail = strings.TrimRight(b.String(), "\n")
		}
		return p
	}
	return nil
}
