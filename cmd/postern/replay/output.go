package replay

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/postern-mail/postern/cmd/postern/terminal"
	"github.com/postern-mail/postern/internal/printable"
)

// kindTitle returns the name of a kind of change for people.
func kindTitle(kind string) string {
	switch kind {
	case Refused, Deferred, Quarantined, Discarded, Accepted:
		return "newly " + kind
	case Failed:
		return "the new policy fails"
	case Reply:
		return "another reply"
	case Edits:
		return "other edits"
	case Unknown:
		return "unknown"
	}
	return "other rules, the same outcome"
}

// Print writes the report for people. skipBad says that lines which cannot be read are no failure.
func (s *Summary) Print(w io.Writer, skipBad bool) {
	fmt.Fprintf(w, "revision %s against %s: %s decisions replayed, %s the same, %s changed",
		printable.Line(s.New, 80), printable.Line(s.Old, 80), count(s.Replayed), count(s.Same), count(s.Changed))
	for _, extra := range []struct {
		n    int
		what string
	}{{s.Unknown, "unknown"}, {s.Left, "left out"}, {s.BadLines, "lines cannot be read"}} {
		if extra.n > 0 {
			fmt.Fprintf(w, ", %s %s", count(extra.n), extra.what)
		}
	}
	fmt.Fprintln(w)
	if s.Old == "the log" && len(s.Logged) > 0 {
		fmt.Fprintf(w, "logged by revision %s\n", printable.Line(strings.Join(s.Logged, ", "), 400))
	}
	for _, g := range s.Groups {
		printGroup(w, &g)
	}
	if len(s.Bad) > 0 {
		fmt.Fprintln(w)
		for _, b := range s.Bad {
			fmt.Fprintf(w, "%s:%d: %s\n", printable.Line(b.File, 200), b.Line, printable.Line(b.Error, 200))
		}
		if more := s.BadLines - len(s.Bad); more > 0 {
			fmt.Fprintf(w, "... and %s more lines that cannot be read\n", count(more))
		}
	}
	for _, stage := range s.Unseen {
		fmt.Fprintf(w, "\nstage %s: the new policy decides there, but no decision of this stage was replayed, so its effect is not known\n", stage)
	}
	for _, b := range s.Unused {
		fmt.Fprintf(w, "\n%s:%d: %s\n", printable.Line(b.File, 200), b.Line, b.Error)
	}
	fmt.Fprintln(w)
	switch {
	case s.Replayed+s.Unknown == 0:
		fmt.Fprintln(w, "nothing was replayed")
	case s.Unapproved > 0:
		fmt.Fprintf(w, "decisions that change or are unknown, without approval: %s\n", count(s.Unapproved))
	case s.Changed+s.Unknown > 0:
		fmt.Fprintln(w, "every change is approved")
	default:
		fmt.Fprintln(w, "nothing changes")
	}
	if s.BadLines > 0 && !skipBad {
		fmt.Fprintf(w, "lines that cannot be read: %s (--skip-bad ignores them)\n", count(s.BadLines))
	}
}

func count(n int) string { return terminal.Thousands(int64(n)) }

func printGroup(w io.Writer, g *Group) {
	approved := "not approved"
	switch {
	case g.Kind == Rules:
		approved = ""
	case g.Approved == g.Count:
		approved = "approved"
	case g.Approved > 0:
		approved = count(g.Approved) + " approved"
	}
	fmt.Fprintf(w, "\n%-22s %9s  %-8s %s", kindTitle(g.Kind), count(g.Count), g.Stage, printable.Line(g.Rule, 100))
	if approved != "" {
		fmt.Fprintf(w, "  (%s)", approved)
	}
	fmt.Fprintln(w)
	for _, c := range g.Examples {
		fmt.Fprintf(w, "    %s  %s", printable.Line(c.ID, 64), c.Time.UTC().Format(time.RFC3339))
		if c.Login != "" {
			fmt.Fprintf(w, "  login %s", printable.Line(c.Login, 64))
		}
		if c.From != "" {
			fmt.Fprintf(w, "  from <%s>", printable.Line(c.From, 100))
		}
		fmt.Fprintf(w, "  %s:%d\n", printable.Line(c.File, 200), c.Line)
		if c.Was != nil && c.Now != nil {
			printOutcomes(w, g.Kind, c.Was, c.Now)
		}
	}
}

// printOutcomes writes the difference between two outcomes.
func printOutcomes(w io.Writer, kind string, was, now *Outcome) {
	if kind == Edits {
		for _, l := range terminal.Diff(was.Edits, now.Edits) {
			if !strings.HasPrefix(l, " ") {
				fmt.Fprintf(w, "        %s\n", printable.Line(l, 160))
			}
		}
		return
	}
	if kind == Rules {
		fmt.Fprintf(w, "        was %s\n        now %s\n", printable.Line(strings.Join(was.Rules, ", "), 300), printable.Line(strings.Join(now.Rules, ", "), 300))
		return
	}
	for _, side := range []struct {
		name string
		o    *Outcome
	}{{"was", was}, {"now", now}} {
		fmt.Fprintf(w, "        %s %s", side.name, side.o.Verdict)
		if side.o.Reply != "" {
			fmt.Fprintf(w, "  %s", printable.Line(side.o.Reply, 160))
		}
		if side.o.Error != "" {
			fmt.Fprintf(w, "  (policy failed: %s)", printable.Line(cmp.Or(side.o.Why, side.o.Error), 300))
		}
		fmt.Fprintln(w)
	}
}
