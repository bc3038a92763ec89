package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/trial"
)

// evalReport is what `postern eval --json` prints.
type evalReport struct {
	Verdict    string       `json:"verdict"`
	Stage      string       `json:"stage"`
	Reply      string       `json:"reply,omitempty"`
	Revision   string       `json:"revision"`
	Error      string       `json:"error,omitempty"`
	Steps      []evalStep   `json:"steps"`
	Edits      []evalEdit   `json:"edits"`
	From       *string      `json:"from,omitempty"`
	To         []string     `json:"to,omitempty"`
	HeaderDiff []string     `json:"header_diff"`
	Notes      []any        `json:"notes,omitempty"`
	reasons    []evalReason // of the step that settled it
	all        bool         // rules that came nowhere near, too
}

type evalStep struct {
	Command   string       `json:"command"`
	Verdict   string       `json:"verdict"`
	Reply     string       `json:"reply,omitempty"`
	Reasons   []evalReason `json:"reasons"`
	LatencyUS int64        `json:"latency_us"`

	Explanation *engine.Explanation `json:"explanation,omitempty"` // with --explain, where the bundle defines the stage
	stage       engine.Stage
}

type evalReason struct {
	Set  string `json:"set"`
	Rule string `json:"rule"`
	Text string `json:"text,omitempty"`
}

type evalEdit struct {
	Op    string `json:"op"`
	Name  string `json:"name,omitempty"`
	Index int    `json:"index,omitempty"`
	Value string `json:"value,omitempty"`
}

func report(r *trial.Result) *evalReport {
	d := r.Final
	out := &evalReport{
		Verdict: d.Verdict.String(), Stage: d.Stage.String(), Revision: d.Revision, Notes: d.Notes,
		Steps: []evalStep{}, Edits: []evalEdit{}, HeaderDiff: []string{}, reasons: reasons(d),
	}
	if !d.Reply.IsZero() {
		out.Reply = d.Reply.String()
	}
	if d.Err != nil {
		out.Error = d.Err.Error()
	}
	for _, s := range r.Steps {
		step := evalStep{Command: s.Command, Verdict: s.Decision.Verdict.String(), Reasons: reasons(s.Decision), LatencyUS: s.Decision.Latency.Microseconds(), stage: s.Decision.Stage}
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
		out.Edits = append(out.Edits, evalEdit{Op: e.Op().String(), Name: e.Name(), Index: e.Index(), Value: value})
	}
	if r.After != nil {
		from := r.Envelope.From.String()
		out.From = &from
		for _, to := range r.Envelope.To {
			out.To = append(out.To, to.Path.String())
		}
		out.HeaderDiff = diffLines(splitLines(r.Before), splitLines(r.After))
	}
	return out
}

func reasons(d engine.Decision) []evalReason {
	out := []evalReason{}
	for _, r := range d.Reasons {
		out = append(out, evalReason{Set: r.Set, Rule: r.Rule, Text: r.Text})
	}
	return out
}

// writeJSON prints v indented, for people and programs alike.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func (r *evalReport) print(w io.Writer) {
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
			printExplanation(w, s.Explanation, "    ", r.all)
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

// diffLines is a plain line diff: "  " kept, "- " gone, "+ " new. Header blocks are short, so the quadratic table is
// small; a block too long for it is shown whole, before and after.
func diffLines(a, b []string) []string {
	if len(a)*len(b) > 1<<20 {
		return append(prefix("- ", a), prefix("+ ", b)...)
	}
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out []string
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			out = append(out, "  "+a[i])
			i, j = i+1, j+1
		case common[i+1][j] >= common[i][j+1]:
			out = append(out, "- "+a[i])
			i++
		default:
			out = append(out, "+ "+b[j])
			j++
		}
	}
	return append(append(out, prefix("- ", a[i:])...), prefix("+ ", b[j:])...)
}

func prefix(p string, lines []string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = p + l
	}
	return out
}
