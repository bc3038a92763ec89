package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/postern-mail/postern/internal/testload"
)

// part is one command of a run.
type part struct {
	Name  string
	Args  []string // the command
	Env   []string // added to the environment
	Facts *regexp.Regexp
}

// What of a part's log goes into the summary: the first group of each match. Of fuzzing only the last match counts, because Go prints
// the number so far every few seconds.
var (
	soakFacts = regexp.MustCompile(`(?m)^(top rate .*|\d+ messages.*|FAIL .*|warn .*)$`)
	killFacts = regexp.MustCompile(`(?m)(killed \d+ times in .*)$`)
	fuzzFacts = regexp.MustCompile(`(?m)execs: (\d+) .*$`)
)

// outcome is how a part ended.
type outcome struct {
	part
	Err   error
	Took  time.Duration
	Facts []string
	Log   string
}

// report collects the outcomes of one run.
type report struct {
	Began    time.Time
	About    string // commit, machine and load
	Warnings []string
	Dir      string

	mu       sync.Mutex
	outcomes []outcome
}

func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "nightly: %s\n", r.About)
	for _, warning := range r.Warnings {
		fmt.Fprintf(w, "nightly: WARNING: %s\n", warning)
	}
	fmt.Fprintf(w, "nightly: logs are in %s\n", r.Dir)
}

// runLanes runs all parts. The error says that the logs cannot be written; a part that fails is an outcome.
func (r *report) runLanes(ctx context.Context, lanes [][]part, progress io.Writer) error {
	errs := make([]error, len(lanes))
	var all sync.WaitGroup
	for n, lane := range lanes {
		all.Go(func() {
			for _, p := range lane {
				o, err := r.run(ctx, p)
				if err != nil {
					errs[n] = err
					return
				}
				r.mu.Lock()
				r.outcomes = append(r.outcomes, o)
				fmt.Fprintln(progress, "nightly:", o)
				r.mu.Unlock()
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// notName are the characters of a part's name that its log's name does not have.
var notName = regexp.MustCompile(`[^A-Za-z0-9]+`)

// run runs one part.
func (r *report) run(ctx context.Context, p part) (outcome, error) {
	o := outcome{part: p, Log: filepath.Join(r.Dir, strings.Trim(notName.ReplaceAllString(p.Name, "-"), "-")+".log")}
	if ctx.Err() != nil {
		o.Err = errors.New("not run")
		return o, nil
	}
	f, err := os.Create(o.Log)
	if err != nil {
		return o, err
	}
	defer f.Close()
	load, _ := testload.LoadAverage()
	header, _ := fmt.Fprintf(f, "# %s\n# began %s, load average then %.2f\n# %s\n", r.About, time.Now().UTC().Format(time.RFC3339), load, strings.Join(append(p.Env, p.Args...), " "))
	cmd := exec.CommandContext(ctx, p.Args[0], p.Args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = f, f, append(os.Environ(), p.Env...)
	// The processes of a part have a group, so that all of them end when it is given up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	began := time.Now()
	o.Err = cmd.Run()
	o.Took = time.Since(began).Round(time.Second)
	fmt.Fprintf(f, "# ended %s: %v\n", time.Now().UTC().Format(time.RFC3339), o.Err)
	text, err := os.ReadFile(o.Log)
	o.Facts = p.facts(string(text[min(header, len(text)):]))
	return o, err
}

// facts are what the summary says of a log.
func (p part) facts(log string) (list []string) {
	if p.Facts == nil {
		return nil
	}
	for _, m := range p.Facts.FindAllStringSubmatch(log, -1) {
		list = append(list, strings.TrimSpace(m[1]))
	}
	if p.Facts == fuzzFacts && len(list) > 0 {
		return []string{list[len(list)-1] + " executions"}
	}
	return list
}

// String is the line of the summary about a part.
func (o outcome) String() string {
	sign, facts := "ok  ", strings.Join(o.Facts, "; ")
	if facts != "" {
		facts = ": " + facts
	}
	if o.Err != nil {
		sign = "FAIL"
		facts = fmt.Sprintf(": %v; see %s", o.Err, o.Log) + strings.Replace(facts, ": ", "; ", 1)
	}
	return fmt.Sprintf("%s %s, took %v%s", sign, o.Name, o.Took, facts)
}

// finish prints the summary, writes it into the directory of the run, and returns an error if a part failed.
func (r *report) finish(w io.Writer) error {
	f, err := os.Create(filepath.Join(r.Dir, "summary.txt"))
	if err != nil {
		return err
	}
	defer f.Close()
	failed := 0
	w = io.MultiWriter(w, f)
	fmt.Fprintf(w, "\nsummary of %s, which took %v\n", r.Began.UTC().Format(time.RFC3339), time.Since(r.Began).Round(time.Second))
	r.print(w)
	for _, o := range r.outcomes {
		fmt.Fprintln(w, o)
		if o.Err != nil {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d parts failed; see FAIL above", failed, len(r.outcomes))
	}
	return nil
}
