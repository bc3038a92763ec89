package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// explainOf a transaction.
func explainOf(t testing.TB, p *Policy, tr *Transaction) *Explanation {
	t.Helper()
	q, live := asked(t, p, tr)
	x, err := p.Explain(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	if x.Decision.Verdict != live.Verdict {
		t.Errorf("explains %v, live %v", x.Decision.Verdict, live.Verdict)
	}
	return x
}

// trailOf a rule that did not fire.
func trailOf(t testing.TB, x *Explanation, rule string) Trail {
	t.Helper()
	for _, n := range x.Near {
		if n.Rule == rule {
			return n
		}
	}
	t.Fatalf("%s is not among %+v", rule, x.Near)
	return Trail{}
}

// stopped is where and with which values, on one line.
func stopped(s *Stop) string {
	if s == nil {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d:%d %s", s.Line, s.Column, s.Text)
	for _, v := range s.Values {
		value := v.Value
		if v.Undefined {
			value = "?"
		}
		fmt.Fprintf(&b, "; %s=%s", v.Name, value)
	}
	if s.Because != nil {
		b.WriteString(" <- ")
		if s.Because.Held {
			b.WriteString("held ")
		}
		b.WriteString(stopped(s.Because))
	}
	return b.String()
}

// TestExplainStops: where a rule stops and with which values, one rule for each way to stop.
func TestExplainStops(t *testing.T) {
	p := compile(t, map[string]any{"limits": map[string]any{"alice": 3}}, `package postern.message

reject contains "plain" if {
	input.auth.login == "alice"
	input.envelope.from.domain == "example.org"
}

reject contains "absent" if input.message.header["x-nothing"][0] == "x"

reject contains "nested" if {
	some mailbox in input.message.to
	startswith(lower(mailbox.domain), "mail.")
}

reject contains "data" if count(input.envelope.to) > data.limits[input.auth.login]

reject contains "negated" if {
	input.auth.login
	not _staff
}

reject contains "helper" if _evening

reject contains "function" if _inside(input.envelope.from.domain)

reject contains {"rule": "head", "message": sprintf("%s", [input.auth.authzid])} if input.auth.login

reject contains "every" if {
	every to in input.envelope.to {
		to.domain == "example.com"
	}
}

_staff if "staff" in input.auth.groups

_evening if {
	input.server.door == "submission"
	time.clock(input.now)[0] >= 20
}

_inside(domain) if domain in {"example.net", "example.org"}
`)
	x := explainOf(t, p, submission(t))
	for rule, want := range map[string]string{
		"plain":    `5:2 input.envelope.from.domain == "example.org"; input.envelope.from.domain="example.com"`,
		"absent":   `8:29 input.message.header["x-nothing"][0] == "x"; input.message.header["x-nothing"][0]=?`,
		"nested":   `12:2 startswith(lower(mailbox.domain), "mail."); mailbox.domain="example.net"; lower(mailbox.domain)="example.net"`,
		"data":     `15:27 count(input.envelope.to) > data.limits[input.auth.login]; input.envelope.to=[{"address":"bob@example.net","domain":"example.net","key":"bob@example.net","local":"bob","parameters":{"NOTIFY":"NEVER"}}]; count(input.envelope.to)=1; input.auth.login="alice"; data.limits.alice=3`,
		"negated":  `19:2 not _staff; data.postern.message._staff=true <- held 34:1 _staff if "staff" in input.auth.groups`,
		"helper":   `22:29 _evening; data.postern.message._evening=? <- 38:2 time.clock(input.now)[0] >= 20; input.now=1767225600000000000; time.clock(input.now)=[0,0,0]`,
		"function": `24:31 _inside(input.envelope.from.domain); input.envelope.from.domain="example.com" <- 41:20 domain in {"example.net", "example.org"}; domain="example.com"`,
		"head":     `26:45 sprintf("%s", [input.auth.authzid]); input.auth.authzid=?`,
	} {
		if got := stopped(trailOf(t, x, rule).Stopped); got != want {
			t.Errorf("%s:\n got %s\nwant %s", rule, got, want)
		}
	}
	if every := trailOf(t, x, "every"); every.Stopped == nil || every.Stopped.Line != 29 || !strings.Contains(stopped(every.Stopped), "bob@example.net") {
		t.Errorf("every: %+v", every.Stopped)
	}
	if head := trailOf(t, x, "head"); head.Passed != 1 || head.Of != 2 {
		t.Errorf("head: %d of %d", head.Passed, head.Of)
	}
}

// TestExplainOrder: those that came closest come first; a rule that the index keeps from the live path has its place, and one
// whose builtin fails there does not end the explanation.
func TestExplainOrder(t *testing.T) {
	p := compile(t, nil, `package postern.message

allow contains "yes" if input.auth.login == "alice"

reject contains "none of two" if {
	input.auth.login == "mallory"
	input.client.port == 1
}

reject contains "three of four" if {
	input.auth.login == "alice"
	input.client.port == 4711
	input.client.ehlo == "laptop"
	input.server.door == "milter"
}

reject contains "one of two" if {
	input.auth.login == "alice"
	input.client.port == 1
}

reject contains "broken" if {
	to_number(input.client.ehlo) > 0
	input.server.door == "milter"
}

note contains {"login": login} if login := input.auth.login
`)
	x := explainOf(t, p, submission(t))
	var order []string
	for _, n := range x.Near {
		order = append(order, fmt.Sprintf("%s %d/%d", n.Rule, n.Passed, n.Of))
	}
	if got, want := strings.Join(order, ", "), "three of four 3/4, one of two 1/2, none of two 0/2, broken 0/2"; got != want {
		t.Errorf("order %s, want %s", got, want)
	}
	if len(x.Fired) != 2 || x.Fired[0].Rule != "yes" || x.Fired[0].Line != 3 || x.Fired[1].Elements[0] != `{"login":"alice"}` {
		t.Errorf("fired %+v", x.Fired)
	}
}

// TestExplainBounds: many rules, long and hostile values: everything is cut and printable.
func TestExplainBounds(t *testing.T) {
	var rego strings.Builder
	rego.WriteString("package postern.message\n")
	for i := range 2 * maxTrails {
		fmt.Fprintf(&rego, "reject contains \"r%d\" if input.message.header.subject[0] == \"%d\"\n", i, i)
	}
	p := compile(t, nil, rego.String())
	x := explainOf(t, p, transactionOf(t, "From: a@example.com\r\nSubject: \x1b[2J"+strings.Repeat("x", 900)+"\r\n\r\n"))
	if len(x.Near) != maxTrails || !x.Cut {
		t.Errorf("%d trails, cut %v", len(x.Near), x.Cut)
	}
	value := x.Near[0].Stopped.Values[0].Value
	if len(value) > maxText+3 || strings.ContainsRune(value, '\x1b') || !strings.HasSuffix(value, "...") {
		t.Errorf("value %q", value)
	}
}

// TestExplainFails: a conflict ends the evaluation, and the explanation has what was seen before.
func TestExplainFails(t *testing.T) {
	p := compile(t, nil, `package postern.message

reject contains "early" if input.auth.login == "mallory"

reject contains "late" if _who == "x"

_who := "a" if input.auth.login == "alice"

_who := "b" if input.client.port == 4711
`)
	x := explainOf(t, p, submission(t))
	if !strings.Contains(x.Error, "eval_conflict_error") || trailOf(t, x, "early").Stopped == nil {
		t.Errorf("%+v", x)
	}
	if _, err := p.Explain(context.Background(), &Logged{Stage: StageMail}); err == nil {
		t.Error("a stage that the bundle does not define was explained")
	}
}

// TestExplainEnds at its deadline.
func TestExplainEnds(t *testing.T) {
	p := compile(t, nil, `package postern.message

reject contains "slow" if {
	input.auth.login == "bob"
	some i in numbers.range(1, 100000)
	some j in numbers.range(1, 100000)
	i * j == 0
}
`)
	tr := submission(t)
	q, _ := asked(t, p, tr)
	tr.Auth.Login = "bob"
	slow := *p
	slow.timeout = 1 // the live answer is a time-out at once
	q2, _ := asked(t, &slow, tr)
	if _, err := p.Explain(context.Background(), q); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	x, err := slow.Explain(ctx, q2)
	if err != nil || x.Error == "" {
		t.Errorf("%v, %+v", err, x)
	}
}

// TestExplainPacked: an explanation names a packed object by its size, and looks up its entries.
func TestExplainPacked(t *testing.T) {
	p := compile(t, map[string]any{"senders": senders(2000)}, `package postern.message
reject contains {"rule": "all", "message": "x"} if {
	s := data.senders
	is_array(s)
}
reject contains {"rule": "one", "message": "x"} if {
	s := data.senders
	s[input.auth.login] == ["bob@example.com"]
}
`)
	x := explainOf(t, p, submission(t))
	if got := stopped(trailOf(t, x, "all").Stopped); !strings.Contains(got, `{"...": "2001 entries"}`) {
		t.Errorf("got %s", got)
	}
	if got := stopped(trailOf(t, x, "one").Stopped); !strings.Contains(got, `["alice@example.com"]`) {
		t.Errorf("got %s", got)
	}
}
