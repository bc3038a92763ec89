package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/replay"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/engine/decisionlog"
)

type explainFlags struct {
	bundle string
	data   []string
	logs   []string
	stages []string
	all    bool
}

// explained is one decision of the log with its explanation.
type explained struct {
	File       string          `json:"file"`
	DecisionID string          `json:"decision_id"`
	ID         string          `json:"id"`
	Time       string          `json:"timestamp"`
	Stage      string          `json:"stage"`
	Login      string          `json:"login,omitempty"`
	From       string          `json:"from,omitempty"`
	Logged     *replay.Outcome `json:"logged,omitempty"` // absent where the log masks it
	Revision   string          `json:"revision"`         // that decided then
	Bundle     string          `json:"bundle_revision"`  // that explains now
	Matches    bool            `json:"revision_matches"`
	Same       bool            `json:"same_outcome"` // this bundle decides as was logged
	Now        *replay.Outcome `json:"now,omitempty"`
	// Problem says why there is no explanation, or why it is not of what happened then.
	Problem     string              `json:"problem,omitempty"`
	Explanation *engine.Explanation `json:"explanation,omitempty"`
}

func newExplainCmd(p *program) *cobra.Command {
	f := &explainFlags{}
	cmd := &cobra.Command{
		Use:   "explain ID",
		Short: "Say why a logged decision came out as it did",
		Long: `Find the decisions of a transaction (its id, as in the log and in replies) or a single one (its decision_id) in the
decision log, and say which rules fired, which nearly did, and on which expression they stopped, with file, line and
the values it had. The log is searched from its end.

The bundle must be the one that decided then, or the explanation is of what this one would have done: where the
revisions differ, that is said. Give the old one with --bundle.

Exit codes: 0 explained; 1 not found, or the log does not have what the explanation needs; 2 usage, configuration, or a
bundle or log that cannot be read.`,
		Example: `  postern explain --config postern.yaml 01M87JWV5SHM0AGF
  postern explain 4fX2kq1Hz2z5v --log decisions.jsonl.1.gz --log decisions.jsonl --stage message
  postern explain --bundle ./policies-before --all 01M87JWV5SHM0AGF
  postern explain --json 5fb68acd-02d7-4454-b163-f93d882df6ec | jq '.decisions[].explanation.near[0]'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, p, args[0]) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.bundle, "bundle", "", "directory or .tar.gz of the policy (default: the configuration's, or the built-in one)")
	fl.StringSliceVar(&f.data, "data", nil, "extra data documents, after the configuration's")
	fl.StringSliceVar(&f.logs, "log", nil, "decision `log`, plain or gzip-compressed, or -; several: all are searched (default: the configuration's)")
	fl.StringSliceVar(&f.stages, "stage", nil, "only these stages: connect, mail, rcpt, message")
	fl.BoolVar(&f.all, "all", false, "every rule that did not fire, not only the closest")
	cmd.MarkFlagFilename("log")
	cmd.RegisterFlagCompletionFunc("stage", cobra.FixedCompletions([]string{"connect", "mail", "rcpt", "message"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (f *explainFlags) run(cmd *cobra.Command, p *program, id string) error {
	cfg, _, err := p.loadConfig()
	if err != nil {
		return err
	}
	if len(f.logs) == 0 {
		if f.logs, err = configuredLog(cfg); err != nil {
			return usageError(err)
		}
	}
	stages, err := stageFlags(f.stages)
	if err != nil {
		return usageError(err)
	}
	policy, err := offlinePolicy(cmd.Context(), cfg, f.bundle, f.data)
	if err != nil {
		return usageError(err)
	}
	total, err := totalSize(f.logs)
	if err != nil {
		return usageError(err)
	}
	s := newSearch(id, stages, startProgress(cmd.ErrOrStderr(), total), cmd.InOrStdin())
	err = s.run(cmd.Context(), f.logs)
	s.bar.stop()
	if err != nil {
		return usageError(err)
	}
	for _, e := range s.bad {
		fmt.Fprintln(cmd.ErrOrStderr(), printable(e.Error(), 400))
	}
	if len(s.hits) == 0 {
		return fmt.Errorf("no decision of %s in %s", printable(id, 80), strings.Join(f.logs, ", "))
	}
	out := struct {
		ID        string      `json:"id"`
		Decisions []explained `json:"decisions"`
		Cut       bool        `json:"cut,omitempty"` // there are more
	}{ID: id, Cut: s.cut}
	missing := false
	for _, h := range s.hits {
		x := explainHit(cmd.Context(), policy, s.parser, h)
		missing = missing || x.Explanation == nil
		out.Decisions = append(out.Decisions, x)
	}
	if p.json {
		err = writeJSON(cmd.OutOrStdout(), out)
	} else {
		printExplained(cmd.OutOrStdout(), out.Decisions, f.all, s.cut)
	}
	if err == nil && missing {
		return refused()
	}
	return err
}

// explainHit explains one line of the log as well as the line and the policy allow.
func explainHit(ctx context.Context, p *engine.Policy, parser *decisionlog.Parser, h hit) explained {
	l := h.line
	x := explained{File: h.file, DecisionID: l.DecisionID, ID: l.ID, Time: l.Time.UTC().Format("2006-01-02T15:04:05.000Z07:00"), Stage: l.Stage.String(),
		Login: l.Login, From: l.From, Revision: l.Revision, Bundle: p.Revision(), Matches: l.Revision == p.Revision()}
	if !l.ResultMasked() {
		logged := replay.LoggedOutcome(l)
		x.Logged = &logged
	}
	question, err := parser.Logged(l)
	if err != nil {
		x.Problem = err.Error()
		return x
	}
	if lacks := p.Lacks(question); len(lacks) > 0 {
		x.Problem = "this bundle reads " + strings.Join(lacks, ", ") + ", which is not in the log"
		if !x.Matches {
			x.Problem += "; give the bundle that decided, revision " + l.Revision
		}
		return x
	}
	ctx, cancel := context.WithTimeout(ctx, offlineTimeout)
	defer cancel()
	if x.Explanation, err = p.Explain(ctx, question); err != nil {
		x.Problem = err.Error()
		return x
	}
	now := replay.OutcomeOf(&x.Explanation.Decision)
	x.Now = &now
	x.Same = x.Logged == nil || replay.Same(x.Logged, x.Now)
	switch {
	case !x.Matches:
		x.Problem = fmt.Sprintf("revision %s decided then; this explains revision %s (--bundle takes the old one)", l.Revision, p.Revision())
	case !x.Same:
		x.Problem = "this bundle has the same revision, and decides otherwise: its files have changed under one revision, or time ran out then"
	}
	return x
}

// stageFlags reads --stage.
func stageFlags(names []string) (out []engine.Stage, err error) {
	for _, name := range names {
		s := contract.ParseStage(name)
		if s == 0 {
			return nil, fmt.Errorf("--stage %s is no stage; write connect, mail, rcpt or message", name)
		}
		out = append(out, s)
	}
	return out, nil
}

// questions is a recorder that keeps what was asked, to be explained.
type questions []*engine.Logged

// Record keeps the input, which is immutable.
func (q *questions) Record(_ context.Context, r engine.Record) error {
	in, ok := r.Input.(*engine.Input)
	if !ok {
		return errors.New("explain: an input of a foreign kind")
	}
	l := engine.NewLogged(r.Decision.Stage, in, in.Parts(), nil)
	if l.Failure = r.Transaction.Failure; r.Transaction.Envelope != nil {
		_, l.UTF8 = r.Transaction.Envelope.FromParams["SMTPUTF8"]
	}
	*q = append(*q, l)
	return nil
}

// explain the steps. A stage that the bundle does not define was not asked about.
func (q questions) explain(ctx context.Context, p *engine.Policy, steps []evalStep) (err error) {
	ctx, cancel := context.WithTimeout(ctx, offlineTimeout)
	defer cancel()
	next := 0
	for i := range steps {
		if !p.Asks(steps[i].stage) || next >= len(q) {
			continue
		}
		if steps[i].Explanation, err = p.Explain(ctx, q[next]); err != nil {
			return err
		}
		next++
	}
	return nil
}
