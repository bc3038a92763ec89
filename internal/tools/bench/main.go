// Command bench measures Postern end to end on loopback, together with comparable servers. Compare figures only within one
// run. `make bench` calls it, and docs/explanation/performance.md explains the results.
//
// Submission: a client submits through STARTTLS and AUTH PLAIN to Postern, which has the default bundle, the senders of
// 10,000 users and a decision log, and relays to Postfix's smtp-sink. The same is measured with Postfix, Exim and Haraka,
// configured for the same duties, and with smtp-sink alone, without TLS.
//
// Milter: the client submits with AUTH to a Postfix that relays to smtp-sink, without a milter, with one that does nothing,
// and with Postern, Rspamd and MIMEDefang; see milter.go. This part needs root and an installed Postfix.
//
// Growth: the cost of Postern as the number of rules, senders, recipients, header fields, bytes and connections grows by
// powers of ten; see growth.go.
//
// A server that is not installed is named and left out; only -install-peers installs anything. Every repetition measures
// every row once, so that other load on the machine affects all rows alike. Tables show the median, and in brackets the
// lowest and the highest value.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/postern-mail/postern/internal/testload"
)

type options struct {
	postern  string        // the built program
	beside   string        // other builds of Postern, separated by commas; each has rows of its own
	rows     string        // regular expression: only these rows of submission and milter
	count    int           // messages in a run; a quarter of them if they are large or go through another server
	repeat   int           // repetitions
	budget   time.Duration // no repetition is started that would end after it
	json     string        // file for the figures; "": none, "-": standard output, without tables
	svg      string        // directory for the plots; "": none
	figures  string        // names of growth figures, separated by commas; "": all
	markdown bool
	cache    string    // directory for peers that are not Debian packages
	skipped  *[]string // what was not measured, and why
}

func main() {
	o := options{skipped: new([]string)}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = "/var/cache"
	}
	flag.StringVar(&o.postern, "postern", "", "the built program; empty: build it")
	flag.StringVar(&o.beside, "beside", "", "other builds to measure in the same run, for instance an earlier one; separated by commas")
	flag.StringVar(&o.rows, "rows", "", "measure only the rows of submission and milter that match this regular expression, such as 'postern.*kept, 1 at'")
	flag.IntVar(&o.count, "n", 2000, "messages in a run; a quarter of them if they are large or go through another server")
	flag.IntVar(&o.repeat, "repeat", 3, "repetitions; each measures every row once")
	flag.DurationVar(&o.budget, "for", 8*time.Minute, "start no repetition that would end after this time")
	flag.StringVar(&o.json, "json", "", "also write the figures to this file; -: to standard output, without tables")
	flag.StringVar(&o.svg, "svg", "", "write the plots of growth into this directory")
	flag.StringVar(&o.figures, "figures", "", "measure only these figures of growth: rules, senders, recipients, fields, size, connections; separated by commas")
	flag.BoolVar(&o.markdown, "markdown", false, "print tables as Markdown")
	flag.StringVar(&o.cache, "cache", filepath.Join(cache, "postern-bench"), "directory where -install-peers puts peers that are not Debian packages")
	which := flag.String("part", "all", "what to measure: all, submission, milter or growth")
	install := flag.Bool("install-peers", false, "install the peers with apt-get and npm, and measure nothing")
	null := flag.String("null", "", "run as a milter that does nothing, on unix:/path or tcp:host:port; bench starts itself this way")
	flag.Parse()
	switch {
	case *null != "":
		err = serveNull(*null)
	case *install:
		err = installPeers(o)
	case o.count < 40 || o.repeat < 1 || flag.NArg() > 0:
		err = errors.New("-n must be at least 40 and -repeat at least 1; arguments are not accepted")
	case slices.Contains([]string{"all", "submission", "milter", "growth"}, *which):
		err = run(o, *which)
	default:
		err = fmt.Errorf("-part %s is unknown: use all, submission, milter or growth", *which)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// part is a group of rows and the servers that they need.
type part interface {
	name() string
	// start starts the servers in dir and returns the rows to measure.
	start(o options, dir string) ([]*row, error)
	// postern returns the process of Postern, nil if it was not started.
	postern() *testload.Process
	stop()
}

func run(o options, which string) error {
	dir, err := os.MkdirTemp("", "postern-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	go stopOnSignal(dir)
	// The users that Postfix, Exim and others run as need access.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if o.postern, err = program(o.postern, dir); err != nil {
		return err
	}
	res := results{Taken: time.Now().UTC().Format("2006-01-02"), Busy: loadAverage()}
	for _, p := range []part{&submission{}, &milters{}} {
		if which == "all" || which == p.name() {
			if err := res.measure(o, p, filepath.Join(dir, p.name())); err != nil {
				return fmt.Errorf("%s: %w", p.name(), err)
			}
		}
	}
	if which == "all" || which == "growth" {
		if res.Growth, err = growth(o, filepath.Join(dir, "growth")); err != nil {
			return fmt.Errorf("growth: %w", err)
		}
	}
	res.Machine = testload.Machine()
	res.Added, res.Skipped = added(res.Rows), *o.skipped
	return res.report(o)
}

// stopOnSignal waits for SIGINT or SIGTERM, and then ends the program and all processes that it has started.
func stopOnSignal(dir string) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	<-signals
	testload.KillAll()
	_ = os.RemoveAll(dir)
	fmt.Fprintln(os.Stderr, "\nbench: interrupted")
	os.Exit(130)
}

