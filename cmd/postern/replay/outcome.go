package replay

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/engine/decisionlog"
	"github.com/postern-mail/postern/internal/message"
)

// Outcome is the part of a decision that is compared.
type Outcome struct {
	Verdict string   `json:"verdict"`
	Reply   string   `json:"reply,omitempty"` // code, status and text, with \n between lines
	Rules   []string `json:"rules,omitempty"` // the rules that fired, as "set: rule", in order
	Edits   []string `json:"edits,omitempty"` // in the order in which they are applied
	Error   string   `json:"error,omitempty"` // kind of the error, if policy failed
	Why     string   `json:"why,omitempty"`   // text of the error, if policy failed in this run

	rule  string   // the rule that decided; "" if no rule did
	names []string // for each of Edits its operation and field, or its operation
}

// add adds a rule that fired.
func (o *Outcome) add(set, rule string) {
	o.Rules = append(o.Rules, set+": "+rule)
	if o.rule == "" && (set == o.Verdict || set == "default" || set == "error") {
		o.rule = rule
	}
}

// edit adds an edit of the message.
func (o *Outcome) edit(op, name string, index int, value, address string) {
	label := op
	text := op + " <" + address + ">"
	if name != "" {
		label, text = op+" "+name, op+" "+name
		if index != 0 {
			text += fmt.Sprintf("[%d]", index)
		}
		if op != contract.EditName(message.OpRemoveHeader) {
			text += ": " + value
		}
	}
	o.Edits, o.names = append(o.Edits, text), append(o.names, label)
}

func reply(code int, status string, lines []string) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", code, status, strings.Join(lines, "\n")))
}

// OutcomeOf returns the outcome of a decision of the engine.
func OutcomeOf(d *engine.Decision) Outcome {
	o := Outcome{Verdict: d.Verdict.String()}
	if !d.Reply.IsZero() {
		o.Reply = reply(d.Reply.Code(), d.Reply.Status(), d.Reply.Lines())
	}
	for _, r := range d.Reasons {
		o.add(r.Set, r.Rule)
	}
	for i := range d.Edits.Len() {
		e := d.Edits.At(i)
		if e.Op() >= message.OpChangeSender {
			o.edit(contract.EditName(e.Op()), "", 0, "", e.Path().Address())
		} else {
			o.edit(contract.EditName(e.Op()), e.Name(), e.Index(), e.Value(), "")
		}
	}
	if d.Err != nil {
		o.Error, o.Why = "error", cut(d.Err.Error())
		var e *engine.EvalError
		if errors.As(d.Err, &e) {
			o.Error = e.Kind
		}
	}
	return o
}

// LoggedOutcome returns the outcome in a line of a log. The result in the line must not be masked.
func LoggedOutcome(l *decisionlog.Line) Outcome {
	r := l.Result
	o := Outcome{Verdict: r.Verdict, Error: l.Error}
	if r.Reply != nil {
		o.Reply = reply(r.Reply.Code, r.Reply.Status, r.Reply.Lines)
	}
	for _, x := range r.Rules {
		o.add(x.Set, x.Rule)
	}
	for _, e := range r.Edits {
		o.edit(e.Op, e.Name, e.Index, e.Value, e.Address)
	}
	return o
}

// brief returns a copy of bounded size, for an example. A nil Outcome has a nil copy.
func (o *Outcome) brief() *Outcome {
	if o == nil {
		return nil
	}
	short := func(list []string) (out []string) {
		for i, s := range list {
			if i == 20 {
				return append(out, "...")
			}
			out = append(out, cut(s))
		}
		return out
	}
	return &Outcome{Verdict: o.Verdict, Reply: cut(o.Reply), Rules: short(o.Rules), Edits: short(o.Edits), Error: o.Error, Why: o.Why}
}

// cut shortens a text to the length that an example shows.
func cut(s string) string {
	if len(s) <= 300 {
		return s
	}
	return strings.ToValidUTF8(s[:300], "") + "..."
}

// The kinds of changes.
const (
	Refused     = "refused"     // rejected now, and was not
	Deferred    = "deferred"    // deferred now, and was not
	Quarantined = "quarantined" // held now, and was not
	Discarded   = "discarded"   // dropped now, and was not
	Accepted    = "accepted"    // accepted now, and was not
	Failed      = "failed"      // the new policy fails, and the old one did not
	Reply       = "reply"       // the client gets another reply
	Edits       = "edits"       // the message is edited differently
	Unknown     = "unknown"     // not known, because the log lacks facts that the policy reads
	Rules       = "rules"       // other rules fired with the same outcome; reported, but not counted as a change
)

// Kinds returns all kinds of changes that need an approval, in the order of reports.
func Kinds() []string {
	return []string{Refused, Deferred, Quarantined, Discarded, Accepted, Failed, Reply, Edits, Unknown}
}

// change is one difference: its kind, and the rule, edit or fact that it is about.
type change struct{ kind, rule string }

// compare returns the differences between the old outcome and the new one.
func compare(was, now *Outcome) []change {
	if now.Error != "" && was.Error == "" {
		return []change{{Failed, now.rule}}
	}
	var out []change
	if was.Verdict != now.Verdict {
		kind := map[string]string{"reject": Refused, "defer": Deferred, "quarantine": Quarantined, "discard": Discarded, "accept": Accepted}[now.Verdict]
		rule := now.rule
		if now.Verdict == "accept" {
			rule = was.rule
		}
		out = append(out, change{kind, rule})
	} else if was.Reply != now.Reply {
		out = append(out, change{Reply, now.rule})
	}
	if leaves(was.Verdict) && leaves(now.Verdict) {
		out = append(out, compareEdits(was, now)...)
	}
	if out == nil && !slices.Equal(was.Rules, now.Rules) {
		out = append(out, change{Rules, firstDifference(was.Rules, now.Rules)})
	}
	return out
}

// Same reports whether client and recipients would notice no difference between two outcomes.
func Same(was, now *Outcome) bool {
	for _, c := range compare(was, now) {
		if c.kind != Rules {
			return false
		}
	}
	return true
}

// leaves reports whether a message with this verdict is sent on or held, with its edits.
func leaves(verdict string) bool { return verdict == "accept" || verdict == "quarantine" }

// compareEdits returns a change for each edit that only one side has, by its operation and field.
func compareEdits(was, now *Outcome) (out []change) {
	if slices.Equal(was.Edits, now.Edits) {
		return nil
	}
	seen := map[string]bool{}
	for _, pair := range [2][2]*Outcome{{was, now}, {now, was}} {
		for i, e := range pair[0].Edits {
			if name := pair[0].names[i]; !slices.Contains(pair[1].Edits, e) && !seen[name] {
				seen[name] = true
				out = append(out, change{Edits, name})
			}
		}
	}
	slices.SortFunc(out, func(a, b change) int { return strings.Compare(a.rule, b.rule) })
	return out
}

// firstDifference returns the first rule that only one side has, looking at the new side first.
func firstDifference(was, now []string) string {
	for _, pair := range [2][2][]string{{now, was}, {was, now}} {
		for _, r := range pair[0] {
			if !slices.Contains(pair[1], r) {
				return r
			}
		}
	}
	return "order"
}
