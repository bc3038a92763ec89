package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/explain"
	"github.com/postern-mail/postern/cmd/postern/gate"
	"github.com/postern-mail/postern/cmd/postern/terminal"
	"github.com/postern-mail/postern/internal/printable"
)

type explainFlags struct {
	bundle string
	data   []string
	logs   []string
	stages []string
	all    bool
}

func newExplainCmd(p *program) *cobra.Command {
	f := &explainFlags{}
	cmd := &cobra.Command{
		Use:   "explain ID",
		Short: "Show why a logged decision came out as it did",
		Long: `Find decisions in the decision log, by the id of their transaction (which is in the log and in
replies) or by a decision_id. Show which rules fired, which nearly fired, and on which expression
they stopped, with file, line and values. The log is searched from its end.

The explanation is about the bundle that is given here. If its revision is not the one in the log,
postern says so; name the old bundle with --bundle.

Exit codes: 0 explained; 1 not found, or the log lacks facts that the explanation needs; 2 wrong
usage or configuration, or a bundle or log cannot be read.`,
		Example: `  postern explain --config postern.yaml 01M87JWV5SHM0AGF
  postern explain 4fX2kq1Hz2z5v --log decisions.jsonl.1.gz --log decisions.jsonl --stage message
  postern explain --bundle ./policies-before --all 01M87JWV5SHM0AGF
  postern explain --json 5fb68acd-02d7-4454-b163-f93d882df6ec | jq '.decisions[].explanation.near[0]'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.execute(cmd, p, args[0]) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.bundle, "bundle", "", "directory or .tar.gz of the policy (default: the bundle of the configuration, or the default one)")
	fl.StringSliceVar(&f.data, "data", nil, "more data documents, merged over those of the configuration")
	fl.StringSliceVar(&f.logs, "log", nil, "decision `log`, plain or gzip-compressed, or - for standard input; may be repeated (default: that of the configuration)")
	fl.StringSliceVar(&f.stages, "stage", nil, "only these stages: connect, mail, rcpt, message")
	fl.BoolVar(&f.all, "all", false, "show every rule that did not fire, not only the closest")
	cmd.MarkFlagFilename("log")
	cmd.RegisterFlagCompletionFunc("stage", cobra.FixedCompletions([]string{"connect", "mail", "rcpt", "message"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (f *explainFlags) execute(cmd *cobra.Command, p *program, id string) error {
	cfg, _, err := p.loadConfig()
	if err != nil {
		return err
	}
	if len(f.logs) == 0 {
		if f.logs, err = configuredLog(cfg); err != nil {
			return exitcode.UsageError(err)
		}
	}
	stages, err := stageFlags(f.stages)
	if err != nil {
		return exitcode.UsageError(err)
	}
	policy, err := gate.OfflinePolicy(cmd.Context(), cfg, f.bundle, f.data)
	if err != nil {
		return exitcode.UsageError(err)
	}
	total, err := terminal.TotalSize(f.logs)
	if err != nil {
		return exitcode.UsageError(err)
	}
	bar := terminal.StartProgress(cmd.ErrOrStderr(), total)
	s := explain.NewSearch(id, stages, bar, cmd.InOrStdin())
	err = s.Run(cmd.Context(), f.logs)
	bar.Stop()
	if err != nil {
		return exitcode.UsageError(err)
	}
	for _, e := range s.Bad {
		fmt.Fprintln(cmd.ErrOrStderr(), printable.Line(e.Error(), 400))
	}
	if s.Found() == 0 {
		return fmt.Errorf("there is no decision %s in %s", printable.Line(id, 80), strings.Join(f.logs, ", "))
	}
	r := s.Explain(cmd.Context(), policy)
	if p.json {
		err = writeJSON(cmd.OutOrStdout(), r)
	} else {
		r.Print(cmd.OutOrStdout(), f.all)
	}
	if err == nil && slices.ContainsFunc(r.Decisions, func(d explain.Decision) bool { return d.Explanation == nil }) {
		return exitcode.Refused()
	}
	return err
}
