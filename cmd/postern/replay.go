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
		Short: "Say what another policy would have decided on logged traffic",
		Long: `Ask another policy what the decision log says was asked, and say what would change: what is newly refused, deferred,
held, dropped or accepted, which replies and edits differ, by which rule, with examples. LOG is a file of decisions, plain
or gzip-compressed, or - for standard input; without one, the configuration's. The old side is what the log says was
decided, or what --against decides on the same input.

Times and generated values come from the log, and the order of the report from the order of the log, so that it is the
same every time and on any number of cores. A decision whose input lacks a fact that the policy reads is told as
"unknown", never guessed; decision_log.input: full makes a server log all facts but the body.

What may change is written on an approval list; --write-approvals makes one of what was found.

Exit codes: 0 nothing changes that is not approved; 1 something does, or a line cannot be read (unless --skip-bad);
2 usage, configuration, a bundle, a log or an approval list that cannot be read.`,
		Example: `  postern replay --config postern.yaml --bundle ./candidate
  postern replay decisions.jsonl.1.gz decisions.jsonl --bundle ./candidate --approve approvals.yaml
  postern replay decisions.jsonl --bundle ./candidate --against ./policies --stage message --details changes.jsonl
  zcat decisions-*.gz | postern replay - --bundle ./candidate --sample 100 --json | jq .changes`,
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, p, args) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.bundle, "bundle", "", "directory or .tar.gz of the new policy")
	fl.StringSliceVar(&f.data, "data", nil, "extra data documents for it, after the configuration's")
	fl.StringVar(&f.against, "against", "", "directory or .tar.gz of the old policy (default: what the log says was decided)")
	fl.StringSliceVar(&f.againstData, "against-data", nil, "extra data documents for --against, after the configuration's")
	fl.StringSliceVar(&f.stages, "stage", nil, "only these stages: connect, mail, rcpt, message")
	fl.StringVar(&f.since, "since", "", "only decisions from this time on (2026-06-01 or 2026-06-01T12:00:00Z)")
	fl.StringVar(&f.until, "until", "", "only decisions before this time")
	fl.Uint64Var(&f.sample, "sample", 1, "one transaction in `N`, always the same ones")
	fl.StringVar(&f.approve, "approve", "", "approval list: the changes that may happen (YAML)")
	fl.StringVar(&f.writeApprovals, "write-approvals", "", "write an approval list of all changes found to this `file`")
	fl.StringVar(&f.details, "details", "", "write every change to this `file`, one JSON object a line")
	fl.IntVar(&f.examples, "examples", 3, "examples of each change in the report")
	fl.BoolVar(&f.skipBad, "skip-bad", false, "lines that cannot be read are told, but do not fail")
	fl.IntVar(&f.jobs, "jobs", runtime.GOMAXPROCS(0), "decisions at a time")
	for _, name := range []string{"approve", "write-approvals"} {
		cmd.MarkFlagFilename(name, "yaml", "yml")
	}
	cmd.RegisterFlagCompletionFunc("stage", cobra.FixedCompletions([]string{"connect", "mail", "rcpt", "message"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (f *replayFlags) run(cmd *cobra.Command, p *program, args []string) error {
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

// options of the run. Errors are about usage.
func (f *replayFlags) options(ctx context.Context, cfg *config.Config) (o replay.Options, err error) {
	if f.bundle == "" {
		return o, errors.New("say which policy to try: --bundle DIRECTORY or FILE.tar.gz")
	}
	if f.jobs < 1 || f.sample < 1 || f.examples < 1 || f.examples > 100 {
		return o, errors.New("--jobs and --sample are at least 1, --examples is from 1 to 100")
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

// replay runs, with the details going into their file.
func (f *replayFlags) replay(ctx context.Context, logs []replay.Log, o replay.Options) (*replay.Summary, error) {
	if f.details == "" {
		return replay.Run(ctx, logs, o)
	}
	// What was refused and to whom is nobody else's business, as in the decision log.
	file, err := os.OpenFile(f.details, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	buffer := bufio.NewWriterSize(file, 256<<10)
	o.Details = buffer
	s, err := replay.Run(ctx, logs, o)
	return s, errors.Join(err, buffer.Flush(), file.Close())
}

// write the approval list, where one is wanted.
func (f *replayFlags) write(s *replay.Summary) error {
	if f.writeApprovals == "" {
		return nil
	}
	return safefile.Output(f.writeApprovals, 0o644, func(file *os.File) error { return replay.WriteApprovals(file, s) })
}

// moment reads a day or a time; "" is the zero one.
func moment(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339Nano} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s %s is no time; write it like 2026-06-01 or 2026-06-01T12:00:00Z", flag, s)
}
