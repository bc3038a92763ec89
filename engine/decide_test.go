package engine

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/internal/message"
)

// describe a decision on one line, for golden tables.
func describe(d Decision) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v", d.Verdict)
	if !d.Reply.IsZero() {
		fmt.Fprintf(&b, " %d %s %s", d.Reply.Code(), d.Reply.Status(), strings.Join(d.Reply.Lines(), "|"))
	}
	for _, r := range d.Reasons {
		fmt.Fprintf(&b, "; %s/%s", r.Set, r.Rule)
	}
	for i := range d.Edits.Len() {
		e := d.Edits.At(i)
		fmt.Fprintf(&b, "; edit %d %s %d %q %s", e.Op(), e.Name(), e.Index(), e.Value(), e.Path().Address())
	}
	for _, n := range d.Notes {
		fmt.Fprintf(&b, "; note %v", n)
	}
	return b.String()
}

func TestDecide(t *testing.T) {
	for _, c := range []struct{ name, rules, want string }{
		{"nothing fires", `reject contains "no" if input.id == "other"`, `accept`},
		{"reject string", `reject contains "no"`, `reject 550 5.7.1 no; reject/no`},
		{"reject object", `reject contains {"rule": "r", "code": 554, "status": "5.1.2", "message": "Not\nhere"}`,
			`reject 554 5.1.2 Not|here; reject/r`},
		{"status of default code", `reject contains {"rule": "r", "status": "5.1.2"}`, `reject 550 5.1.2 r; reject/r`},
		{"defer", `defer contains "later"`, `defer 451 4.7.1 later; defer/later`},
		{"defer object", `defer contains {"rule": "r", "code": 450, "status": "4.2.0", "message": "Later"}`, `defer 450 4.2.0 Later; defer/r`},
		{"first of several", "reject contains \"b\"\nreject contains \"a\"", `reject 550 5.7.1 a; reject/a; reject/b`},
		{"precedence", "note contains \"n\"\ndiscard contains \"x\"\nquarantine contains \"q\"\ndefer contains \"d\"\nreject contains \"r\"",
			`reject 550 5.7.1 r; reject/r; defer/d; quarantine/q; discard/x; note n`},
		{"quarantine", "discard contains \"x\"\nquarantine contains \"q\"", `quarantine; quarantine/q; discard/x`},
		{"discard", `discard contains "x"`, `discard; discard/x`},
		{"allowed", `allow contains "known" if input.auth.login == "alice"`, `accept; allow/known`},
		{"not allowed", `allow contains "known" if input.auth.login == "bob"`, `reject 550 5.7.1 Not allowed; default/default.not-allowed`},
		{"allow does not beat reject", "allow contains \"a\"\nreject contains \"r\"", `reject 550 5.7.1 r; reject/r; allow/a`},
		{"not allowed but deferred", "allow contains \"a\" if false\ndefer contains \"d\"", `defer 451 4.7.1 d; defer/d`},
		{"not allowed but quarantined", "allow contains \"a\" if false\nquarantine contains \"q\"", `reject 550 5.7.1 Not allowed; default/default.not-allowed; quarantine/q`},
		{"edit", `edit contains {"op": "add_header", "name": "X-A", "value": "v"}`, `accept; edit 4 X-A 0 "v" `},
		{"edit of rejected", "reject contains \"r\"\nedit contains {\"op\": \"add_header\", \"name\": \"X-A\", \"value\": \"v\"}",
			`reject 550 5.7.1 r; reject/r`},
		{"edit of quarantined", "quarantine contains \"q\"\nedit contains {\"op\": \"change_sender\", \"address\": \"c@example.com\"}",
			`quarantine; quarantine/q; edit 5  0 "" c@example.com`},
		{"note", `note contains {"a": [1, true, null]}`, `accept; note map[a:[1 true <nil>]]`},
		{"control characters", `reject contains {"rule": "a\u0000b", "message": "x\u001b[1m\r\ny"}`, "reject 550 5.7.1 x?[1m|y; reject/a?b"},
		{"private helpers", "_x := 1\n_f(a) := a + 1\nhelp(a) := a\nreject contains \"r\" if help(_f(_x)) == 2", `reject 550 5.7.1 r; reject/r`},
		{"header facts", `reject contains v if some v in input.message.header["x-tag"]`, `reject 550 5.7.1 one; reject/one; reject/two`},
		{"mailbox facts", `note contains input.message.from[0].key`, `accept; note alice@example.com`},
		{"body", `reject contains input.message.body.text`, `reject 550 5.7.1 body text; reject/body text`},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := decide(compile(t, nil, "package postern.message\n"+c.rules), submission(t))
			if got := describe(d); got != c.want || d.Err != nil {
				t.Errorf("got  %s (%v)\nwant %s", got, d.Err, c.want)
			}
			if d.Stage != StageMessage || d.Revision != "test" {
				t.Errorf("stage %v revision %q", d.Stage, d.Revision)
			}
		})
	}
}

