package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/internal/yamldoc"
)

// The exit codes, for scripts and CI.
const (
	exitOK     = 0
	exitFailed = 1 // the command did its work and the answer is no, or it could not finish
	exitUsage  = 2 // the command line, the configuration or a file that it names is wrong; nothing was done
)

// program is what every command shares: its streams and the flags of the root.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	configFile string // --config
	dir        string // --dir
	json       bool   // --json
	logLevel   string // --log-level

	begun bool // cobra has accepted the command line
}

// codeError is an error that ends the program with a certain code. With a nil cause, all has been said.
type codeError struct {
	code  int
	cause error
}

func (e *codeError) Error() string {
	if e.cause == nil {
		return "refused"
	}
	return e.cause.Error()
}

func (e *codeError) Unwrap() error { return e.cause }

// usageError is err as a mistake on the command line or in the configuration.
func usageError(err error) error { return &codeError{exitUsage, err} }

// refused ends a command whose answer is no and which has printed it.
func refused() error { return &codeError{code: exitFailed} }

const rootLong = `Postern is a mail submission filter whose rules are code: a submission server (RFC 6409)
and a milter that put every message before Rego policies, and accept, repair, hold or
refuse it as they say.

Exit codes: 0 done; 1 failed, or the answer is no; 2 wrong usage or configuration.`

const rootExample = `  postern serve                              try it in an empty directory
  postern serve --config /etc/postern/postern.yaml
  postern check --config postern.yaml        what is wrong with it, with file and line
  postern replay --bundle ./candidate        what another policy would have decided
  postern passwd alice --file users.yaml     add a user, or change a password`

// newRootCmd builds the whole tree of commands.
func newRootCmd(p *program) *cobra.Command {
	root := &cobra.Command{
		Use:           "postern",
		Short:         "Mail submission filter with policies in Rego",
		Long:          rootLong,
		Example:       rootExample,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentPreRun = func(*cobra.Command, []string) { p.begun = true }
	flags := root.PersistentFlags()
	flags.StringVar(&p.configFile, "config", "", "configuration `file` (YAML); without it, everything has a default")
	flags.StringVar(&p.dir, "dir", "", "state `directory` (default: the configuration's state_dir, else the current directory)")
	flags.BoolVar(&p.json, "json", false, "print results as JSON")
	flags.StringVar(&p.logLevel, "log-level", "", "debug, info, warn or error, instead of the configuration's `level`")
	root.MarkPersistentFlagFilename("config", "yaml", "yml")
	root.MarkPersistentFlagDirname("dir")
	root.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(commands(p)...)
	return root
}

// execute runs the command line and turns its error into text and an exit code.
func (p *program) execute(root *cobra.Command, args []string) int {
	root.SetArgs(args)
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	err := root.Execute()
	if err == nil {
		return exitOK
	}
	var coded *codeError
	code := exitFailed
	switch {
	case errors.As(err, &coded):
		code = coded.code
	case !p.begun || errors.As(err, new(yamldoc.Findings)):
		code = exitUsage
	}
	if coded == nil || coded.cause != nil {
		p.complain(err)
	}
	if !p.begun {
		fmt.Fprintln(p.stderr, "postern --help lists the commands and flags")
	}
	return code
}

// complain prints an error: findings each with the line in question.
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

// loadConfig reads and checks the configuration, or makes the one without a file. Findings beside a nil error are warnings.
func (p *program) loadConfig() (*config.Config, yamldoc.Findings, error) {
	dir := p.dir
	if dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, nil, usageError(err)
		}
		dir = abs
	}
	if p.configFile == "" {
		if dir == "" {
			wd, err := os.Getwd()
			if err != nil {
				return nil, nil, usageError(err)
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

// logger is the program's own, on standard error. --log-level comes before the configuration.
func (p *program) logger(c config.Log) (*slog.Logger, error) {
	level := c.Level
	if p.logLevel != "" {
		if err := level.UnmarshalText([]byte(p.logLevel)); err != nil {
			return nil, usageError(fmt.Errorf("--log-level %s is no level; write debug, info, warn or error", p.logLevel))
		}
	}
	return newLogger(p.stderr, c.Format, level), nil
}
