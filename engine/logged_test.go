package engine

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
)

// recorded is a Recorder that keeps the last input.
type recorded struct{ in *Input }

func (r *recorded) Record(_ context.Context, rec Record) error {
	r.in, _ = rec.Input.(*Input)
	return nil
}

// asked decides t by p and gives the question as the log would have it.
func asked(t testing.TB, p *Policy, tr *Transaction, gone ...string) (*Logged, Decision) {
	t.Helper()
	r := &recorded{}
	e := Engine{Recorder: r}
	e.Swap(p)
	d := e.Decide(context.Background(), tr)
	in, err := NewInputReader().Read(r.in.AppendJSON(nil))
	if err != nil {
		t.Fatal(err)
	}
	return NewLogged(tr.Stage, in, r.in.Parts(), gone), d
}

// TestInputRead: what the builder makes comes back as the same value, body included.
func TestInputRead(t *testing.T) {
	b := builder{k: newKeys()}
	for _, tr := range []*Transaction{submission(t), large(t)} {
		v, err := b.build(tr, contract.PartsAll)
		if err != nil {
			t.Fatal(err)
		}
		in, err := NewInputReader().Read(AppendValue(nil, v))
		if err != nil {
			t.Fatal(err)
		}
		if ast.Compare(in.value, v) != 0 {
			t.Errorf("read %v\nfrom %v", in.value, v)
		}
		if in.Stage() != StageMessage {
			t.Errorf("stage %v", in.Stage())
		}
	}
}

// TestInputReadRefuses: each is wrong in one thing, and the error names the fact.
func TestInputReadRefuses(t *testing.T) {
	for doc, want := range map[string]string{
		``:                                   "input: ",
		`[]`:                                 "input: want an object",
		`{"id":"a"`:                          "input.id: ",
		`{"id":"a"}{}`:                       "something follows the input",
		`{"id":1}`:                           "input.id: want a string",
		`{"id":"a","id":"b"}`:                `duplicate object member name "id"`,
		"{\"id\":\"\xff\"}":                  "invalid UTF-8",
		`{"now":1.5}`:                        "input.now: 1.5 is not a whole number",
		`{"now":1e3}`:                        "input.now: 1e3 is not a whole number",
		`{"now":123456789012345678901}`:      "is not a whole number of 64 bits",
		`{"envelop":{}}`:                     "input.envelop: there is no such fact",
		`{"envelope":{"from":{"key":null}}}`: "input.envelope.from.key: want a string",
		`{"envelope":{"to":{}}}`:             "input.envelope.to: want an array",
		`{"envelope":{"to":[{"x":"y"}]}}`:    "input.envelope.to.0.x: there is no such fact",
		`{"message":{"header":{"a":["b"],"a":["c"]}}}`: `duplicate object member name "a"`,
		`{"message":{"header":{"a":"b"}}}`:             "input.message.header.a: want an array",
		`{"unknown":[[[[[[`:                            "input.unknown.0: want a string",
	} {
		_, err := NewInputReader().Read([]byte(doc))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", doc, err, want)
		}
	}
}

// TestLacks: what a policy reads and the line does not have, whether the line names its parts or not.
func TestLacks(t *testing.T) {
	narrow := compile(t, nil, `package postern.message
reject contains "x" if input.auth.login == "mallory"`)
	tls := compile(t, nil, `package postern.message
reject contains "no-tls" if not input.tls
reject contains "mallory" if input.auth.login == "mallory"
reject contains "subject" if "spam" in input.message.header.subject`)
	q, _ := asked(t, narrow, submission(t))
	if got := tls.Lacks(q); !slices.Equal(got, []string{"tls", "message.header.subject"}) {
		t.Errorf("lacks %v", got)
	}
	if got := narrow.Lacks(q); len(got) != 0 {
		t.Errorf("the policy that logged it lacks %v", got)
	}
	full := compile(t, nil, `package postern.message
reject contains "x" if input.auth.login == "mallory"`, Options{FullInput: true})
	clear := submission(t)
	clear.TLS = nil
	q, _ = asked(t, full, clear)
	if got := tls.Lacks(q); len(got) != 0 {
		t.Errorf("a full input lacks %v", got)
	}
	if d := tls.DecideLogged(context.Background(), q); d.Verdict != Reject || d.Reasons[0].Rule != "no-tls" {
		t.Errorf("in the clear: %+v", d)
	}
	body := compile(t, nil, `package postern.message
reject contains "x" if contains(input.message.body.text, "y")`)
	if got := body.Lacks(q); !slices.Equal(got, []string{"message.body"}) {
		t.Errorf("lacks %v", got)
	}
	// Without the list of parts, absence says nothing: no tls in the input may be in the clear, or not asked for.
	if got := tls.Lacks(NewLogged(StageMessage, q.Input, nil, nil)); !slices.Equal(got, []string{"tls"}) {
		t.Errorf("lacks %v", got)
	}
}

