package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/engine"
)

// candidates are the bundles that are tried beside the policy: one without effect (shadow), one on a share of identities
// (canary). They come through the same gate as the policy. One that is refused there, at the start as later, leaves the mail
// alone: it is not tried, and the log and /healthz say why.
type candidates struct {
	engine         *engine.Engine
	log            *slog.Logger
	shadow, canary *policyFeed // nil: not configured
	canaryMetrics  *engine.CanaryMetrics
	fallback       atomic.Pointer[string] // why the canary was taken off; nil: it was not
}

// newCandidates makes the feeds. Nothing is loaded yet.
func newCandidates(cfg *config.Config, eng *engine.Engine, log *slog.Logger, metrics prometheus.Registerer) (*candidates, error) {
	c := &candidates{engine: eng, log: log}
	feed := func(kind string, from config.Candidate, took func(*engine.Policy)) (*policyFeed, error) {
		f, err := newPolicyFeed(cfg.Policy.Of(from), compileOptions(cfg), filepath.Join(cfg.StateDir, "lastgood-"+kind), new(engine.Engine), log.With("policy", kind), nil)
		if err != nil {
			return nil, fmt.Errorf("policy.%s: %w", kind, err)
		}
		f.watcher.Metrics, f.watcher.Subsystem = metrics, kind
		f.took = took
		return f, nil
	}
	var err error
	if s := cfg.Policy.Shadow; s != nil {
		eng.Shadow = &engine.Shadow{Log: log, Metrics: engine.NewShadowMetrics(metrics)}
		if c.shadow, err = feed("shadow", *s, eng.SwapShadow); err != nil {
			return nil, err
		}
	}
	if k := cfg.Policy.Canary; k != nil {
		c.canaryMetrics = engine.NewCanaryMetrics(metrics)
		if c.canary, err = feed("canary", k.Candidate, func(p *engine.Policy) { c.try(p, k) }); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// feeds are those that are configured.
func (c *candidates) feeds() (list []*policyFeed) {
	for _, f := range []*policyFeed{c.shadow, c.canary} {
		if f != nil {
			list = append(list, f)
		}
	}
	return list
}

// try puts a new canary in charge of its share.
func (c *candidates) try(p *engine.Policy, k *config.Canary) {
	c.fallback.Store(nil)
	c.engine.SwapCanary(&engine.Canary{
		Policy: p, Share: k.Share, MaxFailures: k.MaxFailures, MaxRefusals: k.MaxRefusals, MinDecisions: k.MinDecisions, Metrics: c.canaryMetrics,
		Fallback: func(reason string) {
			c.fallback.Store(&reason)
			c.log.Error("canary policy was taken off; everybody is on the active policy", "revision", p.Revision(), "reason", reason)
		},
	})
	c.log.Info("canary policy decides for a share of identities", "revision", p.Revision(), "share", k.Share)
}

// start loads the candidates, so that they are there with the first message. What is wrong with one is said and tried again.
func (c *candidates) start(ctx context.Context) {
	for _, f := range c.feeds() {
		if err := f.watcher.Start(ctx); err != nil {
			f.log.Error("candidate is not tried", "error", err)
		}
	}
}

// run follows the sources, and evaluates for the shadow, until ctx ends.
func (c *candidates) run(ctx context.Context, group *errgroup.Group) {
	for _, f := range c.feeds() {
		group.Go(func() error { return f.watcher.Run(ctx) })
	}
	if c.shadow != nil {
		group.Go(func() error { c.engine.Shadow.Run(ctx); return nil })
	}
}

// reload looks at the sources now.
func (c *candidates) reload() {
	for _, f := range c.feeds() {
		f.watcher.Trigger()
	}
}

// candidateHealth is what /healthz?verbose says of one candidate.
type candidateHealth struct {
	Revision string         `json:"revision,omitempty"`
	Refused  *refusedHealth `json:"refused,omitempty"`
	Fallback string         `json:"fallback,omitempty"` // why the canary was taken off
}

func healthOf(f *policyFeed) *candidateHealth {
	if f == nil {
		return nil
	}
	h := &candidateHealth{Refused: refusedBy(f)}
	if p := f.engine.Policy(); p != nil {
		h.Revision = p.Revision()
	}
	return h
}

// health tells of both.
func (c *candidates) health() (shadow, canary *candidateHealth) {
	shadow, canary = healthOf(c.shadow), healthOf(c.canary)
	if why := c.fallback.Load(); canary != nil && why != nil {
		canary.Fallback = *why
	}
	return shadow, canary
}
