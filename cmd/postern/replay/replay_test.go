package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/decisionlog"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/testenv"
)

// policy of one module under a revision.
func policy(t testing.TB, revision, rego string) *engine.Policy {
	t.Helper()
	p, err := tryPolicy(revision, rego)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// logger writes the lines of decisions.
type logger struct{ bytes.Buffer }

func (l *logger) Record(_ context.Context, r engine.Record) error {
	l.Write(append(decisionlog.NewEntry(r).AppendJSON(nil), '\n'))
	return nil
}

// question number i of a mixed traffic: stages, senders and subjects go round.
func question(t testing.TB, i int) *engine.Transaction {
	t.Helper()
	h, err := message.ParseHeader(fmt.Appendf(nil, "From: u%d@example.com\r\nSubject: s%d\r\n\r\n", i%10, i%7), message.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	to := engine.Recipient{Path: message.Path{Mailbox: message.Mailbox{Local: fmt.Sprint("r", i%5), Domain: "example.net"}}}
	tr := &engine.Transaction{
		ID: fmt.Sprintf("T%06d", i/3), Stage: engine.StageMail + engine.Stage(i%3), Now: time.Date(2026, 6, 1, 0, 0, i, 0, time.UTC),
		Auth:     &engine.Auth{Login: fmt.Sprint("u", i%10)},
		Envelope: &engine.Envelope{From: message.Path{Mailbox: message.Mailbox{Local: fmt.Sprint("u", i%10), Domain: "example.com"}}},
	}
	switch tr.Stage {
	case engine.StageRcpt:
		tr.Recipient = &to
	case engine.StageMessage:
		tr.Envelope.To = []engine.Recipient{to}
		tr.Message = &engine.Message{Header: h, Size: 100, Generated: engine.Generated{MessageID: "<1@x>", Date: "today"}}
	}
	return tr
}

// traffic of n decisions by p.
func traffic(t testing.TB, p *engine.Policy, n int) []byte {
	t.Helper()
	l := &logger{}
	e := engine.Engine{Recorder: l}
	e.Swap(p)
	for i := range n {
		e.Decide(context.Background(), question(t, i))
	}
	return l.Bytes()
}

func logOf(name string, text []byte) Log {
	return Log{Name: name, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }}
}

const oldRego = `package postern.mail

reject contains {"rule": "u1", "message": "old"} if input.auth.login == "u1"

reject contains {"rule": "u3", "message": "old"} if input.auth.login == "u3"
`

// messageRego edits, and does what extra says.
func messageRego(extra string) string {
	return `package postern.message

edit contains {"op": "add_header", "name": "X-A", "value": input.message.generated.date} if input.auth.login

edit contains {"op": "add_header", "name": "X-B", "value": "1"} if "s1" in input.message.header.subject
` + extra
}

// TestKinds: a candidate that differs in one way each.
func TestKinds(t *testing.T) {
	base := messageRego("")
	for _, c := range []struct{ old, new, want string }{
		{base, base, ""},
		{base, messageRego(`reject contains "no" if input.auth.login == "u2"`), "refused no"},
		{base, messageRego(`defer contains "later" if input.auth.login == "u2"`), "deferred later"},
		{base, messageRego(`quarantine contains "hold" if input.auth.login == "u2"`), "quarantined hold"},
		{base, messageRego(`discard contains "drop" if input.auth.login == "u2"`), "discarded drop"},
		{messageRego(`reject contains "no" if input.auth.login == "u2"`), base, "accepted no"},
		{messageRego(`quarantine contains "hold" if input.auth.login == "u2"`), base, "accepted hold"},
		{base, messageRego(`allow contains "s" if input.auth.login != "u2"`), "refused default.not-allowed, rules allow: s"},
		{messageRego(`reject contains {"rule": "no", "message": "a"} if input.auth.login == "u2"`),
			messageRego(`reject contains {"rule": "no", "message": "b"} if input.auth.login == "u2"`), "reply no"},
		{base, strings.Replace(base, `"1"`, `"2"`, 1), "edits add_header X-B"},
		{base, strings.Replace(base, `"X-B", "value": "1"`, `"X-C", "value": "1"`, 1), "edits add_header X-B, edits add_header X-C"},
		{base, messageRego(`edit contains {"op": "add_recipient", "address": "x@example.org"} if input.auth.login == "u2"`), "edits add_recipient"},
		{base, messageRego(`reject contains "no" if {
	input.auth.login == "u2"
	to_number(input.message.header.subject[0]) > 0
}`), "failed error.builtin"},
		{base, messageRego(`allow contains "all"`), "rules allow: all"},
		{base, messageRego(`reject contains "tls" if input.tls.version == "1.0"`), "unknown reads tls"},
		{base, messageRego(`reject contains "body" if contains(input.message.body.text, "x")`), "unknown reads message.body"},
	} {
		old := policy(t, "old", c.old)
		log := traffic(t, old, 90)
		now, err := tryPolicy("new", c.new)
		if err != nil {
			t.Fatalf("%s: %v", c.want, err)
		}
		for _, against := range []*engine.Policy{nil, old} {
			s, err := Run(context.Background(), []Log{logOf("log", log)}, Options{New: now, Old: against, Workers: 3})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, g := range s.Groups {
				got = append(got, g.Kind+" "+g.Rule)
			}
			if strings.Join(got, ", ") != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if silent := c.want == "" || strings.HasPrefix(c.want, "rules"); (s.Unapproved == 0) != silent || s.Records != 30 || s.BadLines > 0 {
				t.Errorf("%q: %+v", c.want, s)
			}
		}
	}
}

func tryPolicy(revision, rego string) (*engine.Policy, error) {
	c, err := bundles.Load(context.Background(), bundles.FS(fstest.MapFS{"policy.rego": {Data: []byte(rego)}}, "test"))
	if err != nil {
		return nil, err
	}
	b := *c.Bundle
	b.Manifest.Revision = revision
	return engine.Compile(context.Background(), &b, engine.Options{Timeout: 10 * time.Second})
}

// TestDeterministic: any number of workers gives the same summary and the same details.
func TestDeterministic(t *testing.T) {
	testenv.NotShort(t, "several seconds")
	log := traffic(t, policy(t, "old", oldRego), 3000)
	now := policy(t, "new", oldRego+`
defer contains "five" if input.auth.login == "u5"

allow contains "some" if input.auth.login != "u7"
`)
	broken := append(append([]byte("no json\n"), log...), `{"half`...)
	var first []byte
	for _, workers := range []int{1, 2, 7} {
		var details bytes.Buffer
		s, err := Run(context.Background(), []Log{logOf("a", log), logOf("b", broken)}, Options{New: now, Workers: workers, Details: &details})
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, details.Bytes()...)
		if first == nil {
			first = text
		}
		if !bytes.Equal(first, text) {
			t.Errorf("%d workers: %s\nwant %s", workers, text, first)
		}
		if s.Records != 2000 || s.BadLines != 2 || s.Bad[0].Line != 1 || s.Bad[1].Line != 1002 || s.Changed != 400 {
			t.Errorf("%d records, %d bad %v, %d changed", s.Records, s.BadLines, s.Bad, s.Changed)
		}
	}
}

