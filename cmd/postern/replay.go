package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/gate"
	"github.com/postern-mail/postern/cmd/postern/replay"
	"github.com/postern-mail/postern/cmd/postern/terminal"
	"github.com/postern-mail/postern/internal/safefile"
)

type replayFlags struct {
	bundle, against         string
	data, againstData       []string
	stages                  []string
	since, until            string
	sample                  uint64
	approve, writeApprovals string
	details                 string
	examples                int
	skipBad                 bool
	jobs                    int
}

func newReplayCmd(p *program) *cobra.Command {
	f := &replayFlags{}
	cmd := &cobra.Command{
		Use:   "replay [LOG...] --bundle NEW",
		Short: "Show what another policy would have decided on logged traffic",
		Long: `Let another policy decide on the inputs in the decision log, and show what would change: mail that
would be newly refused, deferred, held, dropped or accepted, other replies and other edits, by rule
and with examples. LOG is a decision log, plain or gzip-compressed, or - for standard input; without
it, the log of the configuration is read. The new decisions are compared with those in the log, or
with those of --against on the same inputs.

Times and generated values come from the log, and the report follows the order of the log. So the
report is always the same, on any number of cores. If the log lacks a fact that the policy reads,
the decision is counted as "unknown". With decision_log.input: full a server logs all facts except
for the body.

An approval list names the changes that are allowed. --write-approvals writes one with all changes
that were found.

Exit codes: 0 every change is approved, or there is none; 1 a change is not approved, or a line
cannot be read and there is no --skip-bad; 2 wrong usage or configuration, or a bundle, log or
approval list cannot be read.`,
		Example: `  postern replay --config postern.yaml --bundle ./candidate
  postern replay decisions.jsonl.1.gz decisions.jsonl --bundle ./candidate --approve approvals.yaml
  postern replay decisions.jsonl --bundle ./candidate --against ./policies --stage message --details changes.jsonl
  zcat decisions-*.gz | postern replay - --bundle ./candidate --sample 100 --json | jq .changes`,
		RunE: func(cmd *cobra.Command, args []string) error { return f.execute(cmd, p, args) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.bundle, "bundle", "", "directory or .tar.gz of the new policy")
	fl.StringSliceVar(&f.data, "data", nil, "more data documents for --bundle, merged over those of the configuration")
	fl.StringVar(&f.against, "against", "", "directory or .tar.gz of the old policy (default: compare with the decisions in the log)")
	fl.StringSliceVar(&f.againstData, "against-data", nil, "more data documents for --against, merged over those of the configuration")
	fl.StringSliceVar(&f.stages, "stage", nil, "only these stages: connect, mail, rcpt, message")
	fl.StringVar(&f.since, "since", "", "only decisions from this time on (2026-06-01 or 2026-06-01T12:00:00Z)")
	fl.StringVar(&f.until, "until", "", "only decisions before this time")
	fl.Uint64Var(&f.sample, "sample", 1, "replay one transaction in `N`, always the same ones")
	fl.StringVar(&f.approve, "approve", "", "approval list (YAML) with the changes that are allowed")
	fl.StringVar(&f.writeApprovals, "write-approvals", "", "write an approval list of all changes found to this `file`")
	fl.StringVar(&f.details, "details", "", "write every change to this `file`, one JSON object a line")
	fl.IntVar(&f.examples, "examples", 3, "examples of each change in the report")
	fl.BoolVar(&f.skipBad, "skip-bad", false, "report lines that cannot be read, but do not fail")
	fl.IntVar(&f.jobs, "jobs", runtime.GOMAXPROCS(0), "how many decisions run at a time")
	for _, name := range []string{"approve", "write-approvals"} {
		cmd.MarkFlagFilename(name, "yaml", "yml")
	}
	cmd.RegisterFlagCompletionFunc("stage", cobra.FixedCompletions([]string{"connect", "mail", "rcpt", "message"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (f *replayFlags) execute(cmd *cobra.Command, p *program, args []string) error {
	cfg, _, err := p.loadConfig()
	if err != nil {
		return err
	}
	o, err := f.options(cmd.Context(), cfg)
	if err != nil {
		return exitcode.UsageError(err)
	}
	if len(args) == 0 {
		if args, err = configuredLog(cfg); err != nil {
			return exitcode.UsageError(err)
		}
	}
	total, err := terminal.TotalSize(args)
	if err != nil {
		return exitcode.UsageError(err)
	}
	bar := terminal.StartProgress(cmd.ErrOrStderr(), total)
	o.Records = &bar.Records
	var logs []replay.Log
	for _, name := range args {
		shown := name
		if name == "-" {
			shown = "<stdin>"
		}
		logs = append(logs, replay.Log{Name: shown, Open: func() (io.ReadCloser, error) { return bar.Open(name, cmd.InOrStdin()) }})
	}
	begun := time.Now()
	s, err := f.replay(cmd.Context(), logs, o)
	bar.Stop()
	if err != nil {
		return exitcode.UsageError(err)
	}
	if err := f.write(s); err != nil {
		return err
	}
	if p.json {
		err = writeJSON(cmd.OutOrStdout(), s)
	} else {
		s.Print(cmd.OutOrStdout(), f.skipBad)
		if took := time.Since(begun); terminal.Is(cmd.ErrOrStderr()) {
			fmt.Fprintf(cmd.ErrOrStderr(), "took %v: %s decisions a second\n", took.Round(time.Millisecond), terminal.Thousands(int64(float64(s.Replayed)/took.Seconds())))
		}
	}
	if err == nil && (s.Unapproved > 0 || s.BadLines > 0 && !f.skipBad) {
		return exitcode.Refused()
	}
	return err
}

// options returns the options of the run. Its errors are about usage.
func (f *replayFlags) options(ctx context.Context, cfg *config.Config) (o replay.Options, err error) {
	if f.bundle == "" {
		return o, errors.New("no policy is named; add --bundle DIRECTORY or --bundle FILE.tar.gz")
	}
	if f.jobs < 1 || f.sample < 1 || f.examples < 1 || f.examples > 100 {
		return o, errors.New("a flag is out of range; --jobs and --sample must be at least 1, and --examples from 1 to 100")
	}
	o = replay.Options{Sample: f.sample, Examples: f.examples, Workers: f.jobs, ApprovalsFile: f.approve}
	if o.Stages, err = stageFlags(f.stages); err != nil {
		return o, err
	}
	if o.Since, err = moment("--since", f.since); err != nil {
		return o, err
	}
	if o.Until, err = moment("--until", f.until); err != nil {
		return o, err
	}
	if f.approve != "" {
		if o.Approvals, err = replay.ReadApprovals(f.approve); err != nil {
			return o, err
		}
	}
	if o.New, err = gate.OfflinePolicy(ctx, cfg, f.bundle, f.data); err != nil {
		return o, err
	}
	if f.against != "" {
		if o.Old, err = gate.OfflinePolicy(ctx, cfg, f.against, f.againstData); err != nil {
			return o, fmt.Errorf("--against: %w", err)
		}
	}
	return o, nil
}

// replay runs, and writes --details.
func (f *replayFlags) replay(ctx context.Context, logs []replay.Log, o replay.Options) (*replay.Summary, error) {
	if f.details == "" {
		return replay.Run(ctx, logs, o)
	}
	// The file says who sent what to whom, so it is as private as the decision log.
	file, err := os.OpenFile(f.details, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	buffer := bufio.NewWriterSize(file, 256<<10)
	o.Details = buffer
	s, err := replay.Run(ctx, logs, o)
	return s, errors.Join(err, buffer.Flush(), file.Close())
}

// write writes --write-approvals.
func (f *replayFlags) write(s *replay.Summary) error {
	if f.writeApprovals == "" {
		return nil
	}
	return safefile.Output(f.writeApprovals, 0o644, func(file *os.File) error { return replay.WriteApprovals(file, s) })
}

// moment reads the day or time of a flag. "" is the zero time.
func moment(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339Nano} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s %s is not a time; write it like 2026-06-01 or 2026-06-01T12:00:00Z", flag, s)
}
