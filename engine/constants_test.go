package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// ready names the constants of a snapshot that have a value or are known to have none.
func ready(p *Policy) []string {
	var names []string
	if p.constants == nil {
		return nil
	}
	for i := range p.constants.entries {
		e := &p.constants.entries[i]
		key := p.constants.key(e)
		name := strings.Trim(key[len(key)-1].String(), `"`)
		if e.value.undefined {
			name += "?"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func TestConstants(t *testing.T) {
	p := compile(t, map[string]any{"limit": 5, "blocked": []any{"A.example", "B.example"}, "time": "2026"}, `package postern.message

reject contains "blocked" if _domain in _blocked

reject contains "too many" if count(input.envelope.to) > _limit

reject contains "with" if {
	_twice == 14 with data.limit as 7
	input.envelope
}

reject contains "never" if {
	_undefined
	_elsewise == "no"
	input.envelope
	_table.a == "nothing"
	_of_input_with == 1
	_clock > 1
	_certificates[0]
	_domains == set()
	_double(2) == 3
	_parts[input.stage] == 2
	_indirect
}

default _limit := 100

_limit := data.limit if is_number(data.limit)

_twice := _double(_limit)

_double(n) := n * 2

_blocked := {lower(d) | some d in data.blocked}

_domains contains lower(d) if some d in data.blocked

_undefined if data.nothing

_elsewise := "no" if {
	data.nothing
} else := "yes"

# None of these is.
_domain := split(input.envelope.from.address, "@")[1]

_clock := time.now_ns() / 1000

_certificates := crypto.x509.parse_and_verify_certificates(data.time)

_of_input_with := 1 if input.stage == "message" with input.stage as "message"

_parts[d] := 1 if some d in data.blocked

_table.a := "b"

_indirect if _domain == data.time
`, Options{Timeout: 5 * time.Second, AllowBuiltins: []string{"time.now_ns", "crypto.x509.parse_and_verify_certificates"}})
	want := []string{"_blocked", "_domains", "_elsewise", "_limit", "_twice", "_undefined?"}
	if got := ready(p); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	tr := transactionOf(t, "From: a@example.com\r\n\r\n")
	tr.Envelope.From = path("x@b.example")
	reasons := func(p *Policy) string {
		d := decide(p, tr)
		var all []string
		for _, r := range d.Reasons {
			all = append(all, r.Rule)
		}
		return fmt.Sprint(d.Verdict, all, d.Err)
	}
	const before = "reject [blocked with] <nil>"
	if got := reasons(p); got != before {
		t.Error(got)
	}
	// Other data, other values; those of the snapshot before are untouched.
	other, err := p.WithData(context.Background(), map[string]any{"limit": 0, "blocked": []any{"C.example"}}, "2")
	if err != nil {
		t.Fatal(err)
	}
	if got := reasons(other); got != "reject [too many with] <nil>" {
		t.Error(got)
	}
	if got := reasons(p); got != before {
		t.Error(got)
	}
}

// TestConstantsThatFail: a rule that depends on data alone, and contradicts itself or fails, is as dangerous as any other. It fails
// each message that asks for it, and no other.
func TestConstantsThatFail(t *testing.T) {
	const rules = `package postern.message

reject contains "first" if {
	input.auth.login == "alice"
	_first
}

reject contains "second" if {
	input.auth.login == "bob"
	_second == 1
}

# Whether _second is looked at first, as here, or by itself, it must not be taken for what one of its rules says.
reject contains "third" if {
	input.auth.login == "dora"
	_a_second
}

_a_second if _second == 1

allow contains "all" if input.stage

_first if to_number(data.word) > 1

_second := data.one if data.one

_second := data.two if data.two
`
	p := compile(t, map[string]any{"word": "ten", "one": 1, "two": 2}, rules)
	if got := ready(p); len(got) != 0 {
		t.Errorf("%q have values", got)
	}
	for login, want := range map[string]string{"alice": kindBuiltin, "bob": kindConflict, "dora": kindConflict, "carol": ""} {
		tr := submission(t)
		tr.Auth.Login = login
		for range 2 {
			d := decide(p, tr)
			kind := ""
			if d.Err != nil {
				kind, _, _ = strings.Cut(d.Err.Error(), ":")
			}
			if kind != want || (d.Verdict == Accept) != (want == "") {
				t.Errorf("%s: %v, %v", login, d.Verdict, d.Err)
			}
		}
	}
}

// TestConstantsTakeTheirTime: what is too slow to be ready does not keep a snapshot from being made, nor the others from being ready,
// and stays as slow for those who ask.
func TestConstantsTakeTheirTime(t *testing.T) {
	const rules = `package postern.message

reject contains "slow" if {
	input.auth.login == "bob"
	_slow
}

reject contains "quick" if {
	input.auth.login == "carol"
	_quick
}

_quick if data.yes

_slow if {
	some i in numbers.range(1, 100000)
	some j in numbers.range(1, 100000)
	i * j == data.never
}
`
	begin := time.Now()
	p := compile(t, map[string]any{"yes": true, "never": -1}, rules, Options{Timeout: 50 * time.Millisecond})
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("compiled in %v", took)
	}
	if got := ready(p); !slices.Equal(got, []string{"_quick"}) {
		t.Errorf("%q are ready", got)
	}
	tr := submission(t)
	tr.Auth.Login = "bob"
	if d := decide(p, tr); d.Verdict != Defer || d.Err == nil {
		t.Errorf("%v, %v", d.Verdict, d.Err)
	}
}

// entered counts the rules that an evaluation enters.
type entered map[string]int

func (e entered) Enabled() bool { return true }
func (e entered) Config() topdown.TraceConfig {
	return topdown.TraceConfig{}
}
func (e entered) TraceEvent(ev topdown.Event) {
	if r, ok := ev.Node.(*ast.Rule); ok && ev.Op == topdown.EnterOp {
		e[r.Head.Name.String()]++
	}
}

// TestConstantsTraced: a tracer of a policy also sees rules that read only data.
func TestConstantsTraced(t *testing.T) {
	p := compile(t, map[string]any{"yes": true}, "package postern.message\n\nreject contains \"r\" if {\n\tinput.stage\n\t_yes\n}\n\n_yes if data.yes\n")
	if !slices.Equal(ready(p), []string{"_yes"}) {
		t.Fatalf("%q are ready", ready(p))
	}
	seen := entered{}
	if d := decide(p.Traced(seen), submission(t)); d.Verdict != Reject || seen["_yes"] == 0 {
		t.Errorf("%v, entered %v", d.Verdict, seen)
	}
	other, err := p.Traced(seen).WithData(context.Background(), map[string]any{"yes": true}, "2")
	if err != nil {
		t.Fatal(err)
	}
	clear(seen)
	if d := decide(other, submission(t)); d.Verdict != Reject || seen["_yes"] == 0 {
		t.Errorf("with other data: %v, entered %v", d.Verdict, seen)
	}
}

// BenchmarkConstants: a rule that reads only data costs a decision nothing, for any size of the data.
func BenchmarkConstants(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			var list []any
			for i := range n {
				list = append(list, fmt.Sprintf("Domain%d.example", i))
			}
			p := compile(b, map[string]any{"blocked": list}, `package postern.message

reject contains "blocked" if input.envelope.from.domain in _blocked

_blocked := {lower(d) | some d in data.blocked}
`)
			var e Engine
			e.Swap(p)
			tr := submission(b)
			b.ReportAllocs()
			for b.Loop() {
				if d := e.Decide(context.Background(), tr); d.Err != nil {
					b.Fatal(d.Err)
				}
			}
		})
	}
}
