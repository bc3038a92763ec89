// Command bench measures Postern end to end on loopback, beside what it stands next to, in one run: figures are only ever
// compared within a run. `make bench` calls it; docs/explanation/performance.md explains what it shows.
//
// Submission: our own client submits through STARTTLS and AUTH PLAIN to Postern with the default bundle, 10,000 users'
// senders and the decision log on, which relays to Postfix's smtp-sink; beside it Postfix, Exim and Haraka with the same
// duties, and the same client straight to smtp-sink, in the clear.
//
// Milter: the same client submits with AUTH to a Postfix of our own, which hands on to smtp-sink: without a milter, with
// one that does nothing, with Postern, Rspamd and MIMEDefang; see milter.go. It needs root and an installed Postfix.
//
// Growth: what Postern costs as rules, senders, recipients, header fields, octets and connections grow tenfold again and
// again; see growth.go.
//
// Nothing is ever installed without -install-peers: what is missing is said, and left out. Every repetition measures every
// row once, so that what else the machine does hits all rows alike. A table shows medians and, in brackets, the least and
// the most.
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
	beside   string        // other built programs of Postern's, with commas; measured as rows of their own
	rows     string        // a regular expression: only these rows of submission and milter
	count    int           // messages a run; a fourth of it where they are large, or go through another server
	repeat   int           // repetitions
	budget   time.Duration // no repetition begins that would end after it
	json     string        // file for the figures; "": none, "-": standard output instead of tables
	svg      string        // directory for the plots; "": none
	figures  string        // of growth, by name, with commas; "": all
	markdown bool
	cache    string // directory for what -install-peers brings besides Debian's packages
	left     *[]string
}

func main() {
	o := options{left: new([]string)}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = "/var/cache"
	}
	flag.StringVar(&o.postern, "postern", "", "the built program; empty: build it first")
	flag.StringVar(&o.beside, "beside", "", "other built programs to be measured in the same run, an earlier one for instance; with commas")
	flag.StringVar(&o.rows, "rows", "", "just the rows of submission and milter whose name and use match this regular expression, as in 'postern.*kept, 1 at'")
	flag.IntVar(&o.count, "n", 2000, "messages a run; a fourth of it where they are large, or go through another server")
	flag.IntVar(&o.repeat, "repeat", 3, "repetitions, interleaved")
	flag.DurationVar(&o.budget, "for", 8*time.Minute, "begin no further repetition that would not end within this time")
	flag.StringVar(&o.json, "json", "", "write the figures to this file, too; -: to standard output instead of tables")
	flag.StringVar(&o.svg, "svg", "", "write the plots of growth into this directory")
	flag.StringVar(&o.figures, "figures", "", "just these figures of growth: rules, senders, recipients, fields, size, connections; with commas")
	flag.BoolVar(&o.markdown, "markdown", false, "tables as Markdown")
	flag.StringVar(&o.cache, "cache", filepath.Join(cache, "postern-bench"), "where -install-peers puts what is no Debian package")
	which := flag.String("part", "all", "all, submission, milter or growth")
	install := flag.Bool("install-peers", false, "install the peers (apt-get, npm) and do nothing else")
	null := flag.String("null", "", "be the milter that does nothing, on unix:/path or tcp:host:port (the program calls itself so)")
	flag.Parse()
	switch {
	case *null != "":
		err = serveNull(*null)
	case *install:
		err = installPeers(o)
	case o.count < 40 || o.repeat < 1 || flag.NArg() > 0:
		err = errors.New("-n is at least 40, -repeat at least 1, and there are no arguments")
	case slices.Contains([]string{"all", "submission", "milter", "growth"}, *which):
		err = run(o, *which)
	default:
		err = fmt.Errorf("-part %s: all, submission, milter or growth are possible", *which)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// part is a group of rows with the servers that they need.
type part interface {
	name() string
	// start starts the servers in dir and says what is to be measured.
	start(o options, dir string) ([]*row, error)
	// started is Postern; nil where it was not started.
	started() *testload.Process
	stop()
}

func run(o options, which string) error {
	dir, err := os.MkdirTemp("", "postern-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	go stopWhenTold(dir)
	// Postfix's and Postern's users have to get in.
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
	res.Added, res.Left = added(res.Rows), *o.left
	return res.report(o)
}

// stopWhenTold ends the program at once when somebody wants that, and all that it has started. It runs until then.
func stopWhenTold(dir string) {
	told := make(chan os.Signal, 1)
	signal.Notify(told, os.Interrupt, syscall.SIGTERM)
	<-told
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
	if rows, err = chosen(rows, o.rows); err != nil {
		return err
	}
	if s := p.started(); s != nil {
		res.Started = append(res.Started, begun{p.name(), s.Ready.Seconds()})
	}
	res.Rows = append(res.Rows, rows...)
	return repeat(rows, o)
}

// program is the path of Postern, which is built into dir where none is named.
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
		err = fmt.Errorf("%s is not there: `make build` makes it", path)
	}
	return path, err
}

// builds are the built programs of Postern that are to be measured, by the names of their rows: o.postern and what stands
// beside it.
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

// chosen are the rows that match the regular expression.
func chosen(rows []*row, expr string) ([]*row, error) {
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, fmt.Errorf("-rows: %w", err)
	}
	var left []*row
	for _, r := range rows {
		if re.MatchString(r.What + ", " + r.connections()) {
			left = append(left, r)
		}
	}
	if len(left) == 0 && len(rows) > 0 {
		fmt.Fprintf(os.Stderr, "bench: -rows %s matches none of this part; the first is called %q\n", expr, rows[0].What+", "+rows[0].connections())
	}
	return left, nil
}

// repeat measures all rows again and again, as often as o allows, at least once.
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
			fmt.Fprintf(os.Stderr, "bench: -for %s is spent after %d of %d repetitions\n", o.budget, n+1, o.repeat)
			break
		}
	}
	return nil
}
