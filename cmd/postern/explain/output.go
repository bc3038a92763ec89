package explain

import (
	"fmt"
	"io"
	"strconv"

	"github.com/postern-mail/postern/cmd/postern/replay"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/printable"
)

// maxClosest is how many rules that did not fire are printed unless all are wanted.
const maxClosest = 6

// Print writes the report for people. all shows every rule that did not fire, not only the closest.
func (r *Report) Print(w io.Writer, all bool) {
	for i, x := range r.Decisions {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "stage %s of %s at %s", x.Stage, printable.Line(x.ID, 80), x.Time)
		if x.Login != "" {
			fmt.Fprintf(w, ", login %s", printable.Line(x.Login, 80))
		}
		if x.From != "" {
			fmt.Fprintf(w, ", from <%s>", printable.Line(x.From, 120))
		}
		fmt.Fprintf(w, "  (%s)\n", printable.Line(x.DecisionID, 80))
		if x.Logged != nil {
			printOutcome(w, "decided", x.Logged)
		}
		fmt.Fprintf(w, "  by revision %s\n", printable.Line(x.Revision, 120))
		if x.Problem != "" {
			fmt.Fprintf(w, "  note: %s\n", printable.Line(x.Problem, 400))
		}
		if x.Explanation == nil {
			continue
		}
		if !x.Same {
			printOutcome(w, "now decides", x.Now)
		}
		PrintExplanation(w, x.Explanation, "  ", all)
	}
	if r.Cut {
		fmt.Fprintf(w, "\nonly the first %d decisions are shown\n", maxHits)
	}
}

func printOutcome(w io.Writer, what string, o *replay.Outcome) {
	fmt.Fprintf(w, "  %s: %s", what, printable.Line(o.Verdict, 20))
	if o.Reply != "" {
		fmt.Fprintf(w, "  %s", printable.Line(o.Reply, 300))
	}
	if o.Error != "" {
		fmt.Fprintf(w, "  (policy failed: %s)", printable.Line(o.Error, 80))
	}
	fmt.Fprintln(w)
}

// PrintExplanation writes which rules fired, and the closest of those that did not, or all of them. indent stands before each line.
func PrintExplanation(w io.Writer, x *engine.Explanation, indent string, all bool) {
	if x.Error != "" {
		fmt.Fprintf(w, "%sevaluation ended with: %s\n", indent, printable.Line(x.Error, 400))
	}
	if len(x.Fired) == 0 {
		fmt.Fprintf(w, "%sno rule fired\n", indent)
	}
	for _, t := range x.Fired {
		fmt.Fprintf(w, "%sfired   %-10s %-40s %s:%d\n", indent, t.Set, printable.Line(t.Rule, 100), t.File, t.Line)
		for _, e := range t.Elements {
			if e != strconv.Quote(t.Rule) {
				fmt.Fprintf(w, "%s        added %s\n", indent, printable.Line(e, 240))
			}
		}
	}
	shown := 0
	for _, t := range x.Near {
		if !all && (shown == maxClosest || t.Passed == 0 && shown >= 2) {
			break
		}
		shown++
		fmt.Fprintf(w, "%snearly  %-10s %-40s %s:%d  %d of %d held\n", indent, t.Set, printable.Line(t.Rule, 100), t.File, t.Line, t.Passed, t.Of)
		if t.Stopped != nil {
			printStop(w, t.Stopped, indent+"        ", "stopped at")
		}
	}
	if more := len(x.Near) - shown; more > 0 {
		fmt.Fprintf(w, "%s%d more rules did not fire (--all shows them)\n", indent, more)
	}
	if x.Cut {
		fmt.Fprintf(w, "%smore was found than the explanation of one decision keeps\n", indent)
	}
}

// printStop writes the statement on which a rule stopped, the values of its names, and the statement that is the cause.
func printStop(w io.Writer, s *engine.Stop, indent, how string) {
	fmt.Fprintf(w, "%s%s %s:%d:%d  %s\n", indent, how, s.File, s.Line, s.Column, printable.Line(s.Text, 240))
	for _, v := range s.Values {
		value := v.Value
		if v.Undefined {
			value = "undefined"
		}
		fmt.Fprintf(w, "%s    %s = %s\n", indent, printable.Line(v.Name, 120), printable.Line(value, 240))
	}
	if s.Because != nil {
		how := "because of"
		if s.Because.Held {
			how = "because this held:"
		}
		printStop(w, s.Because, indent+"  ", how)
	}
}