// TestLacksMasked: a part that is masked somewhere is not known.
func TestLacksMasked(t *testing.T) {
	p := compile(t, nil, `package postern.message
reject contains "x" if input.auth.login == "mallory"
reject contains "y" if input.envelope.from.domain == "example.org"`)
	for pointer, want := range map[string][]string{
		"/input/envelope/from/address": {"envelope.from"},
		"/input/envelope":              {"envelope.from"},
		"/input/auth/attributes/a~1b":  {"auth"},
		"/input/message/header/to/0":   {},
		"/input":                       {"auth", "envelope.from"},
		"/result/reply":                {},
	} {
		q, _ := asked(t, p, submission(t), pointer)
		if got := p.Lacks(q); !slices.Equal(got, want) {
			t.Errorf("%s: lacks %v, want %v", pointer, got, want)
		}
	}
}

// TestLoggedRecipients: what knows the recipients knows how many they are, whether it was logged or not, and what does not
// know them says so.
func TestLoggedRecipients(t *testing.T) {
	const of = "package postern.message\n"
	list := compile(t, nil, of+`reject contains "mallory" if "mallory@example.net" in {to.key | some to in input.envelope.to}`)
	count := compile(t, nil, of+`reject contains "one" if input.envelope.recipient_count == 1`)
	neither := compile(t, nil, of+`reject contains "mallory" if input.auth.login == "mallory"`)
	for name, c := range map[string]struct {
		logged *Policy
		gone   []string
		lacks  []string
	}{
		"the list":         {list, nil, nil},
		"the number":       {count, nil, nil},
		"neither":          {neither, nil, []string{"envelope.recipient_count"}},
		"a masked list":    {list, []string{"/input/envelope/to/0"}, nil},
		"an erased sender": {list, []string{"/input/envelope/from"}, nil},
		"all erased":       {list, []string{"/input/envelope"}, []string{"envelope.recipient_count"}},
	} {
		q, _ := asked(t, c.logged, submission(t), c.gone...)
		if got := count.Lacks(q); !slices.Equal(got, c.lacks) {
			t.Errorf("%s: lacks %v, want %v", name, got, c.lacks)
			continue
		}
		if d := count.DecideLogged(context.Background(), q); c.lacks == nil && d.Verdict != Reject {
			t.Errorf("%s: %+v", name, d)
		}
	}
	// A list that is not there has no number.
	q, _ := asked(t, neither, submission(t))
	q = NewLogged(StageMessage, q.Input, []string{"envelope.to"}, nil)
	if got := count.Lacks(q); len(got) != 1 {
		t.Errorf("without a list: lacks %v", got)
	}
}

// TestDecideLoggedEdits: an 8-bit edit is right for an SMTPUTF8 transaction and an error for others, as on the live path;
// the failure verdict is the listener's.
func TestDecideLoggedEdits(t *testing.T) {
	p := compile(t, nil, `package postern.message
edit contains {"op": "add_header", "name": "X-Note", "value": "grün"} if input.auth.login == "alice"`)
	q, live := asked(t, p, submission(t))
	if d := p.DecideLogged(context.Background(), q); d.Verdict != Defer || d.Err == nil || live.Err == nil || d.Err.Error() != live.Err.Error() {
		t.Errorf("%v, live %v", d.Err, live.Err)
	}
	q.Failure = Reject
	if d := p.DecideLogged(context.Background(), q); d.Verdict != Reject || d.Err == nil {
		t.Errorf("%+v", d)
	}
	q.UTF8 = true
	if d := p.DecideLogged(context.Background(), q); d.Verdict != Accept || d.Edits.Len() != 1 {
		t.Errorf("%+v", d)
	}
}

// BenchmarkInputRead is the way back from JSON.
func BenchmarkInputRead(b *testing.B) {
	in := builder{k: newKeys()}
	v, err := in.build(large(b), contract.PartsAll&^contract.PartMessageBody)
	if err != nil {
		b.Fatal(err)
	}
	text := AppendValue(nil, v)
	r := NewInputReader()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Read(text); err != nil {
			b.Fatal(err)
		}
	}
}
