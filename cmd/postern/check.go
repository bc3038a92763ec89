package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/postfix"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/yamldoc"
)

// checkReport is what `postern check --json` prints.
type checkReport struct {
	OK            bool              `json:"ok"`
	Configuration yamldoc.Findings  `json:"configuration"`
	Policy        []engine.Finding  `json:"policy"`
	Postfix       []postfix.Finding `json:"postfix,omitempty"`
	Bundle        string            `json:"bundle"`
	Revision      string            `json:"revision,omitempty"`

	lines []string
}

type checkFlags struct {
	data          []string
	postfix       bool
	postfixConfig string
}

func newCheckCmd(p *program) *cobra.Command {
	f := &checkFlags{}
	cmd := &cobra.Command{
		Use:   "check [BUNDLE]",
		Short: "Check the configuration, the policy, and a Postfix beside it",
		Long: `Check the configuration and the policy that it names, or just BUNDLE (a directory, a .tar.gz, https:// or oci://), as
strictly as the server does before it takes a policy in: everything that is wrong, with file, line and column, and how to
mend it. With BUNDLE and --config, the configuration's keys verify its signature.
With --postfix, read a Postfix's configuration through postconf, too, and tell what in it will not do what the owner
of a milter expects.

Exit codes: 0 nothing is wrong (warnings apart); 1 something is; 2 usage.`,
		Example: `  postern check --config postern.yaml
  postern check --json ./policies
  postern check --config postern.yaml bundle.tar.gz
  postern check --config postern.yaml --postfix --postfix-config /etc/postfix`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, p, args) },
	}
	cmd.Flags().StringSliceVar(&f.data, "data", nil, "extra data documents, merged over the bundle's data")
	cmd.Flags().BoolVar(&f.postfix, "postfix", false, "check the Postfix beside it")
	cmd.Flags().StringVar(&f.postfixConfig, "postfix-config", "", "Postfix's configuration directory (default: its own)")
	return cmd
}

func (f *checkFlags) run(cmd *cobra.Command, p *program, args []string) error {
	r := &checkReport{OK: true, Configuration: yamldoc.Findings{}, Policy: []engine.Finding{}}
	var cfg *config.Config
	if len(args) == 0 {
		var found yamldoc.Findings
		var err error
		if cfg, found, err = p.loadConfig(); cfg == nil && len(found) == 0 {
			return err
		}
		r.configuration(found)
	} else {
		var err error
		if cfg, err = p.bundleConfig(args[0]); err != nil {
			return err
		}
	}
	if cfg != nil {
		r.policy(cmd.Context(), cfg, f.data)
		if f.postfix {
			r.beside(cmd.Context(), cfg, f.postfixConfig)
		}
	}
	if p.json {
		if err := writeJSON(cmd.OutOrStdout(), r); err != nil {
			return err
		}
	} else {
		r.print(cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	if !r.OK {
		return refused()
	}
	return nil
}

func (r *checkReport) configuration(found yamldoc.Findings) {
	for _, f := range found {
		r.Configuration = append(r.Configuration, f)
		r.lines = append(r.lines, f.Detail())
		r.OK = r.OK && f.Warning
	}
}

func (r *checkReport) policy(ctx context.Context, cfg *config.Config, data []string) {
	r.Bundle = bundleName(cfg.Policy)
	c, err := loadCandidate(ctx, cfg.Policy, data...)
	if err != nil {
		r.Policy = append(r.Policy, loadFindings(err)...)
	} else {
		r.Revision = c.Revision
		b := *c.Bundle
		b.Manifest.Revision = c.Revision
		r.Policy = append(r.Policy, engine.Check(ctx, &b, compileOptions(cfg))...)
	}
	for _, f := range r.Policy {
		r.lines = append(r.lines, f.String())
		r.OK = r.OK && f.Severity == engine.Warning
	}
}

// loadFindings makes findings of what the loader says, one for each place.
func loadFindings(err error) []engine.Finding {
	var c *engine.CompileError
	if errors.As(err, &c) {
		return c.Findings
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var out []engine.Finding
		for _, e := range many.Unwrap() {
			out = append(out, loadFindings(e)...)
		}
		return out
	}
	f := engine.Finding{Severity: engine.Fault, Code: "load", Message: err.Error()}
	var r *bundles.Refusal
	if errors.As(err, &r) {
		f.Code = string(r.Stage)
	}
	var l *bundles.LoadError
	if !errors.As(err, &l) {
		return []engine.Finding{f}
	}
	var out []engine.Finding
	for _, l := range append([]*bundles.LoadError{l}, l.More...) {
		f.File, f.Line, f.Column, f.Text, f.Message, f.Hint = cmp.Or(l.File, l.Source), l.Line, l.Column, l.Text, l.Message, l.Hint
		out = append(out, f)
	}
	return out
}

func (r *checkReport) beside(ctx context.Context, cfg *config.Config, dir string) {
	setup, err := postfix.Read(ctx, dir)
	if err != nil {
		r.OK = false
		r.lines = append(r.lines, err.Error())
		return
	}
	var listen []string
	for _, l := range cfg.Milter.Listen {
		listen = append(listen, l.Network+":"+l.Address)
	}
	r.Postfix = postfix.Check(setup, listen, cfg.Policy.Timeout)
	for _, f := range r.Postfix {
		r.lines = append(r.lines, fmt.Sprintf("%s: %s: %s\n    %s", f.Where, f.Severity, f.Message, f.Mend))
		r.OK = r.OK && f.Severity == postfix.Warning
	}
}

func (r *checkReport) print(out, errs io.Writer) {
	for _, l := range r.lines {
		fmt.Fprintln(errs, l)
	}
	if r.OK {
		fmt.Fprintf(out, "ok: %s, revision %s\n", r.Bundle, r.Revision)
	}
}
