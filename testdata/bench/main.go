// Command bench measures Postern end to end on loopback, beside what it stands next to, in one run: figures are only ever
// compared within a run. `make bench` calls it.
//
// Submission: our own client submits through STARTTLS and AUTH PLAIN to Postern with the default bundle, 10,000 users'
// senders and the decision log on, which relays to Postfix's smtp-sink; beside it the same client straight to smtp-sink,
// in the clear.
//
// Milter: the same client submits with AUTH to a Postfix of our own, which hands on to smtp-sink: without a milter, with
// one that does nothing, and with Postern; see milter.go. It needs root and an installed Postfix. Nothing is ever
// installed: what is missing is said, and that part is left out.
//
// Every repetition measures every row once, so that what else the machine does hits all rows alike. A table shows medians
// and, in brackets, the least and the most.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/internal/testload"
)

type options struct {
	postern string        // the built program
	count   int           // messages a run; fewer of large ones and through Postfix
	repeat  int           // repetitions
	budget  time.Duration // no repetition begins that would end after it
	json    bool
}

func main() {
	var o options
	flag.StringVar(&o.postern, "postern", "bin/postern", "the built program")
	flag.IntVar(&o.count, "n", 3000, "messages a run; a fourth of it where they are large or go through Postfix")
	flag.IntVar(&o.repeat, "repeat", 3, "repetitions, interleaved")
	flag.DurationVar(&o.budget, "for", 4*time.Minute, "begin no further repetition that would not end within this time")
	flag.BoolVar(&o.json, "json", false, "JSON instead of a table")
	part := flag.String("part", "all", "all, submission or milter")
	null := flag.String("null", "", "be the milter that does nothing, on unix:/path or tcp:host:port (the program calls itself so)")
	flag.Parse()
	err := fmt.Errorf("-part %s: all, submission or milter are possible", *part)
	switch {
	case *null != "":
		err = serveNull(*null)
	case o.count < 40 || o.repeat < 1 || flag.NArg() > 0:
		err = fmt.Errorf("-n is at least 40, -repeat at least 1, and there are no arguments")
	case *part == "all" || *part == "submission" || *part == "milter":
		err = run(o, *part)
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
	var err error
	if o.postern, err = filepath.Abs(o.postern); err != nil {
		return err
	}
	if !exists(o.postern) {
		return fmt.Errorf("%s is not there: `make build` makes it", o.postern)
	}
	dir, err := os.MkdirTemp("", "postern-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// Postfix's and Postern's users have to get in.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	var rows []*row
	var begun []*testload.Process
	for _, p := range []part{&submission{}, &milters{}} {
		name := p.name()
		if which != "all" && which != name {
			continue
		}
		defer p.stop()
		sub := filepath.Join(dir, name)
		if err := os.Mkdir(sub, 0o755); err != nil {
			return err
		}
		more, err := p.start(o, sub)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		rows = append(rows, more...)
		if s := p.started(); s != nil {
			s.Name = name
			begun = append(begun, s)
		}
	}
	if err := repeat(rows, o); err != nil {
		return err
	}
	return report(rows, begun, o)
}

// repeat measures all rows again and again, as often as o allows, at least once.
func repeat(rows []*row, o options) error {
	begin := time.Now()
	for n := range o.repeat {
		round := time.Now()
		for _, r := range rows {
			if err := r.measure(); err != nil {
				return err
			}
		}
		took := time.Since(round)
		fmt.Fprintf(os.Stderr, "bench: repetition %d of %d took %s\n", n+1, o.repeat, took.Round(time.Second))
		if time.Since(begin)+took > o.budget && n+1 < o.repeat {
			fmt.Fprintf(os.Stderr, "bench: -for %s is spent after %d of %d repetitions\n", o.budget, n+1, o.repeat)
			break
		}
	}
	return nil
}