// measure starts a part, measures its rows and stops it.
func (res *results) measure(o options, p part, dir string) error {
	defer p.stop()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "bench: %s: starting the servers\n", p.name())
	rows, err := p.start(o, dir)
	if err != nil {
		return err
	}
	if rows, err = matching(rows, o.rows); err != nil {
		return err
	}
	if s := p.postern(); s != nil {
		res.Started = append(res.Started, startTime{p.name(), s.Ready.Seconds()})
	}
	res.Rows = append(res.Rows, rows...)
	return repeat(rows, o)
}

// program returns the absolute path of a build of Postern. If path is empty, Postern is built in dir.
func program(path, dir string) (string, error) {
	if path == "" {
		path = filepath.Join(dir, "postern")
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "github.com/postern-mail/postern/cmd/postern")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	path, err := filepath.Abs(path)
	if err == nil && !exists(path) {
		err = fmt.Errorf("%s does not exist: run `make build`", path)
	}
	return path, err
}

// builds returns the builds of Postern to measure, -postern first and then those of -beside, and the names of their rows.
func (o options) builds() (names, programs []string, err error) {
	names, programs = []string{"postern"}, []string{o.postern}
	for p := range strings.SplitSeq(o.beside, ",") {
		if p == "" {
			continue
		}
		built, err := program(p, "")
		if err != nil {
			return nil, nil, fmt.Errorf("-beside: %w", err)
		}
		names, programs = append(names, "postern "+p), append(programs, built)
	}
	return names, programs, nil
}

// matching returns the rows that match the regular expression.
func matching(rows []*row, expr string) ([]*row, error) {
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, fmt.Errorf("-rows: %w", err)
	}
	var matched []*row
	for _, r := range rows {
		if re.MatchString(r.What + ", " + r.connections()) {
			matched = append(matched, r)
		}
	}
	if len(matched) == 0 && len(rows) > 0 {
		fmt.Fprintf(os.Stderr, "bench: -rows %s matches no row of this part; the first row is %q\n", expr, rows[0].What+", "+rows[0].connections())
	}
	return matched, nil
}

// repeat measures all rows o.repeat times, or less often if the time runs out, but at least once.
func repeat(rows []*row, o options) error {
	begin := time.Now()
	for n := range o.repeat {
		round := time.Now()
		for i, r := range rows {
			fmt.Fprintf(os.Stderr, "\rbench: repetition %d of %d, %d of %d: %-60s", n+1, o.repeat, i+1, len(rows), r.What+", "+r.connections())
			if err := r.measure(); err != nil {
				fmt.Fprintln(os.Stderr)
				return err
			}
		}
		took := time.Since(round)
		fmt.Fprintf(os.Stderr, "\rbench: repetition %d of %d took %-70s\n", n+1, o.repeat, took.Round(time.Second))
		if time.Since(begin)+took > o.budget && n+1 < o.repeat {
			fmt.Fprintf(os.Stderr, "bench: stopped after %[2]d of %[3]d repetitions, because -for is %[1]s\n", o.budget, n+1, o.repeat)
			break
		}
	}
	return nil
}
