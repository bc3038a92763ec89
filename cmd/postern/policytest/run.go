// Package policytest runs the tests of a policy for `postern test`: the test rules in its Rego files, and its message tests, which take
// a whole transaction each through the engine.
//
// Run starts one goroutine for each message test under way, and waits for all of them.
package policytest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing/fstest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/gate"
	"github.com/postern-mail/postern/cmd/postern/terminal"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/safefile"
	"github.com/postern-mail/postern/internal/trial"
	"github.com/postern-mail/postern/internal/yamldoc"
)

// Bounds of message tests.
const (
	maxCases = 20_000
	maxCase  = 64 << 20 // bytes of one
)

// Options say what to test and how. Timeout must be above 0.
type Options struct {
	Data       []string       // files of data documents, merged over those of the bundle and of the configuration
	Cases      []string       // directories and files of message tests; without any, those below the bundle
	Filter     *regexp.Regexp // of the names of tests; nil for all
	Timeout    time.Duration  // for one test, and for one decision of a message test
	Parallel   int            // how many tests run at a time; 0 for one a processor
	Coverage   bool           // measure which lines of the rules the tests reach
	Threshold  float64        // the least coverage, in per cent, with which the report is OK
	Update     bool           // write what comes out into the message tests
	AllowEmpty bool           // a bundle without tests is OK
	Progress   io.Writer      // if it is a terminal, it shows how many tests have ended; nil for none
}

// Run runs the tests of the bundle that a configuration names. If the bundle does not load or compile, the report says so in Policy.
// An error is about ctx, the configuration or the files of message tests.
func Run(ctx context.Context, cfg *config.Config, o Options) (*Report, error) {
	start := time.Now()
	report := &Report{Tests: []Result{}, dir: directory(cfg.Policy.Bundle)}
	source, err := gate.Source(cfg.Policy)
	if err != nil {
		return nil, exitcode.UsageError(err)
	}
	r := &run{Options: o, source: source, compile: gate.Options(cfg), dir: report.dir}
	r.compile.Timeout = o.Timeout
	report.Bundle = source.String()
	err = r.all(ctx, append(cfg.Policy.Data[:len(cfg.Policy.Data):len(cfg.Policy.Data)], o.Data...), report)
	report.Seconds = time.Since(start).Seconds()
	report.sum(o)
	var broken *brokenPolicy
	if errors.As(err, &broken) && ctx.Err() == nil {
		report.broken(broken)
		return report, nil
	}
	return report, err
}

// directory returns the directory of a bundle, or "" where it is not a directory.
func directory(bundle string) string {
	if gate.IsTarball(bundle) || strings.Contains(bundle, "://") {
		return ""
	}
	return bundle
}

// run is one run over all tests of a bundle.
type run struct {
	Options
	source  bundles.Source
	dir     string // of the bundle, or ""
	compile engine.Options

	candidate *bundles.Candidate
	policy    *engine.Policy
	coverage  *bundles.Coverage
}

// all loads and compiles the bundle and runs its tests. An error about the bundle is a *brokenPolicy.
func (r *run) all(ctx context.Context, data []string, report *Report) error {
	var err error
	if r.candidate, err = bundles.Load(ctx, r.source, data...); err != nil {
		return broken(err)
	}
	report.Revision = r.candidate.Revision
	if r.policy, err = gate.Compile(ctx, r.candidate, r.compile); err != nil {
		return broken(err)
	}
	if r.Coverage {
		r.coverage = bundles.NewCoverage()
	}
	files, err := r.files()
	if err != nil {
		return exitcode.UsageError(err)
	}
	tests := &bundles.Tests{Bundle: r.candidate.Bundle, Filter: r.Filter, Timeout: r.Timeout, Parallel: r.Parallel,
		Coverage: r.coverage, Explain: true}
	progress := terminal.NewCounter(r.Progress, tests.Count()+len(files), "tests")
	defer progress.End()
	tests.Each = func(bundles.TestResult) { progress.Done() }
	results, err := tests.Run(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return broken(err)
	}
	for _, t := range results {
		report.Tests = append(report.Tests, r.rego(t))
	}
	report.Tests = append(report.Tests, r.messages(ctx, files, progress)...)
	if r.coverage != nil {
		c := r.coverage.Report(r.candidate.Bundle)
		report.Coverage = &c
	}
	return ctx.Err()
}