// guarded makes a rule fire for the transaction of the test alone, so that the smoke transaction passes.
const guarded = "package postern.message\n_on if input.id == \"t1\"\n"

// hidden writes rules so that lint cannot see their elements: `set contains x if _on` draws x from an array.
func hidden(rules string) string {
	return regexp.MustCompile(`(?m)^(\w+) contains (.*) if _on$`).ReplaceAllString(rules, "$1 contains v if { _on; some v in [$2] }")
}

func TestDecideFails(t *testing.T) {
	for _, c := range []struct{ name, rules, kind, text string }{
		{"number in set", `reject contains 7 if _on`, kindAnswer, "reject element 7 is number"},
		{"empty string", `reject contains "" if _on`, kindAnswer, "reject"},
		{"object in allow", `allow contains {"rule": "x"} if _on`, kindAnswer, "want a string"},
		{"code out of class", `reject contains {"rule": "r", "code": 451} if _on`, kindAnswer, "want 500 to 599"},
		{"code no integer", `reject contains {"rule": "r", "code": 550.5} if _on`, kindAnswer, "code"},
		{"code above 599", `reject contains {"rule": "r", "code": 600} if _on`, kindAnswer, "want 500 to 599"},
		{"code of a set that does not win", `reject contains "r" if _on` + "\n" + `defer contains {"rule": "r", "code": 550} if _on`, kindAnswer, "want 400 to 499"},
		{"code as string", `reject contains {"rule": "r", "code": "550"} if _on`, kindAnswer, "code is string"},
		{"status out of class", `defer contains {"rule": "r", "status": "5.1.1"} if _on`, kindAnswer, "want 4.x.y"},
		{"status shape", `defer contains {"rule": "r", "status": "4.1"} if _on`, kindAnswer, "want 4.x.y"},
		{"unknown key", "_e[\"rule\"] := \"r\"\n_e[\"cod\"] := 550\nreject contains _e if _on", kindAnswer, `unknown key "cod"`},
		{"no rule", "_e[\"code\"] := 550\nreject contains _e if _on", kindAnswer, "no rule name"},
		{"long rule", `reject contains concat("", [x | some i in numbers.range(1, 300); x := "x"]) if _on`, kindAnswer, "octets"},
		{"rule of 257 octets", `_r := concat("", [x | some i in numbers.range(1, 257); x := "x"])` + "\n" + `reject contains {"rule": _r} if _on`, kindAnswer, "257 octets, at most 256"},
		{"too many edits", `edit contains {"op": "add_header", "name": "X-A", "value": sprintf("%d", [i])} if { _on; some i in numbers.range(1, 1001) }`, kindAnswer, "edit has 1001 elements"},
		{"large notes together", `note contains [k, [i | some i in numbers.range(1, 8000)]] if { _on; some k in [1, 2] }`, kindAnswer, "all elements together"},
		{"too many", `reject contains sprintf("%d", [i]) if { _on; some i in numbers.range(1, 1001) }`, kindAnswer, "at most 1000"},
		{"edit op", "_op := \"set\"\nedit contains {\"op\": _op, \"name\": \"A\", \"value\": \"b\"} if _on", kindAnswer, "unknown op"},
		{"edit value with line end", `edit contains {"op": "add_header", "name": "X-A", "value": "a\r\nBcc: x"} if _on`, kindAnswer, "edit element"},
		{"edit 8-bit", `edit contains {"op": "add_header", "name": "X-A", "value": "ä"} if _on`, kindAnswer, "edit element"},
		{"edit lacks value", "_e[\"op\"] := \"add_header\"\n_e[\"name\"] := \"A\"\nedit contains _e if _on", kindAnswer, "needs name and value"},
		{"contradiction", "edit contains {\"op\": \"replace_header\", \"name\": \"X-A\", \"value\": v} if { _on; some v in [\"1\", \"2\"] }", kindEdits, "edit"},
		{"many notes", `note contains i if { _on; some i in numbers.range(1, 101) }`, kindAnswer, "note"},
		{"large notes", `note contains [i | some i in numbers.range(1, 20000)] if _on`, kindAnswer, "octets"},
		{"failing builtin", `reject contains "r" if { _on; startswith(json.unmarshal("{}"), "x") }`, kindBuiltin, "startswith"},
		{"failing builtin under not", "_bad if startswith(json.unmarshal(\"{}\"), \"x\")\nallow contains \"r\" if { not _on }\nallow contains \"s\" if { _on; not _bad }", kindBuiltin, "startswith"},
		{"conflict", "_v := 1 if _on\n_v := 2 if _on\nreject contains \"r\" if _v == 3", kindConflict, "conflict"},
		{"division", "reject contains \"r\" if { _on; x := count(input.unknown); 1 / x == 1 }", kindBuiltin, "div"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Compile(context.Background(), moduleBundle(nil, "policy.rego", guarded+hidden(c.rules)), Options{Timeout: 5 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			d := decide(p, submission(t))
			var e *EvalError
			if !errors.As(d.Err, &e) || e.Kind != c.kind || !strings.Contains(e.Error(), c.text) {
				t.Errorf("error %v, want kind %s with %q", d.Err, c.kind, c.text)
			}
			if got, want := describe(d), "defer 451 4.3.0 Temporary failure, try again later; error/error."+c.kind; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

// TestAppendString: a line of a log stays one line for every reader, and a huge value is not encoded only to be cut.
func TestAppendString(t *testing.T) {
	if got := string(AppendString(nil, "a\u2028b\u2029c\x7f\n")); got != `"a\u2028b\u2029c\u007f\n"` {
		t.Error(got)
	}
	for _, limit := range []int{-1, 0, 1, 120} {
		if got := AppendValueWithin(nil, ast.String(strings.Repeat("x", 100_000)), limit); len(got) > max(limit, 0)+80 {
			t.Errorf("within %d: %d bytes", limit, len(got))
		}
	}
}

func TestFailureVerdict(t *testing.T) {
	p := compile(t, nil, guarded+hidden(`reject contains 7 if _on`)+"\n"+`edit contains {"op": "add_header", "name": "X-A", "value": "v"}`)
	for _, c := range []struct {
		failure Verdict
		want    string
	}{
		{Defer, "defer 451 4.3.0 Temporary failure, try again later; error/error.answer"},
		{Reject, "reject 554 5.3.0 Transaction failed; error/error.answer"},
		{Accept, "accept; error/error.answer"},
		{Quarantine, "defer 451 4.3.0 Temporary failure, try again later; error/error.answer"},
		{Discard, "defer 451 4.3.0 Temporary failure, try again later; error/error.answer"},
		{Verdict(99), "defer 451 4.3.0 Temporary failure, try again later; error/error.answer"},
	} {
		tr := submission(t)
		tr.Failure = c.failure
		if got := describe(decide(p, tr)); got != c.want {
			t.Errorf("failure %d: got %s, want %s", c.failure, got, c.want)
		}
	}
}

// TestNoSuchStage: what has no stage of the five gets the failure verdict, with the reason.
func TestNoSuchStage(t *testing.T) {
	p := compile(t, nil, "package postern.message\nnote contains 1")
	for _, stage := range []Stage{0, StageMessage + 1, 200} {
		tr := submission(t)
		tr.Stage = stage
		if got, want := describe(decide(p, tr)), "defer 451 4.3.0 Temporary failure, try again later; error/error.stage"; got != want {
			t.Errorf("stage %d: got %s, want %s", stage, got, want)
		}
	}
}

// TestUnprintable: characters that cannot be printed reach neither a reply nor the names of rules.
func TestUnprintable(t *testing.T) {
	for in, want := range map[string]string{"a\u202eb": "a?b", "a\x1b[2J": "a?[2J", "a\u200bb": "a?b", "a\xffb": "a?b", "a\tb\nc": "a b?c", "\u00e9": "\u00e9"} {
		if got := clean(in, false); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := clean("a\r\nb\rc", true); got != "a\nb?c" {
		t.Errorf("lines: %q", got)
	}
}

func TestNoPolicy(t *testing.T) {
	var e Engine
	d := e.Decide(context.Background(), submission(t))
	if d.Verdict != Defer || d.Err == nil || d.Reply.Code() != 451 {
		t.Errorf("zero Engine: %s", describe(d))
	}
	if tr := submission(t); decide(compile(t, nil, guarded+`reject contains "x" if _on`), withStage(tr, 0)).Err == nil {
		t.Error("stage 0 decided")
	}
}

func withStage(tr *Transaction, s Stage) *Transaction {
	tr.Stage = s
	return tr
}

func TestStageNotDefined(t *testing.T) {
	p := compile(t, nil, guarded+`reject contains "x" if _on`)
	var rec recorder
	e := Engine{Recorder: &rec}
	e.Swap(p)
	d := e.Decide(context.Background(), withStage(submission(t), StageMail))
	if d.Verdict != Accept || d.Err != nil || len(d.Reasons) != 0 || len(rec.records) != 0 {
		t.Errorf("undefined stage: %s, %d records", describe(d), len(rec.records))
	}
}

// recorder keeps what it is given, and fails if told to.
type recorder struct {
	err     error
	records []string
}

func (r *recorder) Record(_ context.Context, rec Record) error {
	r.records = append(r.records, string(rec.Input.AppendJSON(nil)))
	return r.err
}

func TestRecorder(t *testing.T) {
	p := compile(t, nil, guarded+`note contains input.envelope.from.key`)
	rec := recorder{err: errors.New("disk full")}
	e := Engine{Recorder: &rec}
	e.Swap(p)
	d := e.Decide(context.Background(), submission(t))
	if d.Verdict != Defer || !errors.Is(d.Err, rec.err) || d.Revision != "test" {
		t.Errorf("failing recorder: %s, %v", describe(d), d.Err)
	}
	want := `{"envelope":{"from":{"address":"alice@example.com","domain":"example.com","key":"alice@example.com","local":"alice",` +
		`"null":false,"parameters":{"SIZE":"100"}}},"id":"t1","now":1767225600000000000,"stage":"message","unknown":[],"version":4}`
	if len(rec.records) != 1 || rec.records[0] != want {
		t.Errorf("recorded %q\nwant %s", rec.records, want)
	}
}

func TestPin(t *testing.T) {
	old := compile(t, nil, "package postern.message\nreject contains \"old\"")
	var e Engine
	if e.Swap(old) != nil || e.Policy() != old {
		t.Error("Swap or Policy")
	}
	if e.Swap(compile(t, nil, "package postern.message\nreject contains \"new\"")) != old {
		t.Error("Swap does not return the snapshot before")
	}
	tr := submission(t)
	tr.Policy = old
	if d := e.Decide(context.Background(), tr); d.Reasons[0].Rule != "old" {
		t.Errorf("pinned transaction decided by another snapshot: %s", describe(d))
	}
}

func TestUTF8Edits(t *testing.T) {
	p := compile(t, nil, guarded+`edit contains {"op": "add_header", "name": "X-A", "value": "ä"} if _on`)
	tr := submission(t)
	tr.Envelope.FromParams = message.Params{"SMTPUTF8": ""}
	if d := decide(p, tr); d.Err != nil || d.Edits.Len() != 1 {
		t.Errorf("SMTPUTF8: %s, %v", describe(d), d.Err)
	}
}
