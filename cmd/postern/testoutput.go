package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/bundles"
)

// testOutput says what came of the tests, to people or to programs.
type testOutput struct {
	out, errs io.Writer
	json      bool
	verbose   bool
	threshold float64
}

// Colours on a terminal (ECMA-48), unless NO_COLOR says otherwise.
const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	cyan   = "\x1b[36m"
	plain  = "\x1b[0m"
)

// paint colours text where out is a terminal.
func (o *testOutput) paint(colour, text string) string {
	if !isTerminal(o.out) || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return text
	}
	return colour + text + plain
}

// report prints it.
func (o *testOutput) report(r *testReport) error {
	if o.json {
		return writeJSON(o.out, r)
	}
	for _, f := range r.Policy {
		fmt.Fprintln(o.errs, f.String())
	}
	if len(r.Policy) > 0 {
		fmt.Fprintf(o.errs, "%s %s does not load or compile; nothing was tested\n", o.paint(red, "broken:"), r.Bundle)
		return nil
	}
	for i := range r.Tests {
		if t := &r.Tests[i]; o.verbose || t.Verdict == testFailed || t.Verdict == testError || t.Updated {
			o.test(t)
		}
	}
	if r.Coverage != nil {
		o.coverage(r)
	}
	o.summary(r)
	return nil
}

// test prints one result.
func (o *testOutput) test(t *testResult) {
	colour := map[string]string{testPassed: green, testSkipped: yellow}[t.Verdict]
	if colour == "" {
		colour = red
	}
	word := t.Verdict
	if t.Updated {
		word = "updated"
	}
	place, name := fmt.Sprintf("%s:%d", t.File, max(t.Line, 1)), ""
	if t.Kind == "rego" {
		name = " " + t.id()
	}
	fmt.Fprintf(o.out, "%s %s%s (%s)\n", o.paint(colour, word+":"), place, name, round(t.Seconds))
	if t.Verdict == testFailed || t.Verdict == testError {
		if t.Stopped == nil && !strings.Contains(t.Detail, t.Message) { // else the detail says it
			fmt.Fprintln(o.out, indent(visible(t.Message, false), "    "))
		}
		if t.Detail != "" {
			fmt.Fprintln(o.out, o.detail(t.Detail))
		}
	}
	if text := strings.TrimSpace(t.Output); text != "" {
		fmt.Fprintf(o.out, "    printed:\n%s\n", indent(visible(text, false), "        "))
	}
}

// detail indents, and colours the lines of a diff.
func (o *testOutput) detail(text string) string {
	lines := strings.Split(text, "\n")
	within := false // a diff
	for i, l := range lines {
		within = within && l != "" && strings.ContainsAny(l[:1], "+- @\\") || strings.HasPrefix(l, "--- ")
		switch {
		case !within:
		case strings.HasPrefix(l, "-"):
			l = o.paint(red, l)
		case strings.HasPrefix(l, "+"):
			l = o.paint(green, l)
		case strings.HasPrefix(l, "@@"):
			l = o.paint(cyan, l)
		}
		lines[i] = "    " + l
	}
	return strings.Join(lines, "\n")
}

// coverage prints a line a file and then each stretch of lines that nothing reached.
func (o *testOutput) coverage(r *testReport) {
	c := r.Coverage
	place := (&testRun{dir: r.dir}).place
	names := slices.Sorted(maps.Keys(c.Files))
	wide := 0
	for _, name := range names {
		wide = max(wide, len(place(name)))
	}
	fmt.Fprintln(o.out, "coverage:")
	var missed []string
	for _, name := range names {
		f := c.Files[name]
		if f.CoveredLines+f.NotCoveredLines == 0 {
			continue
		}
		fmt.Fprintf(o.out, "  %-*s  %8s of %d lines\n", wide, place(name), percent(f.Coverage), f.CoveredLines+f.NotCoveredLines)
		for _, l := range bundles.Uncovered(f) {
			at := fmt.Sprintf("%s:%d", place(name), l.From)
			if l.To > l.From {
				at += fmt.Sprintf("-%d", l.To)
			}
			missed = append(missed, at)
		}
	}
	fmt.Fprintf(o.out, "  %-*s  %8s of %d lines\n", wide, "all", percent(c.Coverage), c.CoveredLines+c.NotCoveredLines)
	if len(missed) > 0 {
		fmt.Fprintf(o.out, "not covered:\n%s\n", indent(strings.Join(missed, "\n"), "  "))
	}
}

// summary is the last line.
func (o *testOutput) summary(r *testReport) {
	rego, messages := 0, 0
	for _, t := range r.Tests {
		if t.Kind == "rego" {
			rego++
		} else {
			messages++
		}
	}
	word, colour := "ok:", green
	if !r.OK {
		word, colour = "FAILED:", red
	}
	counts := []string{fmt.Sprintf("%d passed", r.Passed)}
	for _, c := range []struct {
		n    int
		what string
	}{{r.Failed, "failed"}, {r.Errors, "could not be run"}, {r.Skipped, "skipped"}, {r.Updated, "updated"}} {
		if c.n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	if r.Problem != "" {
		fmt.Fprintln(o.errs, "postern:", r.Problem)
	}
	fmt.Fprintf(o.out, "%s %s (%d Rego, %d message tests) in %s, revision %s\n", o.paint(colour, word), strings.Join(counts, ", "), rego, messages,
		round(r.Seconds), r.Revision)
}

func round(seconds float64) time.Duration {
	d := time.Duration(seconds * float64(time.Second))
	if d < time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

func parallel(n int) int {
	if n > 0 {
		return n
	}
	return runtime.GOMAXPROCS(0)
}

// testProgress counts on a terminal, once it takes longer.
type testProgress struct {
	w    io.Writer // nil: nobody looks
	all  int
	next time.Time

	mu    sync.Mutex
	n     int
	shown bool
}

// progress begins to count.
func (o *testOutput) progress(all int) *testProgress {
	p := &testProgress{all: all, next: time.Now().Add(500 * time.Millisecond)}
	if isTerminal(o.errs) && !o.json && os.Getenv("TERM") != "dumb" {
		p.w = o.errs
	}
	return p
}

// done counts one test.
func (p *testProgress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n++
	if now := time.Now(); p.w != nil && now.After(p.next) {
		fmt.Fprintf(p.w, "\r\x1b[K%d of %d tests", p.n, max(p.n, p.all))
		p.next, p.shown = now.Add(100*time.Millisecond), true
	}
}

// end takes the line away.
func (p *testProgress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
