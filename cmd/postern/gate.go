package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/contract"
)

// gate is what a candidate must pass after it has been read, verified and parsed, and before it decides anything. Its errors
// are *bundles.Refusal.
type gate struct {
	options engine.Options
	tests   bool          // its own tests must pass
	timeout time.Duration // of all of them
}

func newGate(p config.Policy, o engine.Options) gate {
	o.Tests = p.Tests != "off"
	return gate{options: o, tests: p.Tests != "off", timeout: p.TestTimeout}
}

// policy compiles, lints, and asks about a plain transaction a stage. Where now has the same code, its data alone is exchanged.
func (g gate) policy(ctx context.Context, c *bundles.Candidate, now *engine.Policy) (*engine.Policy, error) {
	var next *engine.Policy
	var err error
	if now != nil {
		next, err = now.WithData(ctx, c.Bundle.Data, c.Revision)
	} else {
		next, err = compile(ctx, c, g.options)
	}
	if err != nil {
		return nil, &bundles.Refusal{Stage: stageOf(err), Err: bounded(err)}
	}
	return next, nil
}

// stageOf tells which of the steps of compiling failed.
func stageOf(err error) bundles.Stage {
	var c *contract.CompileError
	if !errors.As(err, &c) {
		return bundles.StageCompile
	}
	stage := bundles.StageTest // where everything that is wrong is in the tests
	for _, f := range c.Findings {
		switch {
		case strings.HasSuffix(f.File, "_test.rego"):
		case strings.HasPrefix(f.Code, "rego_"):
			return bundles.StageCompile
		case f.Code == "smoke":
			stage = bundles.StageSmoke
		case stage == bundles.StageTest:
			stage = bundles.StageLint
		}
	}
	return stage
}

// test runs the bundle's own tests, without the operator's documents, which their author did not know.
func (g gate) test(ctx context.Context, c *bundles.Candidate) error {
	limited, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	var failed []contract.Finding
	for _, part := range bundles.TestParts(c.Own) {
		results, err := bundles.RunTests(limited, part)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case limited.Err() != nil:
			return &bundles.Refusal{Stage: bundles.StageTest, Err: fmt.Errorf("its tests did not end within %v (policy.test_timeout)", g.timeout)}
		case err != nil:
			return &bundles.Refusal{Stage: bundles.StageTest, Err: err}
		}
		for _, r := range results {
			if !r.Passed && !r.Skipped {
				failed = append(failed, failedTest(r))
			}
		}
	}
	if len(failed) > 0 {
		return refusedByTests(failed)
	}
	return nil
}

func refusedByTests(failed []contract.Finding) error {
	return &bundles.Refusal{Stage: bundles.StageTest, Err: bounded(&contract.CompileError{Findings: failed})}
}

// failedTest is where a test that did not hold stands, and what it printed.
func failedTest(r bundles.TestResult) contract.Finding {
	f := contract.Finding{Severity: contract.Fault, Code: "test", File: r.File, Line: r.Line,
		Message: fmt.Sprintf("the test %s.%s fails", r.Package, r.Name)}
	if r.Err != nil {
		f.Message = fmt.Sprintf("the test %s.%s cannot be evaluated: %v", r.Package, r.Name, r.Err)
	}
	if out := strings.TrimSpace(r.Output); out != "" {
		f.Hint = "it printed: " + out[:min(len(out), 500)]
	}
	return f
}

// maxFindings bounds what the log and /healthz tell of one candidate.
const maxFindings = 25

// bounded keeps the first findings and says how many more there are.
func bounded(err error) error {
	c, ok := err.(*contract.CompileError)
	if !ok || len(c.Findings) <= maxFindings {
		return err
	}
	kept := slices.Clone(c.Findings[:maxFindings])
	return &contract.CompileError{Findings: append(kept, contract.Finding{Severity: contract.Fault, Code: "more",
		Message: fmt.Sprintf("and %d more; postern check and postern test tell all", len(c.Findings)-maxFindings)})}
}
