package feed

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/gate"
	"github.com/postern-mail/postern/engine"
)

// Candidates are the policies that run beside the active one: the shadow without effect, and the canary for a share of identities. They
// pass the same gate. One that is refused has no effect on mail, also at the start; the log and /healthz say why.
type Candidates struct {
	engine         *engine.Engine
	log            *slog.Logger
	shadow, canary *Feed // nil where not configured
	canaryMetrics  *engine.CanaryMetrics
	fallback       atomic.Pointer[string] // why the canary was removed; nil if it was not
}

// NewCandidates returns the candidates of a configuration, which run in eng. It loads none of them.
func NewCandidates(cfg *config.Config, eng *engine.Engine, log *slog.Logger, metrics prometheus.Registerer) (*Candidates, error) {
	c := &Candidates{engine: eng, log: log}
	feed := func(kind string, from config.Candidate, took func(*engine.Policy)) (*Feed, error) {
		f, err := New(cfg.Policy.Of(from), gate.Options(cfg), filepath.Join(cfg.StateDir, "lastgood-"+kind), new(engine.Engine), log.With("policy", kind), nil)
		if err != nil {
			return nil, fmt.Errorf("policy.%s: %w", kind, err)
		}
		f.Watcher.Metrics, f.Watcher.Subsystem = metrics, kind
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
		if c.canary, err = feed("canary", k.Candidate, func(p *engine.Policy) { c.swapCanary(p, k) }); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// feeds returns the feeds that are configured.
func (c *Candidates) feeds() (list []*Feed) {
	for _, f := range []*Feed{c.shadow, c.canary} {
		if f != nil {
			list = append(list, f)
		}
	}
	return list
}

// swapCanary lets a new canary decide for its share of identities.
func (c *Candidates) swapCanary(p *engine.Policy, k *config.Canary) {
	c.fallback.Store(nil)
	c.engine.SwapCanary(&engine.Canary{
		Policy: p, Share: k.Share, MaxFailures: k.MaxFailures, MaxRefusals: k.MaxRefusals, MinDecisions: k.MinDecisions,
		MinIdentities: k.MinIdentities, Window: k.Window, Metrics: c.canaryMetrics,
		Fallback: func(reason string) {
			c.fallback.Store(&reason)
			c.log.Error("canary policy was taken off; the active policy decides for all identities", "revision", p.Revision(), "reason", reason)
		},
	})
	c.log.Info("canary policy decides for a share of identities", "revision", p.Revision(), "share", k.Share)
}

// Start loads the candidates, so that they run from the first message on. Run loads again what cannot be loaded now, or not before
// the deadline: mail does not depend on candidates, so it does not wait longer for them.
func (c *Candidates) Start(ctx context.Context, deadline time.Time) {
	limited, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	for _, f := range c.feeds() {
		switch err := f.Watcher.Start(limited); {
		case err == nil:
		case limited.Err() != nil && ctx.Err() == nil:
			f.log.Warn("candidate is not used yet; it is loaded while mail is served")
		default:
			f.log.Error("candidate is not used", "error", err)
		}
	}
}

// Run starts goroutines in group that follow the sources and evaluate the shadow, until ctx ends.
func (c *Candidates) Run(ctx context.Context, group *errgroup.Group) {
	for _, f := range c.feeds() {
		group.Go(func() error { return f.Watcher.Run(ctx) })
	}
	if c.shadow != nil {
		group.Go(func() error { c.engine.Shadow.Run(ctx); return nil })
	}
}

// Reload makes Run look at the sources now.
func (c *Candidates) Reload() {
	for _, f := range c.feeds() {
		f.Watcher.Trigger()
	}
}

// CandidateHealth is what /healthz?verbose says about one candidate.
type CandidateHealth struct {
	Revision string   `json:"revision,omitempty"`
	Refused  *Refused `json:"refused,omitempty"`
	Fallback string   `json:"fallback,omitempty"` // why the canary was removed
}

func healthOf(f *Feed) *CandidateHealth {
	if f == nil {
		return nil
	}
	h := &CandidateHealth{Refused: f.Refused()}
	if p := f.engine.Policy(); p != nil {
		h.Revision = p.Revision()
	}
	return h
}

// Health returns the health of both candidates, nil where one is not configured.
func (c *Candidates) Health() (shadow, canary *CandidateHealth) {
	shadow, canary = healthOf(c.shadow), healthOf(c.canary)
	if why := c.fallback.Load(); canary != nil && why != nil {
		canary.Fallback = *why
	}
	return shadow, canary
}