// rego returns the result of a Rego test.
func (r *run) rego(t bundles.TestResult) Result {
	out := Result{Kind: "rego", File: place(r.dir, t.File), Line: t.Line, Package: t.Package, Name: t.Name, Verdict: Passed,
		Seconds: t.Duration.Seconds(), Output: t.Output}
	var detail []string
	stopped := func(p *bundles.TestPlace) *Place {
		if p == nil {
			return nil
		}
		at := &Place{File: place(r.dir, p.File), Line: p.Line, Column: p.Column, Text: p.Text}
		detail = append(detail, fmt.Sprintf("%s:%d:%d: this did not hold:", at.File, at.Line, at.Column), indent(p.Detail, "    "))
		return at
	}
	for _, c := range t.Cases {
		verdict := Passed
		if !c.Passed {
			verdict = Failed
			detail = append(detail, "case "+c.Name)
		}
		out.Cases = append(out.Cases, CaseResult{Name: c.Name, Verdict: verdict, Stopped: stopped(c.Stopped)})
	}
	switch {
	case t.Skipped:
		out.Verdict = Skipped
	case t.Err != nil:
		out.Verdict, out.Message = Errored, firstLine(t.Err.Error())
		detail = append(detail, t.Err.Error())
	case !t.Passed:
		out.Verdict, out.Message = Failed, "the rule is not true"
		if out.Stopped = stopped(t.Stopped); out.Stopped != nil {
			out.Message = fmt.Sprintf("%s:%d: %s", out.Stopped.File, out.Stopped.Line, firstLine(out.Stopped.Text))
		}
	}
	out.Detail = strings.Join(detail, "\n")
	return out
}

// files returns the files of message tests, sorted.
func (r *run) files() ([]string, error) {
	roots := r.Cases
	if len(roots) == 0 && r.dir != "" {
		roots = []string{r.dir}
	}
	var files []string
	for _, root := range roots {
		err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && name != root && strings.HasPrefix(d.Name(), "."):
				return fs.SkipDir
			case d.IsDir(), name != root && (filepath.Ext(name) != ".txtar" || strings.HasPrefix(d.Name(), ".")):
				return nil
			}
			if r.Filter == nil || r.Filter.MatchString(filepath.ToSlash(name)) {
				files = append(files, name)
			}
			if len(files) > maxCases {
				return fmt.Errorf("%s: more than %d message tests", root, maxCases)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("looking for message tests: %w", err)
		}
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}

// messages runs the message tests, several at a time. It returns their results in the order of files.
func (r *run) messages(ctx context.Context, files []string, progress *terminal.Counter) []Result {
	results := make([]Result, len(files))
	var g errgroup.Group
	g.SetLimit(cmp.Or(r.Parallel, runtime.GOMAXPROCS(0)))
	for i, file := range files {
		g.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			start := time.Now()
			t := &results[i]
			*t = Result{Kind: "message", File: file, Line: 1, Name: strings.TrimSuffix(filepath.Base(file), ".txtar")}
			r.message(ctx, t)
			t.Seconds = time.Since(start).Seconds()
			progress.Done()
			return nil
		})
	}
	g.Wait()
	return results
}

