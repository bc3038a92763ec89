package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing/fstest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/trial"
	"github.com/postern-mail/postern/internal/yamldoc"
)

// Bounds of message tests: of the files, and of one.
const (
	maxCases = 20_000
	maxCase  = 64 << 20
)

// testRun is one run over all tests of a bundle.
type testRun struct {
	flags   *testFlags
	source  bundles.Source
	dir     string // of the bundle; "" where it is in none
	options engine.Options
	out     *testOutput

	candidate *bundles.Candidate
	policy    *engine.Policy
	coverage  *bundles.Coverage
}

// all loads, compiles and runs. An error about the bundle is a *brokenPolicy.
func (r *testRun) all(ctx context.Context, data []string, report *testReport) error {
	var err error
	if r.candidate, err = bundles.Load(ctx, r.source, data...); err != nil {
		return broken(err)
	}
	report.Revision, report.dir = r.candidate.Revision, r.dir
	if r.policy, err = compile(ctx, r.candidate, r.options); err != nil {
		return broken(err)
	}
	if r.flags.coverage {
		r.coverage = bundles.NewCoverage()
	}
	files, err := r.files()
	if err != nil {
		return usageError(err)
	}
	tests := &bundles.Tests{Bundle: r.candidate.Bundle, Filter: r.flags.filter, Timeout: r.flags.timeout, Parallel: r.flags.parallel,
		Coverage: r.coverage, Explain: true}
	progress := r.out.progress(tests.Count() + len(files))
	defer progress.end()
	tests.Each = func(bundles.TestResult) { progress.done() }
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

// place of a file of the bundle as a person or an editor finds it.
func (r *testRun) place(file string) string {
	if r.dir == "" {
		return file
	}
	return filepath.Join(r.dir, filepath.FromSlash(file))
}

// rego makes the result of a Rego test.
func (r *testRun) rego(t bundles.TestResult) testResult {
	out := testResult{Kind: "rego", File: r.place(t.File), Line: t.Line, Package: t.Package, Name: t.Name, Verdict: testPassed,
		Seconds: t.Duration.Seconds(), Output: t.Output}
	var detail []string
	stopped := func(p *bundles.TestPlace) *testPlace {
		if p == nil {
			return nil
		}
		at := &testPlace{File: r.place(p.File), Line: p.Line, Column: p.Column, Text: p.Text}
		detail = append(detail, fmt.Sprintf("%s:%d:%d: this did not hold:", at.File, at.Line, at.Column), indent(p.Detail, "    "))
		return at
	}
	for _, c := range t.Cases {
		verdict := testPassed
		if !c.Passed {
			verdict = testFailed
			detail = append(detail, "case "+c.Name)
		}
		out.Cases = append(out.Cases, testCaseResult{Name: c.Name, Verdict: verdict, Stopped: stopped(c.Stopped)})
	}
	switch {
	case t.Skipped:
		out.Verdict = testSkipped
	case t.Err != nil:
		out.Verdict, out.Message = testError, firstLine(t.Err.Error())
		detail = append(detail, t.Err.Error())
	case !t.Passed:
		out.Verdict, out.Message = testFailed, "it is not true"
		if out.Stopped = stopped(t.Stopped); out.Stopped != nil {
			out.Message = fmt.Sprintf("%s:%d: %s", out.Stopped.File, out.Stopped.Line, firstLine(out.Stopped.Text))
		}
	}
	out.Detail = strings.Join(detail, "\n")
	return out
}

// files finds the message tests, sorted.
func (r *testRun) files() ([]string, error) {
	roots := r.flags.cases
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
			if r.flags.filter == nil || r.flags.filter.MatchString(filepath.ToSlash(name)) {
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

// messages runs the message tests, several at a time, and returns their results in the order of files.
func (r *testRun) messages(ctx context.Context, files []string, progress *testProgress) []testResult {
	results := make([]testResult, len(files))
	var g errgroup.Group
	g.SetLimit(parallel(r.flags.parallel))
	for i, file := range files {
		g.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			start := time.Now()
			t := &results[i]
			*t = testResult{Kind: "message", File: file, Line: 1, Name: strings.TrimSuffix(filepath.Base(file), ".txtar")}
			r.message(ctx, t)
			t.Seconds = time.Since(start).Seconds()
			progress.done()
			return nil
		})
	}
	g.Wait()
	return results
}

// message runs one message test.
func (r *testRun) message(ctx context.Context, t *testResult) {
	text, err := readCase(t.File)
	var c *trial.Case
	if err == nil {
		c, err = trial.ParseCase(t.File, text)
	}
	var result *trial.Result
	if err == nil {
		result, err = r.decide(ctx, c)
	}
	if err == nil && !c.Wants() && !r.flags.update {
		err = yamldoc.Findings{{File: t.File, Line: 1, Column: 1, Problem: "the case wants nothing", Mend: "add a section want, or let --update write it"}}
	}
	if err != nil {
		t.fail(err)
		return
	}
	differences := c.Compare(result)
	if c.Wants() && len(differences) == 0 {
		t.Verdict = testPassed
		return
	}
	if r.flags.update {
		if text, err = c.Update(result); err == nil {
			err = os.WriteFile(t.File, text, 0o644) // keeps links and the file's mode
		}
		if err != nil {
			t.fail(err)
			return
		}
		t.Verdict, t.Updated = testPassed, true
		return
	}
	t.Verdict = testFailed
	t.Message, t.Detail = difference(c, result, differences)
}

// fail notes why a test could not be run.
func (t *testResult) fail(err error) {
	t.Verdict, t.Message = testError, firstLine(err.Error())
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

// decide takes a case through its policy: the bundle under test, with the case's data over it, or its own.
func (r *testRun) decide(ctx context.Context, c *trial.Case) (*trial.Result, error) {
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
		policy, err = engine.Compile(ctx, &b, r.options)
	case c.Data != nil:
		policy, err = policy.WithData(ctx, data, policy.Revision())
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	if r.coverage != nil && len(c.Policy) == 0 { // not before: smoke transactions are no tests
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

// caseData puts what is wrong in a data.yaml at its place in the case.
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
