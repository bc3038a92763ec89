// Package feed brings policies from their sources into the engine: the active policy, and the candidates beside it (shadow and canary).
// A policy passes the gate before it becomes active. One that is refused changes nothing.
//
// The caller owns the goroutines: bundles.Watcher.Run and Candidates.Run run until their context ends.
package feed

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/gate"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/contract"
)

// Feed brings policies from one source into one engine. Its Watcher reads and verifies them and keeps the last good copy; its gate compiles
// them and runs their tests.
type Feed struct {
	Watcher *bundles.Watcher // Start loads the first policy, Run follows the source

	engine *engine.Engine
	gate   gate.Gate
	took   func(*engine.Policy) // called with each policy that became active; may be nil
	log    *slog.Logger

	// Only activate uses these, and the watcher never calls it twice at once.
	modules string // ModulesHash of the active policy
	own     string // OwnHash of the last candidate whose tests passed
}

// Patience is how long a start tries the policy at the source before it uses the last good copy. Clients that have connected wait meanwhile:
// Sendmail waits 10 s for a milter (its time-out R), Postfix 30 s (milter_command_timeout), mail programs longer.
const Patience = 8 * time.Second

// New returns the feed of the policy p, which is compiled with o, into eng. keep is the directory of the last good copy, or "" to keep
// none. metrics may be nil.
func New(p config.Policy, o engine.Options, keep string, eng *engine.Engine, log *slog.Logger, metrics prometheus.Registerer) (*Feed, error) {
	source, err := gate.Source(p)
	if err != nil {
		return nil, err
	}
	f := &Feed{engine: eng, gate: gate.New(p, o), log: log}
	if p.Bundle == "" && len(p.Data) == 0 {
		keep = "" // the default bundle is part of the program
	}
	f.Watcher = &bundles.Watcher{Source: source, Data: p.Data, Verify: gate.Verification(p), Activate: f.activate, Keep: keep, Tester: f.gate.Tester(),
		Patience: Patience, Poll: p.Poll, Log: log, Metrics: metrics}
	return f, nil
}

// ForConfig returns the feed of a configuration's own policy. It keeps the last good copy in the state directory.
func ForConfig(cfg *config.Config, eng *engine.Engine, log *slog.Logger, metrics prometheus.Registerer) (*Feed, error) {
	return New(cfg.Policy, gate.Options(cfg), filepath.Join(cfg.StateDir, "lastgood"), eng, log, metrics)
}

// activate makes a candidate the active policy if it passes the gate. It is called by Watcher.
func (f *Feed) activate(ctx context.Context, c *bundles.Candidate) error {
	start := time.Now()
	next, err := f.gate.Policy(ctx, c, f.withSameCode(c))
	if err != nil {
		return err
	}
	// The tests are run without the operator's documents, so they need not run again where only those differ. They need not run where they
	// passed before this process began (Tested), nor for the last good copy: it passed them before, and mail is waiting.
	if f.gate.Tests && !c.LastGood && !c.Tested && c.OwnHash != f.own {
		if err := f.gate.Test(ctx, c); err != nil {
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

// withSameCode returns the active policy if c has the same code and differs only in its data, or else nil.
func (f *Feed) withSameCode(c *bundles.Candidate) *engine.Policy {
	if f.modules != c.ModulesHash {
		return nil
	}
	return f.engine.Policy()
}

// Refused is a policy at the source that is not active, for /healthz.
type Refused struct {
	Source   string             `json:"source"`
	Stage    string             `json:"stage"` // read, signature, load, compile, lint, test or smoke
	Since    time.Time          `json:"since"`
	Findings []contract.Finding `json:"findings"`

	Text string `json:"-"` // all findings as text
}

// Refused returns what the gate refused last, or nil if what is at the source is active.
func (f *Feed) Refused() *Refused {
	r := f.Watcher.Refused()
	if r == nil {
		return nil
	}
	return &Refused{Source: f.Watcher.Source.String(), Stage: string(r.Stage), Since: r.Since.UTC(), Findings: gate.Findings(&r.Refusal), Text: r.Error()}
}
