package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/check"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/gate"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/yamldoc"
)

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
		Short: "Find mistakes in the configuration, the policy, and a Postfix that uses it",
		Long: `Check the configuration and its policy, or only BUNDLE (a directory, a .tar.gz, an https:// or
oci:// address), as strictly as the server does before a policy becomes active. Print everything
that is wrong, with file, line and column, and how to mend it. docs/reference/check.md explains
every finding by its code.

With BUNDLE and --config, BUNDLE is checked instead of the configuration's bundle, and the keys of
the configuration verify its signature. The policy is checked for the doors (submission, milter)
that the configuration opens. For BUNDLE alone, --door names them.

With --postfix, also read the configuration of a Postfix with postconf, and find settings that do
not work well with this milter.

Exit codes: 0 nothing is wrong; 1 there are errors, or warnings with --strict; 2 wrong usage.`,
		Example: `  postern check --config postern.yaml
  postern check --strict --door both ./policies            for CI
  postern check --json ./policies | jq -r '.policy[] | "\(.file):\(.line): \(.message)"'
  postern check --format sarif ./policies > postern.sarif  for code scanning
  postern check --config postern.yaml bundle.tar.gz
  postern check --config postern.yaml --postfix --postfix-config /etc/postfix`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.execute(cmd, p, args) },
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	cmd.Flags().StringSliceVar(&f.data, "data", nil, "more data documents, merged over the data of the bundle")
	cmd.Flags().StringVar(&f.door, "door", "", "check the policy for submission, milter or both (default: the doors of the configuration)")
	cmd.Flags().StringVar(&f.format, "format", "text", "text, json or sarif (2.1.0)")
	cmd.Flags().BoolVar(&f.strict, "strict", false, "let warnings fail, too, except slow")
	cmd.Flags().BoolVar(&f.postfix, "postfix", false, "also check the Postfix on this machine")
	cmd.Flags().StringVar(&f.postfixConfig, "postfix-config", "", "Postfix's configuration `directory` (default: its own)")
	cmd.RegisterFlagCompletionFunc("door", cobra.FixedCompletions([]string{"submission", "milter", "both"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"text", "json", "sarif"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (f *checkFlags) execute(cmd *cobra.Command, p *program, args []string) error {
	options, err := f.options(p)
	if err != nil {
		return err
	}
	r := check.NewReport()
	cfg := config.Default(".")
	if len(args) == 0 || p.configFile != "" {
		var found yamldoc.Findings
		if cfg, found, err = p.loadConfig(); cfg == nil && len(found) == 0 {
			return err
		}
		r.AddConfiguration(found)
	}
	if cfg != nil {
		bare := len(args) > 0 && p.configFile == ""
		if len(args) > 0 {
			cfg.Policy.Bundle = args[0]
		}
		r.CheckPolicy(cmd.Context(), cfg, f.data, options(cfg, bare))
		if f.postfix {
			r.CheckPostfix(cmd.Context(), cfg, f.postfixConfig)
		}
	}
	r.Settle(f.strict)
	return f.print(cmd, r, cfg)
}

// options returns how to compile for a configuration. The policy is compiled as the daemon does it, and its tests as well. bare says that
// there is no configuration, only a bundle.
func (f *checkFlags) options(p *program) (func(cfg *config.Config, bare bool) engine.Options, error) {
	in, err := doorsNamed(f.door)
	if err != nil {
		return nil, err
	}
	if !slices.Contains([]string{"text", "json", "sarif"}, f.format) {
		return nil, exitcode.UsageError(fmt.Errorf("--format %s is not a format; write text, json or sarif", f.format))
	}
	if p.json && f.format == "text" {
		f.format = "json"
	}
	return func(cfg *config.Config, bare bool) engine.Options {
		o := gate.Options(cfg)
		o.Tests = true
		if bare || f.door != "" {
			o.Doors = in
		}
		return o
	}, nil
}

// doorsNamed returns the front ends that --door names.
func doorsNamed(name string) ([]string, error) {
	switch name {
	case "":
		return nil, nil
	case "submission", "milter", "both":
		return gate.Doors(name != "milter", name != "submission"), nil
	}
	return nil, exitcode.UsageError(fmt.Errorf("--door %s is not a front end; write submission, milter or both", name))
}

// print writes the report in its format. Its error carries the exit code.
func (f *checkFlags) print(cmd *cobra.Command, r *check.Report, cfg *config.Config) error {
	var err error
	switch f.format {
	case "json":
		err = writeJSON(cmd.OutOrStdout(), r)
	case "sarif":
		err = writeJSON(cmd.OutOrStdout(), r.SARIF(cfg))
	default:
		r.Print(cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	if err == nil && !r.OK {
		return exitcode.Refused()
	}
	return err
}