// TestFilters leave out what they should and nothing else.
func TestFilters(t *testing.T) {
	p := policy(t, "old", oldRego+"\n")
	log := traffic(t, p, 3000)
	run := func(o Options) *Summary {
		o.New, o.Workers = p, 2
		s, err := Run(context.Background(), []Log{logOf("log", log)}, o)
		if err != nil {
			t.Fatal(err)
		}
		if s.Changed+s.Unknown+s.BadLines > 0 || s.Replayed+s.Left != 1000 {
			t.Errorf("%+v", s)
		}
		return s
	}
	if s := run(Options{Stages: []engine.Stage{engine.StageRcpt}}); s.Replayed != 0 {
		t.Errorf("%d", s.Replayed)
	}
	at := time.Date(2026, 6, 1, 0, 0, 300, 0, time.UTC)
	if s := run(Options{Since: at, Until: at.Add(300 * time.Second)}); s.Replayed != 100 {
		t.Errorf("%d", s.Replayed)
	}
	if n := run(Options{Sample: 10}).Replayed; n < 50 || n > 200 || run(Options{Sample: 10}).Replayed != n {
		t.Errorf("a tenth of 1000: %d", n)
	}
}

// TestApprovals: a list lets through what fits, and says what it did not use.
func TestApprovals(t *testing.T) {
	old := policy(t, "old", oldRego)
	now := policy(t, "new", oldRego+`
reject contains {"rule": "local.five", "message": "no"} if input.auth.login == "u5"

reject contains {"rule": "local.six", "message": "no"} if input.auth.login == "u6"
`)
	log := traffic(t, old, 300)
	run := func(list string) *Summary {
		file := filepath.Join(t.TempDir(), "list.yaml")
		if err := os.WriteFile(file, []byte(list), 0o600); err != nil {
			t.Fatal(err)
		}
		as, err := ReadApprovals(file)
		if err != nil {
			t.Fatal(err)
		}
		s, err := Run(context.Background(), []Log{logOf("log", log)}, Options{New: now, Workers: 2, Approvals: as, ApprovalsFile: "list.yaml"})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for list, want := range map[string][2]int{
		"approve: []": {20, 0},
		"approve:\n  - {kind: refused, rule: local.five}":                  {10, 0},
		"approve:\n  - {rule: local.*}":                                    {0, 0},
		"approve:\n  - {rule: '*.f*ve'}\n  - {login: u6}":                  {0, 0},
		"approve:\n  - {from: '*@example.com'}\n  - {rule: local.five}":    {0, 1},
		"approve:\n  - {kind: accepted}\n  - {kind: refused, stage: rcpt}": {20, 2},
	} {
		if s := run(list); s.Unapproved != want[0] || len(s.Unused) != want[1] {
			t.Errorf("%s: %d not approved, unused %v", list, s.Unapproved, s.Unused)
		}
	}
	var written strings.Builder
	if err := WriteApprovals(&written, run("approve: []")); err != nil {
		t.Fatal(err)
	}
	if s := run(written.String()); s.Unapproved != 0 || len(s.Unused) != 0 {
		t.Errorf("%+v by\n%s", s, written.String())
	}
}

// TestApprovalsStrict: what is wrong in a list is said with its place.
func TestApprovalsStrict(t *testing.T) {
	for text, want := range map[string]string{
		"approv: []":                   ":1:1: unknown key \"approv\"; did you mean approve?",
		"approve: {}":                  "a mapping does not fit here",
		"approve:\n  - {kind: refuse}": "did you mean refused?",
		"approve:\n  - {kind: refused, stage: data}": "one of connect, mail, rcpt, message",
		"approve:\n  - {why: all}":                   ":2:5: approve[0]: approves everything",
	} {
		file := filepath.Join(t.TempDir(), "list.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadApprovals(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestBounds: rules without number and values without measure leave a summary of bounded size.
func TestBounds(t *testing.T) {
	old := policy(t, "old", `package postern.mail

note contains input.envelope.from.key

note contains input.auth.login`)
	now := policy(t, "new", `package postern.mail

reject contains {"rule": sprintf("r%d", [input.now]), "message": sprintf("%s%s", [input.envelope.from.key, concat("", [x | some i in numbers.range(1, 300); x := "0123456789"])])} if input.auth.login`)
	s, err := Run(context.Background(), []Log{logOf("log", traffic(t, old, 6000))}, Options{New: now, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Groups) != maxGroups+1 || s.Groups[0].Rule != otherRules || s.Groups[0].Count != 2000-maxGroups {
		t.Errorf("%d groups, first %+v", len(s.Groups), s.Groups[0])
	}
	for _, g := range s.Groups {
		if len(g.Examples) == 0 || len(g.Examples) > 3 || len(g.Examples[0].Now.Reply) > 400 {
			t.Fatalf("%+v", g.Examples)
		}
	}
}

// TestFails: a log that cannot be opened, details that cannot be written, and a context that ends, end the run.
func TestFails(t *testing.T) {
	p := policy(t, "old", oldRego)
	now := policy(t, "new", oldRego+`reject contains "all" if input.auth.login`)
	log := logOf("log", traffic(t, p, 900))
	gone := Log{Name: "gone", Open: func() (io.ReadCloser, error) { return nil, os.ErrNotExist }}
	if _, err := Run(context.Background(), []Log{log, gone}, Options{New: now, Workers: 2}); err == nil {
		t.Error("a log is missing")
	}
	if _, err := Run(context.Background(), []Log{log}, Options{New: now, Workers: 2, Details: fullDisk{}}); err == nil || !strings.Contains(err.Error(), "details") {
		t.Errorf("the disk is full: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(ctx, []Log{log}, Options{New: now, Workers: 2}); err == nil {
		t.Error("the context has ended")
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, os.ErrClosed }

// TestLoggedOutcome: what the log says of a decision compares equal to the decision itself.
func TestLoggedOutcome(t *testing.T) {
	p := policy(t, "old", messageRego(`
edit contains {"op": "change_sender", "address": "x@example.org"} if input.auth.login == "u2"

edit contains {"op": "remove_header", "name": "Subject"} if input.auth.login == "u5"

reject contains {"rule": "r", "code": 554, "status": "5.7.9", "message": "two\nlines"} if input.auth.login == "u8"
`))
	parser := decisionlog.NewParser()
	e := engine.Engine{}
	e.Swap(p)
	for i := range 30 {
		l := &logger{}
		e.Recorder = l
		tr := question(t, 3*i+2)
		d := e.Decide(context.Background(), tr)
		line, err := parser.Parse(bytes.TrimSpace(l.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		now, was := OutcomeOf(&d), LoggedOutcome(line)
		if !reflect.DeepEqual(now, was) {
			t.Errorf("%+v\n%+v", now, was)
		}
	}
}
