package engine

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/postern-mail/postern/engine/contract"
)

// FuzzDecode: any answer of a policy becomes a Decision that keeps its promises, or an error, without a panic. The
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
		for _, name := range contract.SetNames(StageMessage) {
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
		if want := precedence(sets); d.Verdict != want {
			t.Errorf("%s is %v, want %v", doc, d.Verdict, want)
		}
		// Every decision can be logged in one line of JSON.
		for _, note := range d.Notes {
			if line, err := json.Marshal(note); err != nil || bytes.ContainsAny(line, "\r\n") {
				t.Errorf("note %v: %v", note, err)
			}
		}
		if len(d.Notes) > contract.MaxNotes || d.Edits.Len() > contract.MaxEdits || len(d.Reasons) > 5*contract.MaxReasons {
			t.Errorf("%d notes, %d edits, %d reasons", len(d.Notes), d.Edits.Len(), len(d.Reasons))
		}
	})
}

// precedence is the contract's, read off the sets: reject, defer, what nothing allows, quarantine, discard, accept.
func precedence(sets map[string]any) Verdict {
	fired := func(name string) bool { list, _ := sets[name].([]any); return len(list) > 0 }
	_, allows := sets["allow"]
	switch {
	case fired("reject"):
		return Reject
	case fired("defer"):
		return Defer
	case allows && !fired("allow"):
		return Reject
	case fired("quarantine"):
		return Quarantine
	case fired("discard"):
		return Discard
	}
	return Accept
}

// FuzzInput: an input that is read back is the value that stood there, as the standard library reads it, and comes out of it
// again; it has a name twice nowhere, no number that loses a digit, and no fact that the contract does not know.
func FuzzInput(f *testing.F) {
	for _, s := range []string{
		`{"version":1,"stage":"mail","id":"t1","now":1767322800000000000,"auth":{"login":"alice","groups":["a"],"attributes":{"x":["1"]}},"unknown":[]}`,
		`{"version":1,"stage":"message","envelope":{"from":{"address":"a@b.example","local":"a","domain":"b.example","parameters":{"SIZE":"1"}},"to":[]},"message":{"header":{"from":["x"]},"size":12}}`,
		`{"stage":"mail","stage":"rcpt"}`, `{"stage":1}`, `{"now":1.5}`, `{"now":1e3}`, `{"now":-0}`, `{"now":9223372036854775808}`, `{"now":123456789012345678901}`, `{"nope":1}`, `{"auth":null}`, `{"stage":"\ud800"}`, "{\"stage\":\"\xff\"}", `{} {}`,
		`{"auth":{"attributes":{"a":["b"],"a":["c"]}}}`, `{"client":{"ip":"192.0.2.7","port":4711}}`, ` {"stage" : "connect"}`, `[[[[`, `{"message":{"headers":[{"name":"A","key":"a","value":"b"}]}}`,
	} {
		f.Add([]byte(s))
	}
	r := NewInputReader()
	f.Fuzz(func(t *testing.T, doc []byte) {
		if len(doc) > 1<<14 {
			return
		}
		in, err := r.Read(doc)
		if err != nil {
			if in != nil || strings.ContainsAny(err.Error(), "\r\n") || len(err.Error()) > 2000 {
				t.Fatalf("%q: %v, %q", doc, in, err)
			}
			return
		}
		read := func(text []byte) (v any) {
			d := json.NewDecoder(bytes.NewReader(text))
			d.UseNumber()
			if err := d.Decode(&v); err != nil {
				t.Fatalf("%q was taken: %v", text, err)
			}
			return v
		}
		out := in.AppendJSON(nil)
		if a, b := read(doc), read(out); !reflect.DeepEqual(a, b) || !json.Valid(doc) {
			t.Fatalf("%q comes out as %q", doc, out)
		}
		again, err := r.Read(out)
		if err != nil || !bytes.Equal(again.AppendJSON(nil), out) || again.Stage() != in.Stage() {
			t.Fatalf("%q comes out as %q, and then %v", doc, out, err)
		}
		if colons := bytes.Count(out, []byte(`":`)); bytes.Count(doc, []byte(`:`)) < colons {
			t.Fatalf("%q comes out as %q", doc, out)
		}
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
