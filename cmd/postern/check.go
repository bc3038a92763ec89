package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/postfix"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/engine/lint"
	"github.com/postern-mail/postern/internal/yamldoc"
	"github.com/postern-mail/postern/milter"
	"github.com/postern-mail/postern/smtpd"
)

// checkReport is what `postern check --json` prints. Its fields, and those of the findings, are stable.
type checkReport struct {
	OK            bool               `json:"ok"`
	Configuration yamldoc.Findings   `json:"configuration"`
	Policy        []contract.Finding `json:"policy"`
	Postfix       []postfix.Finding  `json:"postfix,omitempty"`
	Bundle        string             `json:"bundle"`
	Revision      string             `json:"revision,omitempty"`
	Errors        int                `json:"errors"`
	Warnings      int                `json:"warnings"`

	settings map[string]any // of the policy's data; nil: it has none
	lines    []string
}

type checkFlags struct {
	data          []string
	door          string
	format        string
	strict        bool
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
mend it. docs/reference/check.md explains every finding by its code.

With BUNDLE and --config, BUNDLE is checked in place of the configuration's, and the configuration's keys verify its
signature. The policy is checked for the front ends that the configuration opens; for BUNDLE alone, --door names them.

With --postfix, read a Postfix's configuration through postconf, too, and tell what in it will not do what the owner
of a milter expects.

Exit codes: 0 nothing is wrong (warnings apart, unless --strict); 1 something is; 2 usage.`,
		Example: `  postern check --config postern.yaml
  postern check --strict --door both ./policies            for CI
  postern check --json ./policies | jq -r '.policy[] | "\(.file):\(.line): \(.message)"'
  postern check --format sarif ./policies > postern.sarif  for code scanning
  postern check --config postern.yaml bundle.tar.gz
  postern check --config postern.yaml --postfix --postfix-config /etc/postfix`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, p, args) },
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	cmd.Flags().StringSliceVar(&f.data, "data", nil, "extra data documents, merged over the bundle's data")
	cmd.Flags().StringVar(&f.door, "door", "", "front ends to check the policy for: submission, milter or both (default: the configuration's)")
	cmd.Flags().StringVar(&f.format, "format", "text", "text, json or sarif (2.1.0)")
	cmd.Flags().BoolVar(&f.strict, "strict", false, "fail on warnings, too")
	cmd.Flags().BoolVar(&f.postfix, "postfix", false, "check the Postfix beside it")
	cmd.Flags().StringVar(&f.postfixConfig, "postfix-config", "", "Postfix's configuration directory (default: its own)")
	cmd.RegisterFlagCompletionFunc("door", cobra.FixedCompletions([]string{"submission", "milter", "both"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"text", "json", "sarif"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (f *checkFlags) run(cmd *cobra.Command, p *program, args []string) error {
	options, err := f.options(p)
	if err != nil {
		return err
	}
	r := &checkReport{Configuration: yamldoc.Findings{}, Policy: []contract.Finding{}}
	cfg := config.Default(".")
	if len(args) == 0 || p.configFile != "" {
		var found yamldoc.Findings
		if cfg, found, err = p.loadConfig(); cfg == nil && len(found) == 0 {
			return err
		}
		r.configuration(found)
	}
	if cfg != nil {
		bare := len(args) > 0 && p.configFile == ""
		if len(args) > 0 {
			cfg.Policy.Bundle = args[0]
		}
		r.policy(cmd.Context(), cfg, f.data, options(cfg, bare))
		if f.postfix {
			r.beside(cmd.Context(), cfg, f.postfixConfig)
		}
	}
	r.OK = r.Errors == 0 && (r.Warnings == 0 || !f.strict)
	return f.print(cmd, r, cfg)
}

// options says how to compile: as the daemon would, tests included, for the front ends in use.
func (f *checkFlags) options(p *program) (func(cfg *config.Config, bare bool) engine.Options, error) {
	in, err := doorsNamed(f.door)
	if err != nil {
		return nil, err
	}
	if !slices.Contains([]string{"text", "json", "sarif"}, f.format) {
		return nil, usageError(fmt.Errorf("--format %s is none; write text, json or sarif", f.format))
	}
	if p.json && f.format == "text" {
		f.format = "json"
	}
	return func(cfg *config.Config, bare bool) engine.Options {
		o := compileOptions(cfg)
		o.Tests = true
		if bare || f.door != "" {
			o.Doors = in
		}
		return o
	}, nil
}

// doorsNamed are the front ends that --door names.
func doorsNamed(name string) ([]lint.Door, error) {
	both := []lint.Door{{Name: "submission", Unknown: smtpd.NeverKnown()}, {Name: "milter", Unknown: milter.NeverKnown()}}
	switch name {
	case "":
		return nil, nil
	case "submission":
		return both[:1], nil
	case "milter":
		return both[1:], nil
	case "both":
		return both, nil
	}
	return nil, usageError(fmt.Errorf("--door %s is none; write submission, milter or both", name))
}

// print writes the report in its format. It returns what ends the program with the right code.
func (f *checkFlags) print(cmd *cobra.Command, r *checkReport, cfg *config.Config) error {
	var err error
	switch f.format {
	case "json":
		err = writeJSON(cmd.OutOrStdout(), r)
	case "sarif":
		err = writeJSON(cmd.OutOrStdout(), sarifOf(r, cfg))
	default:
		r.print(cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	if err == nil && !r.OK {
		return refused()
	}
	return err
}

// count takes one finding into the report.
func (r *checkReport) count(warning bool, line string) {
	r.lines = append(r.lines, line)
	if warning {
		r.Warnings++
	} else {
		r.Errors++
	}
}

func (r *checkReport) configuration(found yamldoc.Findings) {
	for _, f := range found {
		r.Configuration = append(r.Configuration, f)
		r.count(f.Warning, f.Detail())
	}
}

func (r *checkReport) policy(ctx context.Context, cfg *config.Config, data []string, o engine.Options) {
	r.Bundle = bundleName(cfg.Policy)
	c, err := loadCandidate(ctx, cfg.Policy, data...)
	if err != nil {
		r.Policy = append(r.Policy, loadFindings(err)...)
	} else {
		r.Revision = c.Revision
		r.settings, _ = c.Bundle.Data["settings"].(map[string]any)
		b := *c.Bundle
		b.Manifest.Revision = c.Revision
		r.Policy = append(r.Policy, engine.Check(ctx, &b, o)...)
	}
	for _, f := range r.Policy {
		r.count(f.Severity == contract.Warning, f.String())
	}
}

// loadFindings makes findings of what the loader says, one for each place.
func loadFindings(err error) []contract.Finding {
	var c *contract.CompileError
	if errors.As(err, &c) {
		return c.Findings
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var out []contract.Finding
		for _, e := range many.Unwrap() {
			out = append(out, loadFindings(e)...)
		}
		return out
	}
	f := contract.Finding{Severity: contract.Fault, Code: "load", Message: err.Error()}
	var r *bundles.Refusal
	if errors.As(err, &r) {
		f.Code = string(r.Stage)
	}
	var l *bundles.LoadError
	if !errors.As(err, &l) {
		return []contract.Finding{f}
	}
	var out []contract.Finding
	for _, l := range append([]*bundles.LoadError{l}, l.More...) {
		f.File, f.Line, f.Column, f.Text, f.Message, f.Hint = cmp.Or(l.File, l.Source), l.Line, l.Column, l.Text, l.Message, l.Hint
		f.Code = "load"
		// OPA's parser begins its messages with the code that its compiler puts beside them.
		if code, message, ok := strings.Cut(f.Message, ": "); ok && strings.HasPrefix(code, "rego_") {
			f.Code, f.Message = code, message
		}
		out = append(out, f)
	}
	return out
}

func (r *checkReport) beside(ctx context.Context, cfg *config.Config, dir string) {
	setup, err := postfix.Read(ctx, dir)
	if slices.ContainsFunc(cfg.Milter.Listen, func(l config.MilterListener) bool { return l.Network == "systemd" }) {
		r.Postfix = []postfix.Finding{{Severity: postfix.Warning, Where: "postern.yaml: milter.listen", Message: "where systemd's socket is stands in its unit, so that Postfix's side was not compared with it",
			Mend: "write the unit's ListenStream= for this check, as unix:/path or tcp:host:port"}}
	} else if err != nil {
		r.Postfix = []postfix.Finding{{Severity: postfix.Error, Where: "postconf", Message: err.Error(), Mend: "give --postfix-config the directory of main.cf"}}
	} else {
		r.Postfix = postfix.Check(setup, r.expected(cfg))
	}
	for _, f := range r.Postfix {
		r.count(f.Severity == postfix.Warning, fmt.Sprintf("%s: %s: %s\n    %s", f.Where, f.Severity, f.Message, f.Mend))
	}
}

// expected is what a Postfix has to serve. Who policy refuses, only the default policy's settings tell.
func (r *checkReport) expected(cfg *config.Config) postfix.Beside {
	b := postfix.Beside{Timeout: cfg.Policy.Timeout}
	for _, l := range cfg.Milter.Listen {
		b.Listen = append(b.Listen, postfix.Listener{Network: l.Network, Address: l.Address, Mode: l.Mode, Group: l.Group})
	}
	if r.settings != nil {
		b.NeedsLogin, b.RefusesLocal = r.settings["require_auth"] != false, r.settings["allow_local"] != true
	}
	return b
}

func (r *checkReport) print(out, errs io.Writer) {
	for _, l := range r.lines {
		fmt.Fprintln(errs, l)
	}
	if r.OK {
		fmt.Fprintf(out, "ok: %s, revision %s%s\n", r.Bundle, r.Revision, counted(", ", r.Warnings, "warning"))
		return
	}
	fmt.Fprintf(errs, "refused: %s%s%s\n", r.Bundle, counted(", ", r.Errors, "error"), counted(", ", r.Warnings, "warning"))
}

// counted is "3 errors" behind a separator, "" for none.
func counted(before string, n int, what string) string {
	switch n {
	case 0:
		return ""
	case 1:
		return before + "1 " + what
	}
	return fmt.Sprintf("%s%d %ss", before, n, what)
}
