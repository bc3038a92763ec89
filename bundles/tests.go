package bundles

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/version"
)

// TestResult is the result of one test rule of a bundle.
type TestResult struct {
	Package, Name string        // data.postern.mail_test, test_allowed
	File          string        // relative to the bundle
	Line          int           // where the rule is
	Passed        bool          // it held
	Skipped       bool          // it is named todo_test_*
	Err           error         // why it could not be evaluated, such as a time-out; nil: it was
	Output        string        // what it printed
	Duration      time.Duration // of the evaluation
	Cases         []TestCase    // of a test with several, test_x[name]
	Stopped       *TestPlace    // where a failed test without cases stopped; nil: unknown, see Tests.Explain
}

// TestCase is one case of a test rule that has several.
type TestCase struct {
	Name    string // of a nested case, all names with slashes between
	Passed  bool
	Stopped *TestPlace // as in TestResult
}

// TestPlace is the expression that was not true.
type TestPlace struct {
	File         string // relative to the bundle
	Line, Column int
	Text         string // the expression as it is written
	Detail       string // the expression with the values of its variables below, several lines
}

// String returns one line for a log, with file:line, name and result.
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

// The time-outs of RunTests where ctx has no deadline: of one test, as with stock `opa test`, and of all.
const (
	testTimeout  = 5 * time.Second
	testsTimeout = time.Minute
)

// Tests runs the test rules of a bundle, with the same results as stock `opa test`. Set the fields first; all but Bundle may be
// zero. Tests may call all of OPA's builtins, as with stock OPA, so run them after the bundle has compiled with the allowed
// ones.
type Tests struct {
	Bundle *bundle.Bundle
	// Filter selects tests by their full name, such as data.postern.mail_test.test_allowed; nil: all.
	Filter *regexp.Regexp
	// Timeout of one test; 0: 5 s.
	Timeout time.Duration
	// Parallel is how many tests run at a time; 0: one a processor.
	Parallel int
	// Coverage records which rules the tests reach; nil: nothing is recorded.
	Coverage *Coverage
	// Explain finds the expression at which a failed test stopped. For that, failed tests run a second time, with a trace.
	Explain bool
	// Each is called with every result as it comes, one call at a time; nil: not called.
	Each func(TestResult)
}

// RunTests runs the test rules (test_*) of a bundle as stock `opa test` does, and returns their results sorted by place. A
// test that fails is not an error. The error says why the tests could not run: the bundle does not compile, or time ran out.
func RunTests(ctx context.Context, b *bundle.Bundle) ([]TestResult, error) {
	deadline, set := ctx.Deadline()
	if !set {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, testsTimeout)
		defer cancel()
	}
	// The deadline of ctx is the time-out of each test as well, so that a good bundle is not refused on a busy machine.
	results, err := (&Tests{Bundle: b, Timeout: max(testTimeout, time.Until(deadline))}).Run(ctx)
	if err != nil {
		return nil, fmt.Errorf("run the bundle's tests: %w", err)
	}
	return results, nil
}

// Run runs the tests and returns the results sorted by place. The error is a *LoadError if the bundle or a test in it does not
// compile, or the error of ctx if time ran out.
func (t *Tests) Run(ctx context.Context) ([]TestResult, error) {
	var results []TestResult
	err := t.run(ctx, pass{filter: t.filter(), coverage: t.Coverage}, func(o *tester.Result) {
		r := testResult(o)
		results = append(results, r)
		if t.Each != nil {
			t.Each(r)
		}
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(results, func(a, b TestResult) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Name, b.Name))
	})
	if t.Explain {
		if err := t.explain(ctx, results); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// Count returns how many results Run will have, as far as is known without compiling.
func (t *Tests) Count() int {
	n := 0
	for _, m := range t.Bundle.Modules {
		for _, r := range m.Parsed.Rules {
			ref := r.Head.Ref().GroundPrefix()
			for i, term := range ref {
				name := strings.Trim(term.String(), `"`)
				if !strings.HasPrefix(name, tester.TestPrefix) && !strings.HasPrefix(name, tester.SkipTestPrefix) {
					continue
				}
				if t.Filter == nil || t.Filter.MatchString(m.Parsed.Package.Path.Extend(ref[:i+1]).String()) {
					n++
				}
				break
			}
		}
	}
	return n
}

func (t *Tests) filter() string {
	if t.Filter == nil {
		return ""
	}
	return t.Filter.String()
}

// pass is one run over the tests.
type pass struct {
	filter   string
	coverage *Coverage
	trace    bool
}

func (t *Tests) run(ctx context.Context, p pass, each func(*tester.Result)) error {
	modules := make(map[string]*ast.Module, len(t.Bundle.Modules))
	for _, m := range t.Bundle.Modules {
		modules[m.Path] = m.Parsed
	}
	// Without the round trip the store shares the bundle's data, which tests only read. It is unpacked as with stock OPA.
	store := inmem.NewFromObjectWithOpts(Unpacked(t.Bundle.Data), inmem.OptRoundTripOnWrite(false))
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return err
	}
	defer store.Abort(ctx, txn)
	compiler := ast.NewCompiler().
		SetErrorLimit(maxErrors).
		WithPathConflictsCheck(storage.NonEmpty(ctx, store, txn)).
		WithEnablePrintStatements(true).
		WithCapabilities(ast.CapabilitiesForThisVersion()).
		WithUseTypeCheckAnnotations(true).
		WithRewriteTestRules(p.trace)
	runner := tester.NewRunner().
		SetCompiler(compiler).
		SetStore(store).
		SetModules(modules).
		SetRuntime(runtimeFacts()).
		SetTimeout(cmp.Or(t.Timeout, testTimeout)).
		SetParallel(t.Parallel).
		SetCoverageRuns(nil). // further passes only say why a line was not reached
		EnableTracing(p.trace).
		Filter(p.filter)
	if p.coverage != nil {
		runner.SetCoverageQueryTracer(p.coverage.cover)
	}
	outcomes, err := runner.RunTests(ctx, txn)
	if err != nil {
		return t.broken(err)
	}
	for outcome := range outcomes {
		if outcome != nil {
			each(outcome)
		}
	}
	return ctx.Err()
}

