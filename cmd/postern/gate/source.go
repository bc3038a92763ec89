package gate

import (
	"context"
	"strings"
	"time"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/policies"
)

// Source returns where the policy comes from. Without a bundle that is the default bundle, which is part of the program.
func Source(p config.Policy) (bundles.Source, error) {
	if p.Bundle == "" {
		return bundles.FS(policies.FS, "default bundle"), nil
	}
	return bundles.Open(p.Bundle, p.Remote())
}

// IsTarball reports whether a bundle's name ends like that of a tarball.
func IsTarball(name string) bool {
	return strings.HasSuffix(name, ".tar.gz") || strings.HasSuffix(name, ".tgz")
}

// Name returns how messages name the bundle.
func Name(p config.Policy) string {
	if s, err := Source(p); err == nil {
		return s.String()
	}
	return p.Bundle
}

// Verification returns how the signature is verified. It is nil where no keys are configured, and for the default bundle.
func Verification(p config.Policy) *bundles.Verification {
	if p.Bundle == "" {
		return nil
	}
	return p.Verify.Bundles()
}

// Load reads, verifies and parses the policy once, with the data documents of the configuration and then those of data merged over its
// own. Findings reads its error.
func Load(ctx context.Context, p config.Policy, data ...string) (*bundles.Candidate, error) {
	source, err := Source(p)
	if err != nil {
		return nil, err
	}
	l := &bundles.Loader{Source: source, Data: append(p.Data[:len(p.Data):len(p.Data)], data...), Verify: Verification(p)}
	return l.Load(ctx)
}

// Doors returns the names of the front ends for which a policy is compiled.
func Doors(submission, milters bool) []string {
	var in []string
	if submission {
		in = append(in, "submission")
	}
	if milters {
		in = append(in, "milter")
	}
	return in
}

// Options returns how the policies of a configuration are compiled.
func Options(cfg *config.Config) engine.Options {
	return engine.Options{Timeout: cfg.Policy.Timeout, AllowBuiltins: cfg.Policy.AllowBuiltins,
		Doors:     Doors(cfg.Submission.Enabled(), len(cfg.Milter.Listen) > 0),
		FullInput: cfg.DecisionLog.File != "" && cfg.DecisionLog.Input == "full", NamedFields: cfg.DecisionLog.File == ""}
}

// Compile makes a policy of a candidate. The policy has the candidate's revision.
func Compile(ctx context.Context, c *bundles.Candidate, o engine.Options) (*engine.Policy, error) {
	b := *c.Bundle
	b.Manifest.Revision = c.Revision
	return engine.Compile(ctx, &b, o)
}

// Check compiles and lints a candidate and returns everything that is wrong with it.
func Check(ctx context.Context, c *bundles.Candidate, o engine.Options) []contract.Finding {
	b := *c.Bundle
	b.Manifest.Revision = c.Revision
	return engine.Check(ctx, &b, o)
}

// OfflineTimeout bounds an evaluation outside the daemon. No client waits for it, and a busy machine must not change its result.
const OfflineTimeout = 10 * time.Second

// OfflinePolicy returns the policy of the configuration, or that of bundle, whose signature is not verified; bundle is a directory or a
// tarball, or "". data names more data documents. An evaluation may take OfflineTimeout.
func OfflinePolicy(ctx context.Context, cfg *config.Config, bundle string, data []string) (*engine.Policy, error) {
	o := Options(cfg)
	o.Timeout = OfflineTimeout
	return policyFor(ctx, cfg.Policy, bundle, data, o)
}

// TrialPolicy is OfflinePolicy with the time-out of the configuration, so that a policy that is too slow fails as it does in the daemon.
func TrialPolicy(ctx context.Context, cfg *config.Config, bundle string, data []string) (*engine.Policy, error) {
	return policyFor(ctx, cfg.Policy, bundle, data, Options(cfg))
}

func policyFor(ctx context.Context, p config.Policy, bundle string, data []string, o engine.Options) (*engine.Policy, error) {
	if bundle != "" {
		p.Bundle = bundle
		p.Verify = config.Verify{} // the bundle of a flag decides about no mail
	}
	c, err := Load(ctx, p, data...)
	if err != nil {
		return nil, err
	}
	return Compile(ctx, c, o)
}
