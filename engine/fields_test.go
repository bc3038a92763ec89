package engine

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// named is for who keeps no input.
var named = Options{Timeout: 5 * time.Second, NamedFields: true}

// TestFieldsKept: where the input is kept it has the whole header as soon as a rule looks up one field.
func TestFieldsKept(t *testing.T) {
	tr := transactionOf(t, "From: a@example.com\r\nSubject: one\r\n\r\n")
	got, parts := headerOf(t, compile(t, nil, "package postern.message\nreject contains \"x\" if not input.message.header.from"), tr)
	if want := `{"from":["a@example.com"],"subject":["one"]}`; got != want || !slices.Equal(parts, []string{"message.header"}) {
		t.Errorf("%s, parts %v, want %s", got, parts, want)
	}
}

// headerOf is what of message.header a policy's input of t has, and the parts that the log names.
func headerOf(t *testing.T, p *Policy, tr *Transaction) (string, []string) {
	t.Helper()
	d, in := p.decide(context.Background(), tr, nil)
	if d.Err != nil {
		t.Fatal(d.Err)
	}
	v, err := in.value.Find(ast.Ref{ast.StringTerm("message"), ast.StringTerm("header")})
	if err != nil {
		return "", in.Parts()
	}
	return string(AppendValue(nil, v)), in.Parts()
}

// TestFields: of message.header there are the fields that rules look up by name, and all where any name may be meant.
func TestFields(t *testing.T) {
	const all = `{"from":["a@example.com"],"subject":["one"],"to":["b@example.net"],"x-a":["1","2"]}`
	tr := transactionOf(t, "From: a@example.com\r\nX-A: 1\r\nTo: b@example.net\r\nSubject: one\r\nx-a: 2\r\n\r\n")
	for name, c := range map[string]struct {
		rule, want string
		parts      []string
	}{
		"by name":   {`reject contains "x" if input.message.header["x-a"][1] == "9"`, `{"x-a":["1","2"]}`, []string{"message.header.x-a"}},
		"two rules": {"reject contains \"x\" if input.message.header.subject\nreject contains \"y\" if not input.message.header.date", `{"subject":["one"]}`, []string{"message.header.date", "message.header.subject"}},
		"helper":    {"reject contains \"x\" if _h\n_h if \"one\" in input.message.header.to", `{"to":["b@example.net"]}`, []string{"message.header.to"}},
		"function":  {"reject contains \"x\" if _h(input.message.header)\n_h(h) if h.to == []", all, []string{"message.header"}},
		"dynamic":   {`reject contains name if some name, _ in input.message.header`, all, []string{"message.header"}},
		"computed":  {`reject contains "x" if input.message.header[concat("", ["t", "o"])] == []`, all, []string{"message.header"}},
		"variable":  {"reject contains \"x\" if {\n\th := input.message.header\n\th.to == []\n}", all, []string{"message.header"}},
		"none":      {`reject contains "x" if input.message.generated.date == ""`, "", []string{"message.generated"}},
	} {
		got, parts := headerOf(t, compile(t, nil, "package postern.message\n"+c.rule, named), tr)
		if got != c.want || !slices.Equal(parts, c.parts) {
			t.Errorf("%s: %s, parts %v, want %s, %v", name, got, parts, c.want, c.parts)
		}
	}
}

// TestFieldsBeside: a shadow candidate finds the fields that it looks up.
func TestFieldsBeside(t *testing.T) {
	tr := transactionOf(t, "From: a@example.com\r\nTo: b@example.net\r\nSubject: one\r\n\r\n")
	own := compile(t, nil, "package postern.message\nreject contains \"x\" if not input.message.header.to", named)
	for rule, want := range map[string]string{
		`reject contains "y" if not input.message.header.subject`: `{"subject":["one"],"to":["b@example.net"]}`,
		`reject contains "y" if count(input.message.header) == 0`: `{"from":["a@example.com"],"subject":["one"],"to":["b@example.net"]}`,
		`reject contains "y" if input.auth.login == "mallory"`:    `{"to":["b@example.net"]}`,
	} {
		both := own.withShadow(compile(t, nil, "package postern.message\n"+rule, named))
		if got, parts := headerOf(t, both, tr); got != want || !slices.Equal(parts, []string{"message.header.to"}) {
			t.Errorf("%s: %s, parts %v, want %s", rule, got, parts, want)
		}
	}
}

// TestFieldsLogged: a line that names fields one by one answers for those, and for no others.
func TestFieldsLogged(t *testing.T) {
	tr := transactionOf(t, "From: a@example.com\r\nTo: b@example.net\r\nSubject: one\r\n\r\n")
	p := compile(t, nil, "package postern.message\nreject contains \"x\" if not input.message.header.to\nreject contains \"y\" if not input.message.header.date", named)
	for name, c := range map[string]struct {
		rule  string
		gone  []string
		lacks []string
	}{
		"a field that is there":     {`reject contains "x" if input.message.header.to == []`, nil, []string{}},
		"one that is known absent":  {`reject contains "x" if not input.message.header.date`, nil, []string{}},
		"another":                   {`reject contains "x" if not input.message.header.cc`, nil, []string{"message.header.cc"}},
		"all":                       {`reject contains "x" if count(input.message.header) == 1`, nil, []string{"message.header"}},
		"masked":                    {`reject contains "x" if input.message.header.to == []`, []string{"/input/message/header/to/0"}, []string{"message.header.to"}},
		"the other masked":          {`reject contains "x" if not input.message.header.date`, []string{"/input/message/header/to/0"}, []string{}},
		"the whole of it is erased": {`reject contains "x" if not input.message.header.date`, []string{"/input/message/header"}, []string{"message.header.date"}},
	} {
		q, _ := asked(t, p, tr, c.gone...)
		candidate := compile(t, nil, "package postern.message\n"+c.rule)
		if got := candidate.Lacks(q); !slices.Equal(got, c.lacks) {
			t.Errorf("%s: lacks %v, want %v", name, got, c.lacks)
		}
	}
	q, _ := asked(t, p, tr)
	if d := p.DecideLogged(context.Background(), q); d.Verdict != Reject || len(d.Reasons) != 1 || d.Reasons[0].Rule != "y" {
		t.Errorf("decided again: %+v", d)
	}
}
