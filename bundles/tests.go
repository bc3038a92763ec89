package bundles

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
)

// TestResult is the outcome of one test rule of a bundle.
type TestResult struct {
	Package, Name string        // data.postern.mail_test, test_allowed
	File          string        // relative to the bundle
	Line          int           // where the rule is
	Passed        bool          // it held
	Skipped       bool          // it is named todo_test_*
	Err           error         // it could not be evaluated, a time-out included; nil: it could
	Output        string        // what it printed
	Duration      time.Duration // of the evaluation
}

// String is one line for a log: file:line, name and outcome.
func (r TestResult) String() string {
	outcome := "failed"
	switch {
	case r.Err != nil:
		outcome = "failed: " + r.Err.Error()
	case r.Passed:
		outcome = "passed"
	case r.Skipped:
		outcome = "skipped"
	}
	return fmt.Sprintf("%s:%d: %s.%s %s", r.File, r.Line, r.Package, r.Name, outcome)
}

// Bounds of a test run: of one test as with stock `opa test`, and of the whole where ctx sets no deadline.
const (
	testTimeout  = 5 * time.Second
	testsTimeout = time.Minute
)

// RunTests runs the test rules (test_*) of a bundle as stock `opa test` does, and returns their results sorted by place.
// The error says why no verdict could be reached: the bundle does not compile, or time ran out. That a test failed is no
// error. Tests have all of OPA's builtins, as with stock OPA: run them after the bundle has compiled against the allowed
// ones.
func RunTests(ctx context.Context, b *bundle.Bundle) ([]TestResult, error) {
	if _, set := ctx.Deadline(); !set {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, testsTimeout)
		defer cancel()
	}
	modules := make(map[string]*ast.Module, len(b.Modules))
	for _, m := range b.Modules {
		modules[m.Path] = m.Parsed
	}
	// Without the round trip the store shares the bundle's data. Tests only read it.
	store := inmem.NewFromObjectWithOpts(b.Data, inmem.OptRoundTripOnWrite(false))
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return nil, fmt.Errorf("running the bundle's tests: %w", err)
	}
	defer store.Abort(ctx, txn)
	compiler := ast.NewCompiler().
		SetErrorLimit(maxErrors).
		WithPathConflictsCheck(storage.NonEmpty(ctx, store, txn)).
		WithEnablePrintStatements(true).
		WithCapabilities(ast.CapabilitiesForThisVersion()).
		WithUseTypeCheckAnnotations(true)
	outcomes, err := tester.NewRunner().
		SetCompiler(compiler).
		SetStore(store).
		SetModules(modules).
		SetTimeout(testTimeout).
		RunTests(ctx, txn)
	if err != nil {
		return nil, fmt.Errorf("running the bundle's tests: %w", err)
	}
	var results []TestResult
	for outcome := range outcomes {
		if outcome != nil {
			results = append(results, testResult(outcome))
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("running the bundle's tests: %w", err)
	}
	slices.SortFunc(results, func(a, b TestResult) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Name, b.Name))
	})
	return results, nil
}

func testResult(o *tester.Result) TestResult {
	r := TestResult{Package: o.Package, Name: o.Name, Passed: o.Pass(), Skipped: o.Skip, Err: o.Error,
		Output: string(o.Output), Duration: o.Duration}
	if o.Location != nil {
		r.File, r.Line = o.Location.File, o.Location.Row
	}
	return r
}
