// Package eval reports what policy does with one message, for `postern eval`.
//
// It starts no goroutines.
package eval

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/postern-mail/postern/cmd/postern/explain"
	"github.com/postern-mail/postern/cmd/postern/gate"
	"github.com/postern-mail/postern/cmd/postern/terminal"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/trial"
)

// Report is what `postern eval --json` prints.
type Report struct {
	Verdict    string   `json:"verdict"`
	Stage      string   `json:"stage"`
	Reply      string   `json:"reply,omitempty"`
	Revision   string   `json:"revision"`
	Error      string   `json:"error,omitempty"`
	Steps      []Step   `json:"steps"`
	Edits      []Edit   `json:"edits"`
	From       *string  `json:"from,omitempty"`
	To         []string `json:"to,omitempty"`
	HeaderDiff []string `json:"header_diff"`
	Notes      []any    `json:"notes,omitempty"`
}

type Step struct {
	Command   string   `json:"command"`
	Verdict   string   `json:"verdict"`
	Reply     string   `json:"reply,omitempty"`
	Reasons   []Reason `json:"reasons"`
	LatencyUS int64    `json:"latency_us"`

	Explanation *engine.Explanation `json:"explanation,omitempty"` // with --explain, where the bundle defines the stage
	stage       engine.Stage
}

type Reason struct {
	Set  string `json:"set"`
	Rule string `json:"rule"`
	Text string `json:"text,omitempty"`
}

type Edit struct {
	Op    string `json:"op"`
	Name  string `json:"name,omitempty"`
	Index int    `json:"index,omitempty"`
	Value string `json:"value,omitempty"`
}

// NewReport returns the report about a trial.
func NewReport(r *trial.Result) *Report {
	d := r.Final
	out := &Report{
		Verdict: d.Verdict.String(), Stage: d.Stage.String(), Revision: d.Revision, Notes: d.Notes,
		Steps: []Step{}, Edits: []Edit{}, HeaderDiff: []string{},
	}
	if !d.Reply.IsZero() {
		out.Reply = d.Reply.String()
	}
	if d.Err != nil {
		out.Error = d.Err.Error()
	}
	for _, s := range r.Steps {
		step := Step{Command: s.Command, Verdict: s.Decision.Verdict.String(), Reasons: reasons(s.Decision), LatencyUS: s.Decision.Latency.Microseconds(), stage: s.Decision.Stage}
		if !s.Decision.Reply.IsZero() {
			step.Reply = s.Decision.Reply.String()
		}
		out.Steps = append(out.Steps, step)
	}
	for i := range d.Edits.Len() {
		e := d.Edits.At(i)
		value := e.Value()
		if e.Name() == "" {
			value = e.Path().String()
		}
		out.Edits = append(out.Edits, Edit{Op: e.Op().String(), Name: e.Name(), Index: e.Index(), Value: value})
	}
	if r.After != nil {
		from := r.Envelope.From.String()
		out.From = &from
		for _, to := range r.Envelope.To {
			out.To = append(out.To, to.Path.String())
		}
		out.HeaderDiff = terminal.Diff(splitLines(r.Before), splitLines(r.After))
	}
	return out
}

func reasons(d engine.Decision) []Reason {
	out := []Reason{}
	for _, r := range d.Reasons {
		out = append(out, Reason{Set: r.Set, Rule: r.Rule, Text: r.Text})
	}
	return out
}

// Print writes the report for people. all shows every rule that did not fire, not only the closest.
func (r *Report) Print(w io.Writer, all bool) {
	fmt.Fprintf(w, "%s at stage %s, by revision %s\n", r.Verdict, r.Stage, r.Revision)
	if r.Reply != "" {
		fmt.Fprintf(w, "  the client is told: %s\n", r.Reply)
	}
	if r.Error != "" {
		fmt.Fprintf(w, "  because policy failed: %s\n", r.Error)
	}
	fmt.Fprintln(w)
	for _, s := range r.Steps {
		fmt.Fprintf(w, "%-40s %s", s.Command, s.Verdict)
		if s.Reply != "" {
			fmt.Fprintf(w, "  %s", s.Reply)
		}
		fmt.Fprintln(w)
		for _, x := range s.Reasons {
			fmt.Fprintf(w, "    %-10s %s", x.Set, x.Rule)
			if x.Text != "" && x.Text != x.Rule {
				fmt.Fprintf(w, ": %s", x.Text)
			}
			fmt.Fprintln(w)
		}
		if s.Explanation != nil {
			explain.PrintExplanation(w, s.Explanation, "    ", all)
		}
	}
	if len(r.Notes) > 0 {
		notes, _ := json.Marshal(r.Notes)
		fmt.Fprintf(w, "\nnotes: %s\n", notes)
	}
	if r.From == nil {
		return
	}
	fmt.Fprintf(w, "\nenvelope: from %s to %s\n", *r.From, strings.Join(r.To, ", "))
	if len(r.Edits) == 0 {
		fmt.Fprintln(w, "the message leaves as it came")
		return
	}
	fmt.Fprintln(w, "\nheader:")
	for _, l := range r.HeaderDiff {
		fmt.Fprintln(w, l)
	}
}

func splitLines(b []byte) []string {
	b = bytes.TrimSuffix(b, []byte("\r\n\r\n"))
	return strings.Split(strings.TrimSuffix(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n"), "\n")
}

// Questions is an engine.Recorder that keeps the input of every decision, so that the decisions can be explained.
type Questions []*engine.Logged

// Record keeps the input, which does not change afterwards.
func (q *Questions) Record(_ context.Context, r engine.Record) error {
	in, ok := r.Input.(*engine.Input)
	if !ok {
		return errors.New("the input of a decision cannot be explained: it is not an *engine.Input")
	}
	l := engine.NewLogged(r.Decision.Stage, in, in.Parts(), nil)
	if l.Failure = r.Transaction.Failure; r.Transaction.Envelope != nil {
		_, l.UTF8 = r.Transaction.Envelope.FromParams["SMTPUTF8"]
	}
	*q = append(*q, l)
	return nil
}

// Explain adds an explanation to each step of a report. p is the policy that decided. Steps whose stage p does not define were not
// decided by it, and have none.
func (q Questions) Explain(ctx context.Context, p *engine.Policy, steps []Step) (err error) {
	ctx, cancel := context.WithTimeout(ctx, gate.OfflineTimeout)
	defer cancel()
	next := 0
	for i := range steps {
		if !p.Asks(steps[i].stage) || next >= len(q) {
			continue
		}
		if steps[i].Explanation, err = p.Explain(ctx, q[next]); err != nil {
			return err
		}
		next++
	}
	return nil
}
