package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/gate"
	"github.com/postern-mail/postern/cmd/postern/policytest"
	"github.com/postern-mail/postern/internal/printable"
	"github.com/postern-mail/postern/internal/safefile"
)

type testFlags struct {
	policytest.Options
	run     string // --run, before it is compiled into Filter
	junit   string
	watch   bool
	verbose bool
}

const testLong = `Run the tests of a policy: the test rules in its _test.rego files, with the same verdicts as stock
opa test, and its message tests. These are the files *.txtar below BUNDLE or in --cases. Each holds
a session, an envelope and a message, and what the policy should do with them. BUNDLE is a directory
or a .tar.gz; without it, the bundle of the configuration or the default one is tested.

docs/reference/message-tests.md has the format of message tests.

Exit codes: 0 all tests passed (todo_test_... rules are skipped); 1 a test failed, coverage is below
--threshold, or no test was found; 2 wrong usage, or the bundle does not load or compile.`

const testExample = `  postern test ./policies
  postern test --run interns --verbose ./policies
  postern test --update ./policies                  write the results into the message tests; review them like code
  postern test --watch ./policies                   run again at every change
  postern test --coverage --threshold 90 --junit report.xml ./policies
  postern test --config postern.yaml --cases tests/`

func newTestCmd(p *program) *cobra.Command {
	f := &testFlags{}
	cmd := &cobra.Command{
		Use:     "test [BUNDLE]",
		Short:   "Run the tests of a policy, Rego and messages",
		Long:    testLong,
		Example: testExample,
		Args:    cobra.MaximumNArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return f.execute(cmd, p, args) },
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&f.Data, "data", nil, "more data documents, merged over the data of the bundle")
	fl.StringSliceVar(&f.Cases, "cases", nil, "`directories` or files of message tests (default: *.txtar below BUNDLE)")
	fl.StringVarP(&f.run, "run", "r", "", "only tests whose name matches the regular `expression`: data.postern.mail_test.test_x, cases/x.txtar")
	fl.DurationVar(&f.Timeout, "timeout", 5*time.Second, "for one test, and for one decision of a message test")
	fl.IntVarP(&f.Parallel, "parallel", "p", 0, "how many tests run at a time (default: one a processor)")
	fl.BoolVarP(&f.Coverage, "coverage", "c", false, "list the lines of the rules that no test reaches")
	fl.Float64Var(&f.Threshold, "threshold", 0, "fail below this coverage in `percent`; implies --coverage")
	fl.BoolVar(&f.Update, "update", false, "write the results into want and want.eml of the message tests")
	fl.StringVar(&f.junit, "junit", "", "also write the results to `file` as JUnit XML")
	fl.BoolVarP(&f.watch, "watch", "w", false, "run again when bundle, data or message tests change, until Ctrl-C")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "also print the tests that passed, and what they print")
	fl.BoolVar(&f.AllowEmpty, "allow-empty", false, "exit with 0 if there is no test")
	cmd.MarkFlagFilename("data", "yaml", "yml", "json")
	cmd.MarkFlagFilename("junit", "xml")
	return cmd
}

// execute runs the tests once, or at every change.
func (f *testFlags) execute(cmd *cobra.Command, p *program, args []string) error {
	if err := f.check(); err != nil {
		return exitcode.UsageError(err)
	}
	bundle := ""
	if len(args) > 0 {
		bundle = args[0]
	}
	if !p.json {
		f.Progress = cmd.ErrOrStderr()
	}
	if !f.watch {
		return f.once(cmd.Context(), cmd, p, bundle)
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	f.again(ctx, cmd, p, bundle)
	return nil
}

// check compiles --run and finds mistakes in the flags.
func (f *testFlags) check() (err error) {
	if f.run != "" {
		if f.Filter, err = regexp.Compile(f.run); err != nil {
			return fmt.Errorf("--run: %w", err)
		}
	}
	switch {
	case f.Threshold < 0 || f.Threshold > 100 || f.Threshold != f.Threshold:
		return fmt.Errorf("--threshold %v: write a percentage from 0 to 100", f.Threshold)
	case f.Timeout <= 0:
		return fmt.Errorf("--timeout %v: write a time above 0, such as 5s", f.Timeout)
	case f.Parallel < 0:
		return fmt.Errorf("--parallel %d: write a number from 1, or 0 for one a processor", f.Parallel)
	case f.Update && f.watch:
		return errors.New("--update and --watch: use one of them, because each file that --update writes would be a change")
	}
	f.Coverage = f.Coverage || f.Threshold > 0
	return nil
}

// once runs the tests and reports about them.
func (f *testFlags) once(ctx context.Context, cmd *cobra.Command, p *program, bundle string) error {
	cfg, _, err := p.loadConfig()
	if err != nil {
		return err
	}
	if bundle != "" {
		cfg.Policy.Bundle = bundle
	}
	r, err := policytest.Run(ctx, cfg, f.Options)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	if f.junit != "" {
		if err := safefile.Output(f.junit, 0o644, func(f *os.File) error {
			out := &printable.Writer{W: f}
			return errors.Join(r.WriteJUnit(out), out.Flush())
		}); err != nil {
			return exitcode.UsageError(fmt.Errorf("--junit: %w", err))
		}
	}
	if p.json {
		err = writeJSON(cmd.OutOrStdout(), r)
	} else {
		out := policytest.Printer{Out: cmd.OutOrStdout(), Errs: cmd.ErrOrStderr(), Verbose: f.verbose}
		out.Print(r)
	}
	switch {
	case err != nil:
		return err
	case len(r.Policy) > 0:
		return exitcode.UsageError(nil) // the report says why
	case !r.OK:
		return exitcode.Refused()
	}
	return nil
}

// again runs the tests now and at every change, until ctx ends.
func (f *testFlags) again(ctx context.Context, cmd *cobra.Command, p *program, bundle string) {
	run := func(ctx context.Context, _ bool) {
		err := f.once(ctx, cmd, p, bundle)
		var coded *exitcode.Error
		if ctx.Err() == nil && err != nil && (!errors.As(err, &coded) || coded.Cause != nil) {
			p.complain(err) // about the configuration, or a file that cannot be written
		}
		if ctx.Err() == nil {
			fmt.Fprintln(cmd.ErrOrStderr(), "watching for changes; Ctrl-C ends")
		}
	}
	w := &safefile.Watcher{Paths: func() []string { return f.paths(p, bundle) }, Changed: run, Settle: 200 * time.Millisecond, Poll: 5 * time.Second}
	w.Run(ctx)
}

// paths returns the files and directories whose change can change results.
func (f *testFlags) paths(p *program, bundle string) []string {
	paths := slices.Concat(f.Data, f.Cases)
	cfg, _, err := p.loadConfig()
	if err != nil || cfg == nil {
		cfg = config.Default(".")
	}
	if bundle != "" {
		cfg.Policy.Bundle = bundle
	}
	if p.configFile != "" {
		paths = append(paths, p.configFile)
	}
	if source, err := gate.Source(cfg.Policy); err == nil {
		paths = append(paths, source.Paths()...)
	}
	return append(paths, cfg.Policy.Data...)
}