// message runs one message test.
func (r *run) message(ctx context.Context, t *Result) {
	text, err := readCase(t.File)
	var c *trial.Case
	if err == nil {
		c, err = trial.ParseCase(t.File, text)
	}
	var result *trial.Result
	if err == nil {
		result, err = r.decide(ctx, c)
	}
	if err == nil && !c.Wants() && !r.Update {
		err = yamldoc.Findings{{File: t.File, Line: 1, Column: 1, Problem: "the case says nothing about what it wants", Mend: "add a section want, or run with --update, which writes it"}}
	}
	if err != nil {
		t.fail(err)
		return
	}
	differences := c.Compare(result)
	if c.Wants() && len(differences) == 0 {
		t.Verdict = Passed
		return
	}
	if r.Update {
		if text, err = c.Update(result); err == nil {
			err = safefile.WriteFile(t.File, text, 0o644)
		}
		if err != nil {
			t.fail(err)
			return
		}
		t.Verdict, t.Updated = Passed, true
		return
	}
	t.Verdict = Failed
	t.Message, t.Detail = difference(c, result, differences)
}

// fail records that a test could not be run, and why.
func (t *Result) fail(err error) {
	t.Verdict, t.Message = Errored, firstLine(err.Error())
	var found yamldoc.Findings
	if !errors.As(err, &found) {
		t.Detail = err.Error()
		return
	}
	t.Line = max(found[0].Line, 1)
	var lines []string
	for _, f := range found {
		lines = append(lines, f.Detail())
	}
	t.Detail = strings.Join(lines, "\n")
}

func readCase(file string) ([]byte, error) {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", file)
	case info.Size() > maxCase:
		return nil, fmt.Errorf("%s is longer than %d MiB", file, maxCase>>20)
	}
	return os.ReadFile(file)
}

// decide takes the transaction of a case through the engine, with the case's own policy or the bundle under test, and with the case's
// data merged over the policy's.
func (r *run) decide(ctx context.Context, c *trial.Case) (*trial.Result, error) {
	candidate, policy := r.candidate, r.policy
	var err error
	if len(c.Policy) > 0 {
		files := fstest.MapFS{}
		for name, text := range c.Policy {
			files[name] = &fstest.MapFile{Data: text}
		}
		if candidate, err = bundles.Load(ctx, bundles.FS(files, c.Name+": policy")); err != nil {
			return nil, broken(err)
		}
		policy = nil
	}
	data := candidate.Bundle.Data
	if c.Data != nil && len(strings.TrimSpace(string(c.Data))) > 0 {
		if data, err = candidate.WithDocument("data.yaml", c.Data); err != nil {
			return nil, caseData(c, err)
		}
	}
	switch {
	case policy == nil:
		b := *candidate.Bundle
		b.Data = data
		policy, err = engine.Compile(ctx, &b, r.compile)
	case c.Data != nil:
		policy, err = policy.WithData(ctx, data, policy.Revision())
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	if r.coverage != nil && len(c.Policy) == 0 { // the smoke transactions before do not count as tests
		policy = policy.Traced(r.coverage.Tracer())
	}
	eng := &engine.Engine{}
	eng.Swap(policy)
	result, err := trial.Run(ctx, eng, c.Transaction)
	if err != nil {
		return nil, fmt.Errorf("%s: message.eml: %w", c.Name, err)
	}
	return result, nil
}

// caseData returns an error of a data.yaml with its place in the file of the case.
func caseData(c *trial.Case, err error) error {
	var l *bundles.LoadError
	if !errors.As(err, &l) {
		return err
	}
	f := yamldoc.Finding{File: c.Name, Problem: "data.yaml: " + l.Message, Mend: l.Hint, Source: l.Text}
	if l.Line > 0 {
		f.Line, f.Column = c.DataLine+l.Line-1, max(l.Column, 1)
	}
	return yamldoc.Findings{f}
}

// brokenPolicy is the error about a bundle that does not load or compile.
type brokenPolicy struct {
	findings []contract.Finding
}

func (b *brokenPolicy) Error() string {
	var lines []string
	for _, f := range b.findings {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

// broken returns a *brokenPolicy with the findings in err.
func broken(err error) error {
	var c *contract.CompileError
	if errors.As(err, &c) {
		return &brokenPolicy{c.Findings}
	}
	return &brokenPolicy{gate.Findings(err)}
}
