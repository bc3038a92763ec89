package engine

import (
	"strings"
	"testing"
	"unicode"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"
)

// FuzzDecode: whatever a policy answers becomes a Decision that keeps its promises, or an error; never a panic. The
// input is a JSON object of arrays, which become the decision sets.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"reject": ["a", {"rule": "b", "code": 550, "status": "5.7.1", "message": "no\nmore"}], "allow": []}`,
		`{"defer": [{"rule": "b", "code": 450}], "note": [1, {"a": null}]}`,
		`{"edit": [{"op": "add_header", "name": "X-A", "value": "b"}, {"op": "change_sender", "address": "<a@example.com>"}]}`,
		`{"edit": [{"op": "replace_header", "name": "A", "value": "1"}, {"op": "replace_header", "name": "A", "value": "2", "index": 0}]}`,
		`{"edit": [{"op": "insert_header", "name": "A:", "value": "1", "index": -1}]}`,
		`{"reject": [{"rule": "\u0000\u2028", "code": 1e99}]}`, `{"quarantine": ["q"], "discard": ["d"]}`, `{"reject": "a"}`, `{"allow": [7]}`,
	} {
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, doc []byte, utf8 bool) {
		var sets map[string]any
		if util.UnmarshalJSON(doc, &sets) != nil {
			return
		}
		st := &stage{name: "message"}
		out := answer{}
		for _, name := range setNames(StageMessage) {
			v, ok := sets[name]
			if !ok {
				continue
			}
			st.sets = append(st.sets, name)
			value := ast.MustInterfaceToValue(v)
			if a, ok := value.(*ast.Array); ok {
				set := ast.NewSet()
				a.Foreach(set.Add)
				value = set
			}
			out[ast.Var(name)] = ast.NewTerm(value)
		}
		tr := &Transaction{Stage: StageMessage, Envelope: &Envelope{}}
		if utf8 {
			tr.Envelope.FromParams = map[string]string{"SMTPUTF8": ""}
		}
		d, fail := decode(tr, st, out)
		if fail != nil {
			if fail.Kind != kindAnswer && fail.Kind != kindEdits || fail.Error() == "" {
				t.Errorf("error %v", fail)
			}
			return
		}
		promises(t, &d)
	})
}

// promises of every Decision.
func promises(t *testing.T, d *Decision) {
	refused := d.Verdict == Reject || d.Verdict == Defer
	if d.Reply.IsZero() == refused {
		t.Errorf("%v with reply %v", d.Verdict, d.Reply)
	}
	if class := d.Reply.Code() / 100; d.Verdict == Reject && class != 5 || d.Verdict == Defer && class != 4 {
		t.Errorf("%v with code %d", d.Verdict, d.Reply.Code())
	}
	if d.Edits.Len() > 0 && d.Verdict != Accept && d.Verdict != Quarantine {
		t.Errorf("%v with edits", d.Verdict)
	}
	for _, r := range d.Reasons {
		if r.Rule == "" || strings.ContainsFunc(r.Rule, func(c rune) bool { return !unicode.IsPrint(c) }) {
			t.Errorf("rule %q", r.Rule)
		}
		if strings.ContainsFunc(r.Text, func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }) {
			t.Errorf("text %q", r.Text)
		}
	}
}
