// Package gate takes the policy that a configuration names through every check that a policy must pass before it decides about mail:
// load, verify, compile, lint, smoke transactions, and its own tests. The daemon and the commands use the same gate, so that
// `postern check` and `postern test` find what the daemon would refuse.
//
// It starts no goroutines.
package gate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/version"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/contract"
)

// Gate is what a candidate must pass after it has been read, verified and parsed. The errors of its methods are *bundles.Refusal.
type Gate struct {
	Options engine.Options
	Tests   bool          // the candidate's own tests must pass
	Timeout time.Duration // for all of these tests together
}

// New returns the gate for a policy of the configuration. The tests of the default bundle are left out, because they are part of the
// program's own tests.
func New(p config.Policy, o engine.Options) Gate {
	o.Tests = p.Tests != "off" && p.Bundle != ""
	return Gate{Options: o, Tests: o.Tests, Timeout: p.TestTimeout}
}

// Tester returns a text that differs where the outcome of Test may differ for the same candidate: in another build of the program, or with
// other settings. It is "" if no tests run, or if the build cannot be told; then no outcome may be remembered.
func (g Gate) Tester() string {
	program, err := version.Fingerprint()
	if !g.Tests || err != nil {
		return ""
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %v %q", program, g.Timeout, g.Options.AllowBuiltins))
	return hex.EncodeToString(sum[:])
}

// Policy compiles and lints a candidate, and lets it decide about a plain transaction at each stage. Where active has the same code,
// only its data is replaced; a nil active has none.
func (g Gate) Policy(ctx context.Context, c *bundles.Candidate, active *engine.Policy) (*engine.Policy, error) {
	var next *engine.Policy
	var err error
	if active != nil {
		next, err = active.WithData(ctx, c.Bundle.Data, c.Revision)
	} else {
		next, err = Compile(ctx, c, g.Options)
	}
	if err != nil {
		return nil, &bundles.Refusal{Stage: stageOf(err), Err: bounded(err)}
	}
	return next, nil
}

// stageOf returns the step of compiling that failed.
func stageOf(err error) bundles.Stage {
	var c *contract.CompileError
	if !errors.As(err, &c) {
		return bundles.StageCompile
	}
	stage := bundles.StageTest // stays where every finding is in a test
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

// Test runs the candidate's own tests. It leaves out the operator's documents, which the author of the tests did not know.
func (g Gate) Test(ctx context.Context, c *bundles.Candidate) error {
	limited, cancel := context.WithTimeout(ctx, g.Timeout)
	defer cancel()
	var failed []contract.Finding
	for _, part := range bundles.TestParts(c.Own) {
		results, err := bundles.RunTests(limited, part)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case limited.Err() != nil:
			return &bundles.Refusal{Stage: bundles.StageTest, Err: fmt.Errorf("its tests did not end within %v (policy.test_timeout)", g.Timeout)}
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

// refusedByTests returns the refusal of a candidate whose tests failed.
func refusedByTests(failed []contract.Finding) error {
	return &bundles.Refusal{Stage: bundles.StageTest, Err: bounded(&contract.CompileError{Findings: failed})}
}

// failedTest returns a finding with the place of a failed test and the start of what it printed.
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

// MaxFindings bounds how many findings about one candidate the log and /healthz carry. One more says how many were left out.
const MaxFindings = 25

// bounded keeps the first MaxFindings findings and says how many more there are.
func bounded(err error) error {
	c, ok := err.(*contract.CompileError)
	if !ok || len(c.Findings) <= MaxFindings {
		return err
	}
	kept := slices.Clone(c.Findings[:MaxFindings])
	return &contract.CompileError{Findings: append(kept, contract.Finding{Severity: contract.Fault, Code: "more",
		Message: fmt.Sprintf("and %d more; postern check and postern test print all of them", len(c.Findings)-MaxFindings)})}
}