// runtimeFacts returns what opa.runtime returns in a test. It is the same as with stock OPA, without the environment of this
// process: that may hold secrets, and the bundle may come from elsewhere.
func runtimeFacts() *ast.Term {
	return ast.ObjectTerm(
		[2]*ast.Term{ast.StringTerm("version"), ast.StringTerm(version.Version)},
		[2]*ast.Term{ast.StringTerm("commit"), ast.StringTerm(version.Vcs)},
		[2]*ast.Term{ast.StringTerm("env"), ast.ObjectTerm()},
	)
}

// broken turns the compiler's errors into a *LoadError with their places.
func (t *Tests) broken(err error) error {
	var list ast.Errors
	if !errors.As(err, &list) {
		return err
	}
	raw := map[string][]byte{}
	for _, m := range t.Bundle.Modules {
		raw[m.Path] = m.Raw
	}
	var faults []*LoadError
	for _, one := range list {
		file := ""
		if one.Location != nil {
			file = one.Location.File
		}
		faults = append(faults, parseFaults(file, raw[file], ast.Errors{one})...)
	}
	return join(faults)
}

func testResult(o *tester.Result) TestResult {
	r := TestResult{Package: o.Package, Name: o.Name, Passed: o.Pass(), Skipped: o.Skip, Err: o.Error,
		Output: string(o.Output), Duration: o.Duration}
	if o.Location != nil {
		r.File, r.Line = o.Location.File, o.Location.Row
	}
	for name, sub := range o.SubResults.Iter {
		if len(sub.SubResults) == 0 {
			r.Cases = append(r.Cases, TestCase{Name: strings.Join(name, "/"), Passed: !sub.Fail})
		}
	}
	return r
}

// Bounds of Explain. A trace holds every step of an evaluation, so only a few short tests are traced.
const (
	maxTraced   = 50
	traceBudget = 200 * time.Millisecond
)

// explain runs the failed tests a second time and records where they stopped.
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

// stopped returns the last expression of a trace that was not true; nil if the trace has none.
func stopped(trace []*topdown.Event) *TestPlace {
	for _, e := range slices.Backward(trace) {
		expr, is := e.Node.(*ast.Expr)
		if e.Op != topdown.FailOp || !is || e.Location == nil || e.Location.File == "" {
			continue
		}
		if _, every := expr.Terms.(*ast.Every); every {
			continue // the expression that failed is in its body
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

// maxDependencies bounds tests times rules in one run. For each test, OPA's compiler records every rule of each set that the
// test reads, at about 200 bytes a pair.
const maxDependencies = 1_000_000

// TestParts splits a bundle with many tests and many rules into parts, because compiling them together could take all memory.
// Each part has all modules and a share of the test rules. Together the parts have the results of the whole. Most bundles are
// a single part; a bundle without tests has none.
func TestParts(b *bundle.Bundle) []*bundle.Bundle {
	return testParts(b, maxDependencies)
}

func testParts(b *bundle.Bundle, most int) []*bundle.Bundle {
	tests, rules := 0, 0
	for _, m := range b.Modules {
		for _, r := range m.Parsed.Rules {
			if isTestRule(r) {
				tests++
			} else {
				rules++
			}
		}
	}
	if tests == 0 {
		return nil
	}
	share := max(1, most/max(1, rules))
	if tests <= share {
		return []*bundle.Bundle{b}
	}
	var parts []*bundle.Bundle
	for from := 0; from < tests; from += share {
		parts = append(parts, testPart(b, from, from+share))
	}
	return parts
}

// testPart returns b with only the test rules from number from up to number to, which is not included.
func testPart(b *bundle.Bundle, from, to int) *bundle.Bundle {
	part := *b
	part.Modules = make([]bundle.ModuleFile, len(b.Modules))
	number := 0
	for i, m := range b.Modules {
		kept := make([]*ast.Rule, 0, len(m.Parsed.Rules))
		for _, r := range m.Parsed.Rules {
			if !isTestRule(r) {
				kept = append(kept, r)
				continue
			}
			if number >= from && number < to {
				kept = append(kept, r)
			}
			number++
		}
		if len(kept) < len(m.Parsed.Rules) {
			module := *m.Parsed
			module.Rules = kept
			module.Annotations = nil // they belong to rules that are not there
			m.Parsed = &module
		}
		part.Modules[i] = m
	}
	return &part
}

func isTestRule(r *ast.Rule) bool {
	name := string(r.Head.Name)
	if name == "" && len(r.Head.Reference) > 0 {
		if v, ok := r.Head.Reference[0].Value.(ast.Var); ok {
			name = string(v)
		}
	}
	return strings.HasPrefix(name, "test_") || strings.HasPrefix(name, "todo_test_")
}
