package policytest

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/cmd/postern/terminal"
)

// Printer prints reports for people.
type Printer struct {
	Out     io.Writer // the results
	Errs    io.Writer // what is wrong with the bundle, or with the run as a whole
	Verbose bool      // print the tests that passed, too
}

// Print prints a report.
func (o *Printer) Print(r *Report) {
	for _, f := range r.Policy {
		fmt.Fprintln(o.Errs, f.String())
	}
	if len(r.Policy) > 0 {
		fmt.Fprintf(o.Errs, "%s %s does not load or compile; nothing was tested\n", terminal.Paint(o.Errs, terminal.Red, "broken:"), r.Bundle)
		return
	}
	for i := range r.Tests {
		if t := &r.Tests[i]; o.Verbose || t.Verdict == Failed || t.Verdict == Errored || t.Updated {
			o.test(t)
		}
	}
	if r.Coverage != nil {
		o.coverage(r)
	}
	o.summary(r)
}

// test prints the result of one test.
func (o *Printer) test(t *Result) {
	colour := map[string]string{Passed: terminal.Green, Skipped: terminal.Yellow}[t.Verdict]
	if colour == "" {
		colour = terminal.Red
	}
	word := t.Verdict
	if t.Updated {
		word = "updated"
	}
	place, name := fmt.Sprintf("%s:%d", t.File, max(t.Line, 1)), ""
	if t.Kind == "rego" {
		name = " " + t.id()
	}
	fmt.Fprintf(o.Out, "%s %s%s (%s)\n", terminal.Paint(o.Out, colour, word+":"), place, name, round(t.Seconds))
	if t.Verdict == Failed || t.Verdict == Errored {
		if t.Stopped == nil && !strings.Contains(t.Detail, t.Message) { // else the detail says it
			fmt.Fprintln(o.Out, indent(visible(t.Message, false), "    "))
		}
		if t.Detail != "" {
			fmt.Fprintln(o.Out, o.detail(t.Detail))
		}
	}
	if text := strings.TrimSpace(t.Output); text != "" {
		fmt.Fprintf(o.Out, "    printed:\n%s\n", indent(visible(text, false), "        "))
	}
}

// detail indents a text and colours the lines of a diff in it.
func (o *Printer) detail(text string) string {
	lines := strings.Split(text, "\n")
	within := false // a diff
	for i, l := range lines {
		within = within && l != "" && strings.ContainsAny(l[:1], "+- @\\") || strings.HasPrefix(l, "--- ")
		switch {
		case !within:
		case strings.HasPrefix(l, "-"):
			l = terminal.Paint(o.Out, terminal.Red, l)
		case strings.HasPrefix(l, "+"):
			l = terminal.Paint(o.Out, terminal.Green, l)
		case strings.HasPrefix(l, "@@"):
			l = terminal.Paint(o.Out, terminal.Cyan, l)
		}
		lines[i] = "    " + l
	}
	return strings.Join(lines, "\n")
}

// coverage prints a line for each file, and then each range of lines that no test reached.
func (o *Printer) coverage(r *Report) {
	c := r.Coverage
	names := slices.Sorted(maps.Keys(c.Files))
	wide := 0
	for _, name := range names {
		wide = max(wide, len(place(r.dir, name)))
	}
	fmt.Fprintln(o.Out, "coverage:")
	var missed []string
	for _, name := range names {
		f := c.Files[name]
		if f.CoveredLines+f.NotCoveredLines == 0 {
			continue
		}
		fmt.Fprintf(o.Out, "  %-*s  %8s of %d lines\n", wide, place(r.dir, name), percent(f.Coverage), f.CoveredLines+f.NotCoveredLines)
		for _, l := range bundles.Uncovered(f) {
			at := fmt.Sprintf("%s:%d", place(r.dir, name), l.From)
			if l.To > l.From {
				at += fmt.Sprintf("-%d", l.To)
			}
			missed = append(missed, at)
		}
	}
	fmt.Fprintf(o.Out, "  %-*s  %8s of %d lines\n", wide, "all", percent(c.Coverage), c.CoveredLines+c.NotCoveredLines)
	if len(missed) > 0 {
		fmt.Fprintf(o.Out, "not covered:\n%s\n", indent(strings.Join(missed, "\n"), "  "))
	}
}

// summary prints the last line.
func (o *Printer) summary(r *Report) {
	rego, messages := 0, 0
	for _, t := range r.Tests {
		if t.Kind == "rego" {
			rego++
		} else {
			messages++
		}
	}
	word, colour := "ok:", terminal.Green
	if !r.OK {
		word, colour = "FAILED:", terminal.Red
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
		fmt.Fprintln(o.Errs, "postern:", r.Problem)
	}
	fmt.Fprintf(o.Out, "%s %s (%d Rego, %d message tests) in %s, revision %s\n", terminal.Paint(o.Out, colour, word), strings.Join(counts, ", "), rego, messages,
		round(r.Seconds), r.Revision)
}

func round(seconds float64) time.Duration {
	d := time.Duration(seconds * float64(time.Second))
	if d < time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}
