package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/safefile"
)

type testFlags struct {
	data       []string
	cases      []string
	run        string
	filter     *regexp.Regexp
	timeout    time.Duration
	parallel   int
	coverage   bool
	threshold  float64
	update     bool
	junit      string
	watch      bool
	verbose    bool
	allowEmpty bool
}

const testLong = `Run the tests of a policy: the test rules in its _test.rego files, with the verdicts of stock opa test, and its message
tests, files *.txtar below BUNDLE or in --cases that each hold a session, an envelope and a message, and what is to come
of them. BUNDLE is a directory or .tar.gz; without it, the configuration's bundle, or the built-in one.

docs/reference/message-tests.md has the format of message tests.

Exit codes: 0 all passed (tests to do apart: todo_test_...); 1 something failed, coverage is below --threshold, or no
test was found; 2 usage, or the bundle does not load or compile.`

const testExample = `  postern test ./policies
  postern test --run interns --verbose ./policies
  postern test --update ./policies                  write what comes into the message tests; review it like code
  postern test --watch ./policies                   again at every change
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
	fl.StringSliceVar(&f.data, "data", nil, "extra data documents, merged over the bundle's data")
	fl.StringSliceVar(&f.cases, "cases", nil, "`directories` or files of message tests (default: *.txtar below BUNDLE)")
	fl.StringVarP(&f.run, "run", "r", "", "only tests whose name matches the regular `expression`: data.postern.mail_test.test_x, cases/x.txtar")
	fl.DurationVar(&f.timeout, "timeout", 5*time.Second, "for one test, and for one decision of a message test")
	fl.IntVarP(&f.parallel, "parallel", "p", 0, "how many tests run at a time (default: one a processor)")
	fl.BoolVarP(&f.coverage, "coverage", "c", false, "say which lines of the rules no test reaches")
	fl.Float64Var(&f.threshold, "threshold", 0, "least coverage in `percent`; implies --coverage")
	fl.BoolVar(&f.update, "update", false, "write what comes into want and want.eml of the message tests")
	fl.StringVar(&f.junit, "junit", "", "write the results to `file` as JUnit XML, too")
	fl.BoolVarP(&f.watch, "watch", "w", false, "run again when bundle, data or message tests change, until Ctrl-C")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "print passed tests and what they print, too")
	fl.BoolVar(&f.allowEmpty, "allow-empty", false, "exit with 0 where there is no test")
	cmd.MarkFlagFilename("data", "yaml", "yml", "json")
	cmd.MarkFlagFilename("junit", "xml")
	return cmd
}

// execute runs the tests once, or at every change.
func (f *testFlags) execute(cmd *cobra.Command, p *program, args []string) error {
	if err := f.check(); err != nil {
		return usageError(err)
	}
	named := ""
	if len(args) > 0 {
		named = args[0]
	}
	out := &testOutput{out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr(), json: p.json, verbose: f.verbose, threshold: f.threshold}
	if !f.watch {
		return f.once(cmd.Context(), p, named, out)
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return f.again(ctx, p, named, out)
}

// check reads what of the flags can be wrong.
func (f *testFlags) check() (err error) {
	if f.run != "" {
		if f.filter, err = regexp.Compile(f.run); err != nil {
			return fmt.Errorf("--run: %w", err)
		}
	}
	switch {
	case f.threshold < 0 || f.threshold > 100 || f.threshold != f.threshold:
		return fmt.Errorf("--threshold %v: write a percentage from 0 to 100", f.threshold)
	case f.timeout <= 0:
		return fmt.Errorf("--timeout %v: write a time above 0, such as 5s", f.timeout)
	case f.parallel < 0:
		return fmt.Errorf("--parallel %d: write a number from 1, or 0 for one a processor", f.parallel)
	case f.update && f.watch:
		return errors.New("--update and --watch: what is written would be a change; use one of them")
	}
	f.coverage = f.coverage || f.threshold > 0
	return nil
}

// once runs the tests and says what came of them.
func (f *testFlags) once(ctx context.Context, p *program, named string, out *testOutput) error {
	r, err := f.attempt(ctx, p, named, out)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var broken *brokenPolicy
	if errors.As(err, &broken) {
		r.broken(broken)
	} else if err != nil {
		return err
	}
	if err := f.write(r); err != nil {
		return err
	}
	if err := out.report(r); err != nil {
		return err
	}
	switch {
	case broken != nil:
		return usageError(nil) // all has been said
	case !r.OK:
		return refused()
	}
	return nil
}

// attempt is one run over the tests. An error that is a *brokenPolicy comes with a report.
func (f *testFlags) attempt(ctx context.Context, p *program, named string, out *testOutput) (*testReport, error) {
	start := time.Now()
	r := &testReport{Tests: []testResult{}}
	cfg, _, err := p.loadConfig()
	if err != nil {
		return r, err
	}
	if named != "" {
		cfg.Policy.Bundle = named
	}
	source, err := policySource(cfg.Policy)
	if err != nil {
		return r, usageError(err)
	}
	run := &testRun{flags: f, source: source, dir: bundleDir(cfg.Policy.Bundle), options: compileOptions(cfg), out: out}
	run.options.Timeout = f.timeout
	r.Bundle = run.source.String()
	err = run.all(ctx, append(cfg.Policy.Data, f.data...), r)
	r.Seconds = time.Since(start).Seconds()
	r.sum(f)
	return r, err
}

// bundleDir is the directory of a bundle in one; "" of others.
func bundleDir(name string) string {
	if name == "" || isTarball(name) || strings.Contains(name, "://") {
		return ""
	}
	return name
}

// paths are the files and directories whose change can change results.
func (f *testFlags) paths(p *program, named string) []string {
	paths := append(append([]string(nil), f.data...), f.cases...)
	cfg, _, err := p.loadConfig()
	if err != nil || cfg == nil {
		cfg = config.Default(".")
	}
	if named != "" {
		cfg.Policy.Bundle = named
	}
	if p.configFile != "" {
		paths = append(paths, p.configFile)
	}
	if source, err := policySource(cfg.Policy); err == nil {
		paths = append(paths, source.Paths()...)
	}
	return append(paths, cfg.Policy.Data...)
}

// again runs the tests now and at every change, until ctx ends.
func (f *testFlags) again(ctx context.Context, p *program, named string, out *testOutput) error {
	run := func(ctx context.Context, _ bool) {
		err := f.once(ctx, p, named, out)
		var coded *codeError
		if ctx.Err() == nil && err != nil && (!errors.As(err, &coded) || coded.cause != nil) {
			p.complain(err) // of the configuration, or a file that cannot be written
		}
		if ctx.Err() == nil {
			fmt.Fprintln(out.errs, "watching for changes; Ctrl-C ends")
		}
	}
	w := &safefile.Watcher{Paths: func() []string { return f.paths(p, named) }, Changed: run, Settle: 200 * time.Millisecond, Poll: 5 * time.Second}
	w.Run(ctx)
	return nil
}

// brokenPolicy is a bundle that does not load or compile.
type brokenPolicy struct {
	findings []contract.Finding
}

func (b *brokenPolicy) Error() string {
	var lines []string
	for _, f := range b.findings {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

// broken makes findings of why a bundle does not load or compile.
func broken(err error) error {
	var c *contract.CompileError
	if errors.As(err, &c) {
		return &brokenPolicy{c.Findings}
	}
	return &brokenPolicy{loadFindings(err)}
}

// write writes the JUnit report where one is wanted.
func (f *testFlags) write(r *testReport) error {
	if f.junit == "" {
		return nil
	}
	if err := writeFile(f.junit, func(w io.Writer) error { return r.junit(w) }); err != nil {
		return usageError(fmt.Errorf("--junit: %w", err))
	}
	return nil
}
