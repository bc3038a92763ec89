package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/milter"
	"github.com/postern-mail/postern/policies"
	"github.com/postern-mail/postern/smtpd"
)

// policyFeed brings bundles into the engine: it loads, compiles, swaps, and keeps the last good copy.
type policyFeed struct {
	engine  *engine.Engine
	watcher *bundles.Watcher
	options engine.Options
	keep    string // directory of the last good copy; "": none is kept
	log     *slog.Logger

	modules string // ModulesHash of the active policy; only the gate touches it, and it never runs twice at once
}

func newPolicyFeed(cfg *config.Config, eng *engine.Engine, log *slog.Logger, metrics prometheus.Registerer) *policyFeed {
	f := &policyFeed{engine: eng, options: compileOptions(cfg), keep: filepath.Join(cfg.StateDir, "lastgood"), log: log}
	f.options.Tests = true
	f.watcher = &bundles.Watcher{Source: bundleSource(cfg.Policy.Bundle), Data: cfg.Policy.Data, Activate: f.activate, Log: log, Metrics: metrics}
	if cfg.Policy.Bundle == "" && len(cfg.Policy.Data) == 0 {
		f.keep = "" // the embedded bundle is its own copy
	}
	return f
}

func compileOptions(cfg *config.Config) engine.Options {
	return engine.Options{Timeout: cfg.Policy.Timeout, AllowBuiltins: cfg.Policy.AllowBuiltins, Doors: doors(cfg),
		FullInput: cfg.DecisionLog.File != "" && cfg.DecisionLog.Input == "full"}
}

// doors are the front ends that a configuration opens.
func doors(cfg *config.Config) []engine.Door {
	var in []engine.Door
	if cfg.Submission.Enabled() {
		in = append(in, engine.Door{Name: "submission", Unknown: smtpd.NeverKnown()})
	}
	if len(cfg.Milter.Listen) > 0 {
		in = append(in, engine.Door{Name: "milter", Unknown: milter.NeverKnown()})
	}
	return in
}

// bundleSource of a configured name; "" is the bundle inside the program.
func bundleSource(name string) bundles.Source {
	switch {
	case name == "":
		return bundles.FS(policies.FS, "default bundle")
	case isTarball(name):
		return bundles.Tarball(name)
	}
	return bundles.Dir(name)
}

func isTarball(name string) bool {
	ok, _ := filepath.Match("*.tar.gz", filepath.Base(name))
	tgz, _ := filepath.Match("*.tgz", filepath.Base(name))
	return ok || tgz
}

// start activates the configured bundle; where it is broken, the last good copy; where there is none, it fails.
func (f *policyFeed) start(ctx context.Context) error {
	broken := f.watcher.Start(ctx)
	if broken == nil {
		return nil
	}
	if f.keep == "" {
		return broken
	}
	c, err := bundles.LoadLastGood(ctx, f.keep)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the policy is broken and there is no last good copy to start with:\n%w", broken)
	}
	if err == nil {
		err = f.swap(ctx, c)
	}
	if err != nil {
		return errors.Join(broken, fmt.Errorf("the last good copy does not help: %w", err))
	}
	f.watcher.Adopt(c)
	f.log.Error("policy is broken; started with the last good copy", "revision", c.Revision, "error", broken)
	return nil
}

// activate is the gate of the watcher.
func (f *policyFeed) activate(ctx context.Context, c *bundles.Candidate) error {
	start := time.Now()
	if err := f.swap(ctx, c); err != nil {
		return err
	}
	for _, w := range f.engine.Policy().Warnings() {
		f.log.Warn("policy", "finding", w.String())
	}
	f.log.Debug("policy compiled", "revision", c.Revision, "took", time.Since(start).Round(time.Microsecond))
	if f.keep != "" {
		if err := bundles.SaveLastGood(f.keep, c); err != nil {
			f.log.Error("last good copy was not kept; the policy is active all the same", "error", err)
		}
	}
	return nil
}

// swap compiles c, or only takes its data where the code is what it was, and makes it active.
func (f *policyFeed) swap(ctx context.Context, c *bundles.Candidate) error {
	var next *engine.Policy
	var err error
	if now := f.engine.Policy(); now != nil && f.modules == c.ModulesHash {
		next, err = now.WithData(ctx, c.Bundle.Data, c.Revision)
	} else {
		next, err = compile(ctx, c, f.options)
	}
	if err != nil {
		return err
	}
	f.engine.Swap(next)
	f.modules = c.ModulesHash
	return nil
}

// compile makes a policy of a candidate, under the candidate's revision.
func compile(ctx context.Context, c *bundles.Candidate, o engine.Options) (*engine.Policy, error) {
	b := *c.Bundle
	b.Manifest.Revision = c.Revision
	return engine.Compile(ctx, &b, o)
}
