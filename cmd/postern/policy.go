package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/lint"
	"github.com/postern-mail/postern/milter"
	"github.com/postern-mail/postern/policies"
	"github.com/postern-mail/postern/smtpd"
)

// policyFeed brings bundles from one source into one engine: its watcher reads and verifies them and keeps the last good copy;
// the gate compiles them, runs their tests, and swaps.
type policyFeed struct {
	engine  *engine.Engine
	watcher *bundles.Watcher
	gate    gate
	took    func(*engine.Policy) // told of what engine has taken; nil: nobody is
	log     *slog.Logger

	modules string // ModulesHash of the active policy; only activate touches it, and it never runs twice at once
	own     string // OwnHash of the last candidate whose tests passed
}

// doors are the front ends that a configuration opens.
func doors(cfg *config.Config) []lint.Door {
	var in []lint.Door
	if cfg.Submission.Enabled() {
		in = append(in, lint.Door{Name: "submission", Unknown: smtpd.NeverKnown()})
	}
	if len(cfg.Milter.Listen) > 0 {
		in = append(in, lint.Door{Name: "milter", Unknown: milter.NeverKnown()})
	}
	return in
}

// newPolicyFeed feeds eng. keep is the directory of the last good copy; "": none is kept.
func newPolicyFeed(p config.Policy, o engine.Options, keep string, eng *engine.Engine, log *slog.Logger, metrics prometheus.Registerer) (*policyFeed, error) {
	source, err := policySource(p)
	if err != nil {
		return nil, err
	}
	f := &policyFeed{engine: eng, gate: newGate(p, o), log: log}
	if p.Bundle == "" {
		f.gate.tests, f.gate.options.Tests = false, false // the program's own tests have run and checked them
		if len(p.Data) == 0 {
			keep = "" // the embedded bundle is its own copy
		}
	}
	f.watcher = &bundles.Watcher{Source: source, Data: p.Data, Verify: verification(p), Activate: f.activate, Keep: keep, Poll: p.Poll, Log: log, Metrics: metrics}
	return f, nil
}

// keepDir is where the last good copy lies.
func keepDir(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "lastgood") }

// compileOptions are how the configuration's own policy is compiled, and candidates beside it.
func compileOptions(cfg *config.Config) engine.Options {
	return engine.Options{Timeout: cfg.Policy.Timeout, AllowBuiltins: cfg.Policy.AllowBuiltins, Doors: doors(cfg),
		FullInput: cfg.DecisionLog.File != "" && cfg.DecisionLog.Input == "full", NamedFields: cfg.DecisionLog.File == ""}
}

// policySource of a configuration; without a bundle it is the one inside the program.
func policySource(p config.Policy) (bundles.Source, error) {
	if p.Bundle == "" {
		return bundles.FS(policies.FS, "default bundle"), nil
	}
	return bundles.Open(p.Bundle, p.Remote())
}

// isTarball says that a bundle's name is that of a file, by its ending.
func isTarball(name string) bool {
	return strings.HasSuffix(name, ".tar.gz") || strings.HasSuffix(name, ".tgz")
}

// bundleName is how messages call the bundle.
func bundleName(p config.Policy) string {
	if s, err := policySource(p); err == nil {
		return s.String()
	}
	return p.Bundle
}

// verification is nil where no keys are configured, and for the bundle inside the program.
func verification(p config.Policy) *bundles.Verification {
	if p.Bundle == "" {
		return nil
	}
	return p.Verify.Bundles()
}

// loadCandidate reads and parses what is configured, once, with more data documents laid over it.
func loadCandidate(ctx context.Context, p config.Policy, data ...string) (*bundles.Candidate, error) {
	source, err := policySource(p)
	if err != nil {
		return nil, err
	}
	l := &bundles.Loader{Source: source, Data: append(p.Data[:len(p.Data):len(p.Data)], data...), Verify: verification(p)}
	return l.Load(ctx)
}

// activate is the gate of the watcher.
func (f *policyFeed) activate(ctx context.Context, c *bundles.Candidate) error {
	start := time.Now()
	next, err := f.gate.policy(ctx, c, f.now(c))
	if err != nil {
		return err
	}
	// The tests are of the bundle as it was built: where just the operator's documents differ, they have passed. A copy of what
	// was active has passed them before, and mail is waiting.
	if f.gate.tests && !c.LastGood && c.OwnHash != f.own {
		if err := f.gate.test(ctx, c); err != nil {
			return err
		}
		f.own = c.OwnHash
	}
	f.engine.Swap(next)
	if f.took != nil {
		f.took(next)
	}
	f.modules = c.ModulesHash
	for _, w := range next.Warnings() {
		f.log.Warn("policy", "finding", w.String())
	}
	f.log.Debug("policy compiled", "revision", c.Revision, "took", time.Since(start).Round(time.Microsecond))
	return nil
}

// now is the active policy if c has its code and differs in data alone.
func (f *policyFeed) now(c *bundles.Candidate) *engine.Policy {
	if f.modules != c.ModulesHash {
		return nil
	}
	return f.engine.Policy()
}

// compile makes a policy of a candidate, under the candidate's revision.
func compile(ctx context.Context, c *bundles.Candidate, o engine.Options) (*engine.Policy, error) {
	b := *c.Bundle
	b.Manifest.Revision = c.Revision
	return engine.Compile(ctx, &b, o)
}
