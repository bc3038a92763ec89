package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/terminal"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/yamldoc"
)

// program holds what the commands share: the streams, and the flags of the root command.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	configFile string // --config
	dir        string // --dir
	json       bool   // --json
	logLevel   string // --log-level

	begun bool // the command line was accepted
}

const rootLong = `Postern is a mail submission filter whose rules are code. It is a submission server (RFC 6409)
and a milter that ask Rego policies about every message, then accept, repair, hold or refuse it.

Exit codes: 0 done; 1 failed, or the answer is no; 2 wrong usage or configuration.`

const rootExample = `  postern serve                              try it in an empty directory
  postern serve --config /etc/postern/postern.yaml
  postern check --config postern.yaml        find mistakes, with file and line
  postern replay --bundle ./candidate        show what another policy would have decided
  postern passwd alice --file users.yaml     add a user, or change a password`

// newRootCmd returns the root command with the given commands below it.
func newRootCmd(p *program, commands []*cobra.Command) *cobra.Command {
	root := &cobra.Command{
		Use:           "postern",
		Short:         "Ask Rego policies about every message, then accept, repair, hold or refuse it",
		Long:          rootLong,
		Example:       rootExample,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentPreRun = func(*cobra.Command, []string) { p.begun = true }
	flags := root.PersistentFlags()
	flags.StringVar(&p.configFile, "config", "", "configuration `file` (YAML); without it, every key has its default")
	flags.StringVar(&p.dir, "dir", "", "state `directory` (default: the configuration's state_dir, else the current directory)")
	flags.BoolVar(&p.json, "json", false, "print results as JSON")
	flags.StringVar(&p.logLevel, "log-level", "", "debug, info, warn or error, instead of the `level` in the configuration")
	root.MarkPersistentFlagFilename("config", "yaml", "yml")
	root.MarkPersistentFlagDirname("dir")
	root.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(commands...)
	return root
}

// execute runs a command line. It prints the error and returns the exit code.
func (p *program) execute(root *cobra.Command, args []string) int {
	root.SetArgs(args)
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	err := root.Execute()
	if err == nil {
		return exitcode.OK
	}
	var coded *exitcode.Error
	code := exitcode.Failed
	switch {
	case errors.As(err, &coded):
		code = coded.Code
	case !p.begun || errors.As(err, new(yamldoc.Findings)):
		code = exitcode.Usage
	}
	if coded == nil || coded.Cause != nil {
		p.complain(err)
	}
	if !p.begun {
		fmt.Fprintln(p.stderr, "run postern --help for the commands and flags")
	}
	return code
}

// complain prints an error. It prints findings with the lines that they are about.
func (p *program) complain(err error) {
	var found yamldoc.Findings
	if !errors.As(err, &found) {
		fmt.Fprintln(p.stderr, "postern:", err)
		return
	}
	for _, f := range found {
		fmt.Fprintln(p.stderr, f.Detail())
	}
}

// loadConfig reads and checks the configuration, or returns the default one where --config names no file. Findings with a nil error are
// warnings.
func (p *program) loadConfig() (*config.Config, yamldoc.Findings, error) {
	dir := p.dir
	if dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, nil, exitcode.UsageError(err)
		}
		dir = abs
	}
	if p.configFile == "" {
		if dir == "" {
			wd, err := os.Getwd()
			if err != nil {
				return nil, nil, exitcode.UsageError(err)
			}
			dir = wd
		}
		c := config.Default(dir)
		found := c.Validate()
		if _, err := os.Stat(filepath.Join(dir, "postern.yaml")); err == nil {
			found = append(found, yamldoc.Finding{File: filepath.Join(dir, "postern.yaml"), Warning: true,
				Problem: "is not read", Mend: "add --config postern.yaml"})
		}
		return c, found, found.Err()
	}
	c, found := config.Check(p.configFile, dir)
	return c, found, found.Err()
}

// logger returns a logger on standard error. --log-level has precedence over the configuration.
func (p *program) logger(c config.Log) (*slog.Logger, error) {
	level := c.Level
	if p.logLevel != "" {
		if err := level.UnmarshalText([]byte(p.logLevel)); err != nil {
			return nil, exitcode.UsageError(fmt.Errorf("--log-level %s is not a level; write debug, info, warn or error", p.logLevel))
		}
	}
	return terminal.NewLogger(p.stderr, c.Format, level), nil
}

// writeJSON prints v as indented JSON.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// configuredLog returns the name of the configuration's decision log.
func configuredLog(cfg *config.Config) ([]string, error) {
	if cfg.DecisionLog.File == "" {
		return nil, errors.New("no decision log is named; name one on the command line, or as decision_log.file in the configuration")
	}
	return []string{cfg.DecisionLog.File}, nil
}

// stageFlags reads the values of --stage.
func stageFlags(names []string) (out []engine.Stage, err error) {
	for _, name := range names {
		s := contract.ParseStage(name)
		if s == 0 {
			return nil, fmt.Errorf("--stage %s is not a stage; write connect, mail, rcpt or message", name)
		}
		out = append(out, s)
	}
	return out, nil
}
