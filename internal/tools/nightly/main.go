// Command nightly runs what takes hours: the soak, the tests that kill the program, and fuzzing. `make nightly` calls it.
//
// Each part writes a log into a directory of its run, with the commit, the machine and how busy it was before. A part that fails
// does not end the others. At the end there is a summary with the outcome of each part. The exit code is 1 if one of them failed or
// did not run.
//
// # Goroutines
//
// runLanes has one for each lane, and waits for them. A lane ends after its last part, or when the context ends, which kills the
// processes of the part that runs.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/postern-mail/postern/internal/testload"
)

func main() {
	var o options
	flag.StringVar(&o.Soak, "soak", "60m", "duration of the soak; 0: no soak")
	flag.StringVar(&o.SoakFlags, "soak-flags", "", "further flags of the soak, separated by spaces")
	flag.IntVar(&o.Kills, "kills", 200, "how often each kind of server is killed; 0: never")
	flag.StringVar(&o.Fuzz, "fuzz", "Fuzz.*", "regular expression of the fuzz targets; none: no fuzzing")
	flag.StringVar(&o.FuzzTime, "fuzz-time", "10m", "duration of each fuzz target")
	flag.StringVar(&o.Since, "since", "", "fuzz only targets of packages in which, or below which, a file changed since this commit")
	flag.BoolVar(&o.Beside, "beside", false, "run the soak on processor 0, and the other parts at the same time on processor 1")
	dir := flag.String("dir", "nightly", "directory for the logs of all runs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "nightly:", err)
		os.Exit(1)
	}
}

// options are what one run does.
type options struct {
	Soak, SoakFlags       string
	Kills                 int
	Fuzz, FuzzTime, Since string
	Beside                bool
}

func run(ctx context.Context, o options, dir string) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("%q: arguments are not accepted; see -help", flag.Arg(0))
	}
	load, known := testload.LoadAverage() // before anything is built
	if err := o.check(); err != nil {
		return err
	}
	commit, err := git(ctx, "rev-parse", "--short=12", "HEAD")
	if err != nil {
		return err
	}
	r := &report{Began: time.Now(), About: fmt.Sprintf("commit %s, %s, load average before %.2f", commit, testload.Processor(), load)}
	if changed, err := git(ctx, "status", "--porcelain"); err != nil || changed != "" {
		r.Warnings = append(r.Warnings, "the working tree has changes that are in no commit")
	}
	if !known || load > quietLoad {
		r.Warnings = append(r.Warnings, fmt.Sprintf("the machine was not quiet: the load average before was %.2f, more than %.1f", load, quietLoad))
	}
	r.Dir = filepath.Join(dir, r.Began.UTC().Format("20060102T150405Z")+"-"+commit)
	if r.Dir, err = filepath.Abs(r.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		return err
	}
	lanes, err := o.lanes(ctx, r.Dir)
	if err != nil {
		return err
	}
	r.print(os.Stdout)
	if err := r.runLanes(ctx, lanes, os.Stdout); err != nil {
		return err
	}
	return r.finish(os.Stdout)
}

// quietLoad is the load average above which a machine is too busy for figures that one can trust.
const quietLoad = 0.5

func (o options) check() error {
	for name, text := range map[string]string{"soak": o.Soak, "fuzz-time": o.FuzzTime} {
		if d, err := time.ParseDuration(text); err != nil || d < 0 {
			return fmt.Errorf("-%s %s: write a duration, such as 10m", name, text)
		}
	}
	if o.Kills < 0 {
		return fmt.Errorf("-kills %d: write a number of at least 0", o.Kills)
	}
	if o.Beside && runtime.NumCPU() < 2 {
		return fmt.Errorf("-beside needs two processors")
	}
	if d, _ := time.ParseDuration(o.Soak); d == 0 && o.Kills == 0 && o.Fuzz == "none" {
		return fmt.Errorf("nothing is left to run: -soak, -kills and -fuzz leave everything out")
	}
	return nil
}

// lanes are lists of parts. The lanes run at the same time, the parts of a lane one after another.
func (o options) lanes(ctx context.Context, dir string) ([][]part, error) {
	var soak, others []part
	if d, _ := time.ParseDuration(o.Soak); d > 0 {
		args := append([]string{"go", "run", "./internal/tools/soak", "-postern", "bin/postern", "-for", o.Soak,
			"-json", filepath.Join(dir, "soak.json"), "-svg", filepath.Join(dir, "soak.svg")}, strings.Fields(o.SoakFlags)...)
		soak = []part{{Name: "build", Args: []string{"make", "build"}},
			{Name: "soak for " + o.Soak, Args: args, Facts: soakFacts}}
	}
	if o.Kills > 0 {
		others = append(others, part{Name: fmt.Sprintf("kill -9, %d of each kind", o.Kills), Facts: killFacts, Env: []string{fmt.Sprintf("POSTERN_KILLS=%d", o.Kills)},
			Args: []string{"go", "test", "-count=1", "-timeout", "12h", "-v", "./internal/e2e/kill", "-run", "TestKilled"}})
	}
	fuzz, err := o.fuzzTargets(ctx)
	if err != nil {
		return nil, err
	}
	others = append(others, fuzz...)
	if !o.Beside {
		return [][]part{append(soak, others...)}, nil
	}
	return [][]part{on(0, soak), on(1, others)}, nil
}

// on makes parts run on one processor.
func on(processor int, parts []part) []part {
	for i := range parts {
		parts[i].Args = append([]string{"taskset", "-c", fmt.Sprint(processor)}, parts[i].Args...)
	}
	return parts
}

// fuzzTargets has a part for each fuzz target.
func (o options) fuzzTargets(ctx context.Context) (parts []part, err error) {
	if o.Fuzz == "none" {
		return nil, nil
	}
	list, err := exec.CommandContext(ctx, "make", "-s", "--no-print-directory", "fuzz-targets", "FUZZ="+o.Fuzz).Output()
	if err != nil {
		return nil, fmt.Errorf("no fuzz target matches -fuzz %s", o.Fuzz)
	}
	changed := ""
	if o.Since != "" {
		if changed, err = git(ctx, "diff", "--name-only", o.Since, "--"); err != nil {
			return nil, fmt.Errorf("-since %s: %w", o.Since, err)
		}
	}
	for line := range strings.Lines(string(list)) {
		pkg, target, _ := strings.Cut(strings.TrimSpace(line), " ")
		if o.Since == "" || changedBelow(pkg, changed) {
			parts = append(parts, part{Name: target + " for " + o.FuzzTime, Facts: fuzzFacts,
				Args: []string{"make", "--no-print-directory", "fuzz", "FUZZ=" + target, "FUZZTIME=" + o.FuzzTime}})
		}
	}
	return parts, nil
}

// changedBelow reports whether one of the files, one a line, is in the directory of a package or below it.
func changedBelow(pkg, files string) bool {
	for f := range strings.Lines(files) {
		if strings.HasPrefix("./"+f, pkg+"/") {
			return true
		}
	}
	return false
}

// git returns what git prints.
func git(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", args...).Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
