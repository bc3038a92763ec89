package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/eval"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/gate"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/trial"
)

// maxEvalMessage bounds the size of a message, in bytes.
const maxEvalMessage = 64 << 20

type evalFlags struct {
	bundle string
	data   []string
	from   string
	to     []string
	client string
	ehlo   string
	login  string
	tls    string
	door   string
	now    string

	explain, all bool
}

func newEvalCmd(p *program) *cobra.Command {
	f := &evalFlags{}
	cmd := &cobra.Command{
		Use:   "eval [flags] MESSAGE",
		Short: "Show what policy would do with a message, and why",
		Long: `Show what policy would do with a message, and why: the verdict of each stage, the rules that fired,
the reply, and the edits as a diff of the header. MESSAGE is a file, or - for standard input. Line
ends may be LF or CRLF.

Without --from, the envelope sender is the author in the message.

Exit codes: 0 the message would be accepted; 1 it would be rejected, deferred, quarantined or
discarded; 2 wrong usage or configuration, or the message cannot be read.`,
		Example: `  postern eval --login alice --to bob@example.net message.eml
  postern eval --bundle ./policies --data senders.yaml --login alice --from sales@example.com --to bob@example.net - < message.eml
  postern eval --explain --login alice --from sales@example.com --to bob@example.net message.eml
  postern eval --config postern.yaml --json --login alice --to bob@example.net message.eml | jq .edits`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.execute(cmd, p, args[0]) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.bundle, "bundle", "", "directory or .tar.gz of the policy (default: the bundle of the configuration, or the default one)")
	fl.StringSliceVar(&f.data, "data", nil, "more data documents, merged over the data of the bundle")
	fl.StringVar(&f.login, "login", "", "login of the client; without it, the client is not authenticated")
	fl.StringVar(&f.from, "from", "", "envelope sender; <> is the null sender")
	fl.StringSliceVar(&f.to, "to", nil, "envelope recipients")
	fl.StringVar(&f.client, "client", "127.0.0.1", "client address")
	fl.StringVar(&f.ehlo, "ehlo", "localhost", "name that the client gives in EHLO")
	fl.StringVar(&f.tls, "tls", "1.3", "TLS version, or none")
	fl.StringVar(&f.door, "door", "submission", "submission or milter")
	fl.StringVar(&f.now, "now", "", "time of the decision (RFC 3339; default: now)")
	fl.BoolVar(&f.explain, "explain", false, "show which rules fired, which nearly fired, and on which expression they stopped")
	fl.BoolVar(&f.all, "all", false, "with --explain, show every rule that did not fire, not only the closest")
	return cmd
}

func (f *evalFlags) execute(cmd *cobra.Command, p *program, file string) error {
	cfg, _, err := p.loadConfig()
	if err != nil {
		return err
	}
	tx, err := f.transaction(cmd.InOrStdin(), cfg, file)
	if err != nil {
		return exitcode.UsageError(err)
	}
	policy, err := gate.TrialPolicy(cmd.Context(), cfg, f.bundle, f.data)
	if err != nil {
		return exitcode.UsageError(err)
	}
	eng := &engine.Engine{}
	eng.Swap(policy)
	var asked eval.Questions
	if f.explain {
		eng.Recorder = &asked
	}
	result, err := trial.Run(cmd.Context(), eng, tx)
	if err != nil {
		return exitcode.UsageError(fmt.Errorf("%s: %w", file, err))
	}
	r := eval.NewReport(result)
	if f.explain {
		if err := asked.Explain(cmd.Context(), policy, r.Steps); err != nil {
			return err
		}
	}
	if p.json {
		err = writeJSON(cmd.OutOrStdout(), r)
	} else {
		r.Print(cmd.OutOrStdout(), f.all)
	}
	if err == nil && result.Final.Verdict != engine.Accept {
		return exitcode.Refused()
	}
	return err
}

func (f *evalFlags) transaction(stdin io.Reader, cfg *config.Config, file string) (tx trial.Transaction, err error) {
	if file != "-" {
		in, err := os.Open(file)
		if err != nil {
			return tx, err
		}
		defer in.Close()
		stdin = in
	}
	text, err := io.ReadAll(io.LimitReader(stdin, maxEvalMessage+1))
	if err != nil {
		return tx, err
	}
	if len(text) > maxEvalMessage {
		return tx, fmt.Errorf("%s is longer than %d MiB", file, maxEvalMessage>>20)
	}
	tx = trial.Transaction{Message: trial.CRLF(text), ID: "eval", Now: time.Now().UTC(), Session: trial.Session{
		Login: f.login, Client: engine.Client{EHLO: f.ehlo}, TLS: f.tls, Door: f.door, Hostname: cfg.Hostname,
	}}
	if f.tls == "none" {
		tx.Session.TLS = ""
	}
	if f.now != "" {
		if tx.Now, err = time.Parse(time.RFC3339, f.now); err != nil {
			return tx, fmt.Errorf("--now: %w; write it like 2026-06-01T12:00:00Z", err)
		}
	}
	if tx.Session.Client.IP, err = netip.ParseAddr(f.client); err != nil {
		return tx, fmt.Errorf("--client: %w", err)
	}
	return tx, f.envelope(&tx)
}

func (f *evalFlags) envelope(tx *trial.Transaction) (err error) {
	from := f.from
	if from == "" {
		if from, err = trial.Author(tx.Message); err != nil {
			return fmt.Errorf("there is no --from, and %w", err)
		}
	}
	if tx.From, tx.Params, err = trial.ParsePath(from); err != nil {
		return fmt.Errorf("--from %s: %w", from, err)
	}
	for _, to := range f.to {
		p, params, err := trial.ParsePath(strings.TrimSpace(to))
		if err != nil {
			return fmt.Errorf("--to %s: %w", to, err)
		}
		tx.To = append(tx.To, engine.Recipient{Path: p, Params: params})
	}
	if len(tx.To) == 0 {
		return errors.New("there is no recipient; add --to ADDRESS")
	}
	return nil
}
