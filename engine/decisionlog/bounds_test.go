package decisionlog

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// reader is a policy that reads everything, and repeats a part of it.
const reader = `package postern.message
note contains substring(json.marshal(input.message), 0, 9000)
note contains input.envelope.to[0].address
note contains input.auth.login
note contains {"keys": {substring(k, 0, 100): 1 | some k in object.keys(array.slice(input.message.headers, 0, 50)[_])}}
reject contains {"rule": "first.of.all", "message": sprintf("%s", [substring(input.message.header.subject[0], 0, 2000)])}`

func compiled(t testing.TB, rego string) *engine.Policy {
	t.Helper()
	p, err := engine.Compile(context.Background(), &bundle.Bundle{Modules: []bundle.ModuleFile{{Path: "p.rego", Raw: []byte(rego)}}}, engine.Options{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// decideOn returns the record of p's decision about a header from a login for recipients.
func decideOn(t testing.TB, p *engine.Policy, header, login string, recipients int) engine.Record {
	t.Helper()
	h, err := message.ParseHeader([]byte(header+"\r\n"), message.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	tr := letterFrom(t)
	tr.Message.Header, tr.Auth.Login, tr.Policy = h, login, p
	tr.Envelope.To = nil
	for i := range recipients {
		to := message.Path{Mailbox: message.Mailbox{Local: fmt.Sprint("r", i), Domain: "example.net"}}
		tr.Envelope.To = append(tr.Envelope.To, engine.Recipient{Path: to, Params: message.Params{"ORCPT": "rfc822;" + to.Local}})
	}
	var c catcher
	d := (&engine.Engine{Recorder: &c}).Decide(context.Background(), tr)
	if d.Err != nil {
		t.Fatal(d.Err)
	}
	return engine.Record{Transaction: tr, Decision: &d, Input: c.r.Input}
}

// masks of which each hides something else.
func masks() map[string]Mask {
	return map[string]Mask{"none": {}, "hashes": {Addresses: HashedAddresses, ClientIP: HashedClientIP, EraseSubject: true, KeepHeaders: []string{"from", "x-0"}, Key: testKey},
		"erased": {EraseHeaders: []string{"subject", "x-1"}}}
}

// TestHostileLines holds that a line about a hostile message is bounded and valid JSON, counts what it lacks, has what identifies the decision, and
// can be read back.
func TestHostileLines(t *testing.T) {
	p := compiled(t, reader)
	const from = "From: a@b.example\r\nSubject: s\r\n"
	hostile := map[string]string{
		"resent":      from + strings.Repeat("Resent-From: "+strings.Repeat("a@b,", 400)+"a@b\r\n", 170),
		"to":          from + "To: " + strings.Repeat("a@b.c,", 10_000) + "a@b.c\r\n",
		"fields":      from + repeat(990, func(i int) string { return fmt.Sprintf("x-%d:\r\n", i) }),
		"escapes":     from + repeat(8, func(i int) string { return fmt.Sprintf("X-%d: %s\r\n", i, strings.Repeat("\x01\u202e", 15_000)) }),
		"invalid":     from + repeat(8, func(i int) string { return fmt.Sprintf("X-%d: %s\r\n", i, strings.Repeat("\xff", 60_000)) }),
		"quotes":      from + repeat(8, func(i int) string { return fmt.Sprintf("X-%d: %s\r\n", i, strings.Repeat(`\"`, 30_000)) }),
		"subject":     "From: a@b.example\r\nSubject: " + strings.Repeat("\x02", 60_000) + "\r\n",
		"names":       from + repeat(60, func(i int) string { return strings.Repeat("n", 8000) + fmt.Sprint(i) + ": x\r\n" }),
		"cc and from": "From: " + strings.Repeat("x <a@b.c>,", 5000) + "a@b.c\r\nCc: " + strings.Repeat("y <a@b.c>,", 5000) + "a@b.c\r\nSubject: s\r\n",
	}
	worst := 0.0
	for name, header := range hostile {
		for login, recipients := range map[string]int{"alice": 1, strings.Repeat("\x03", 5000): 3000} {
			r := decideOn(t, p, header, login, recipients)
			for mask, m := range masks() {
				for _, limit := range []int{0, MinLine, 100_000} {
					enc, err := newEncoder(m, map[string]string{"id": "x", "site": strings.Repeat("s", 500)}, limit)
					if err != nil {
						t.Fatal(err)
					}
					line := enc.line([]byte("before\n"), NewEntry(r))[len("before\n"):]
					what := fmt.Sprintf("%s, %s, %d recipients, limit %d", name, mask, recipients, limit)
					wantBounded(t, what, line, enc.max)
					if cap(enc.input) > 8*enc.max {
						t.Errorf("%s: the encoder holds %d octets", what, cap(enc.input))
					}
					if limit == 0 {
						worst = max(worst, float64(len(line))/float64(len(header)))
					}
				}
			}
		}
	}
	t.Logf("%.1f octets in the log for each octet sent, at worst", worst)
	if worst > 8 {
		t.Errorf("a line is %.1f times what was sent", worst)
	}
}

func repeat(n int, f func(i int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(f(i))
	}
	return b.String()
}

// wantBounded checks a line that was too long for its limit before it was shortened.
func wantBounded(t *testing.T, what string, line []byte, limit int) {
	t.Helper()
	if len(line) > limit || !json.Valid(line) {
		t.Fatalf("%s: %d octets, valid %v, ending in %q", what, len(line), json.Valid(line), line[max(len(line)-200, 0):])
	}
	p := NewParser()
	l, err := p.Parse(line)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	s := l.Shortened
	if s == nil {
		if len(line) < limit/8 {
			t.Logf("%s: %d octets, not shortened", what, len(line))
		}
		return
	}
	if s.Elements+s.Octets <= 0 || len(s.Fields) == 0 {
		t.Errorf("%s: nothing is counted: %+v", what, s)
	}
	elements, octets := 0, 0
	for _, f := range s.Fields {
		elements, octets = elements+f.Elements, octets+f.Octets
		if !strings.HasPrefix(f.Path, "/") || len(f.Path) > 2*maxPath {
			t.Errorf("%s: path %q", what, f.Path)
		}
	}
	if elements != s.Elements || octets != s.Octets {
		t.Errorf("%s: %d and %d are not the sums of %+v", what, s.Elements, s.Octets, s)
	}
	if l.ID != "id-1" || l.Stage != engine.StageMessage || l.Result == nil || l.Result.Verdict != "reject" || len(l.Result.Rules) == 0 ||
		l.Result.Reply == nil || l.Login == "" || l.From == "" || l.Client == "" {
		t.Errorf("%s: the line lacks what identifies it: %+v", what, l)
	}
	q, err := p.Logged(l)
	if err != nil {
		t.Fatalf("%s: %v in %s", what, err, line[:2000])
	}
	if text := string(q.Input.AppendJSON(nil)); !strings.Contains(text, `"to":[{`) && strings.Contains(what, "masks: none") {
		t.Errorf("%s: no recipient is left in %.500s", what, text)
	}
	if lacks := compiled(t, "package postern.message\nreject contains \"x\" if count(input.message.headers) > 0").Lacks(q); strings.Contains(string(line), `"path":"/input/message/headers"`) && !slices.Equal(lacks, []string{"message.headers"}) {
		t.Errorf("%s: it lacks %v, want the headers that were left out", what, lacks)
	}
}

// TestWholeLine: a line that fits is not shortened, to the octet; one octet less, and it is.
func TestWholeLine(t *testing.T) {
	r := record("id-1")
	r.Decision.Notes = []any{strings.Repeat("n", MinLine)}
	whole, err := newEncoder(Mask{}, nil, LongestLine)
	if err != nil {
		t.Fatal(err)
	}
	e := NewEntry(r)
	n := len(whole.line(nil, e))
	for limit, short := range map[int]bool{n: false, n - 1: true} {
		enc, err := newEncoder(Mask{}, nil, limit)
		if err != nil {
			t.Fatal(err)
		}
		line := enc.line(nil, e)
		if got := strings.Contains(string(line), `"shortened":{"octets":`); got != short || !short && len(line) != n {
			t.Errorf("limit %d: %d octets, shortened %v", limit, len(line), got)
		}
	}
}

// TestShortenedList: the first recipients stay, and the number of the others is in the line. A policy that counts the recipients cannot
// decide again, and one that does not read them can.
func TestShortenedList(t *testing.T) {
	r := decideOn(t, compiled(t, "package postern.message\nnote contains input.envelope.to[0].address\nnote contains input.envelope.from.address"), "From: a@b.example\r\n", "alice", 2000)
	line := NewEntry(r).AppendJSON(nil)
	p := NewParser()
	l, err := p.Parse(line)
	if err != nil || l.Shortened == nil {
		t.Fatalf("%+v, %v", l, err)
	}
	q, err := p.Logged(l)
	if err != nil {
		t.Fatal(err)
	}
	kept := strings.Count(string(q.Input.AppendJSON(nil)), `"ORCPT"`)
	if f := l.Shortened.Fields; len(f) != 1 || f[0].Path != "/input/envelope/to" || f[0].Elements != 2000-kept || kept < 20 || l.Shortened.Elements != 2000-kept {
		t.Errorf("%d kept, %+v", kept, f)
	}
	if len(line) < DefaultLine/5 {
		t.Errorf("the list has %d octets of %d, though little else needs room", len(line), DefaultLine)
	}
	for rego, lacks := range map[string]string{
		`reject contains "x" if count(input.envelope.to) > 100`:                              "envelope.to",
		`reject contains "x" if input.envelope.recipient_count > 100`:                        "envelope.recipient_count",
		`reject contains "x" if input.envelope.from.address == "a@b.example"`:                "",
		`reject contains "x" if "r1@example.net" in {a | a := input.envelope.to[_].address}`: "envelope.to",
	} {
		if got := strings.Join(compiled(t, "package postern.message\n"+rego).Lacks(q), " "); got != lacks {
			t.Errorf("%s: lacks %q, want %q", rego, got, lacks)
		}
	}
}

// TestShortenedCounts: what is cut off many texts is counted to the octet, also where there are too many of them for a path each.
func TestShortenedCounts(t *testing.T) {
	const long = 20_000
	r := record("id-1")
	r.Decision.Notes = []any{"short"}
	enc, err := newEncoder(Mask{}, nil, MinLine)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]any{}
	for i := range 4 * MinLine / lineFor {
		names[fmt.Sprintf("k%02d", i)] = strings.Repeat("n", long+i)
	}
	r.Input = raw(must(json.Marshal(map[string]any{"a": names})))
	l, err := NewParser().Parse(enc.line(nil, NewEntry(r)))
	if err != nil || l.Shortened == nil {
		t.Fatalf("%+v, %v", l, err)
	}
	var got struct {
		A map[string]string `json:"a"`
	}
	if err := json.Unmarshal(l.input, &got); err != nil {
		t.Fatal(err)
	}
	cut := 0
	for name, text := range got.A {
		cut += len(names[name].(string)) - len(strings.TrimSuffix(text, cutMark))
	}
	if s := l.Shortened; s.Octets != cut || s.Elements != len(names)-len(got.A) || len(s.Fields) > MinLine/lineFor+2 || len(got.A) <= MinLine/lineFor {
		t.Errorf("%d octets cut off %d of %d texts, %+v", cut, len(got.A), len(names), s)
	}
}

func must(text []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return text
}

// TestShortenedLeaksNothing: what a mask erases does not come back in a note, even if the line has no room for the place where it stood.
func TestShortenedLeaksNothing(t *testing.T) {
	p := compiled(t, "package postern.message\nnote contains input.message.header.zecret[0]\nnote contains array.slice(input.message.headers, 0, 50)\nnote contains substring(input.message.body.text, 0, 40)\n")
	header := "From: a@b.example\r\n" + repeat(900, func(i int) string { return fmt.Sprintf("A-%d: %s\r\n", i, strings.Repeat("z", 300)) }) + "Zecret: the merger of ours\r\n"
	r := decideOn(t, p, header, "alice", 2000)
	enc, err := newEncoder(Mask{EraseHeaders: []string{"zecret"}}, nil, MinLine)
	if err != nil {
		t.Fatal(err)
	}
	line := string(enc.line(nil, NewEntry(r)))
	if strings.Contains(line, "merger") || !strings.Contains(line, `"shortened"`) {
		t.Errorf("%s", line)
	}
}

// TestLabelsAreBounded: labels are in every line, so they must leave room for the rest.
func TestLabelsAreBounded(t *testing.T) {
	if _, err := newEncoder(Mask{}, map[string]string{"a": strings.Repeat("x", DefaultLine/labelShare)}, 0); err == nil || !strings.Contains(err.Error(), "labels") {
		t.Errorf("%v", err)
	}
	for _, limit := range []int{1, MinLine - 1, LongestLine + 1} {
		if l, err := Open(Options{File: filepath.Join(t.TempDir(), "d"), MaxLine: limit}); err == nil || !strings.Contains(err.Error(), "a line of") {
			l.Close()
			t.Errorf("%d: %v", limit, err)
		}
	}
}

// TestMaxLine: Open passes the bound on, and lines in file and upload keep it.
func TestMaxLine(t *testing.T) {
	l := open(t, Options{Strict: true, MaxLine: MinLine})
	r := record("x")
	r.Decision.Notes = []any{strings.Repeat("n", 20_000)}
	if err := l.Record(context.Background(), r); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, l.o.File); len(got) != 1 || got[0]["shortened"] == nil {
		t.Errorf("%.200v", got)
	}
}

// TestLogHasNoHiddenCharacters: controls and bidirectional overrides are escaped wherever a client or a policy can put them.
func TestLogHasNoHiddenCharacters(t *testing.T) {
	const evil = "a\x1b[2J\u009b\u202e\u2066\u200b\u2028\x7fz"
	r := record(evil)
	r.Transaction.Auth.Login = evil
	r.Transaction.Server.Listener = evil
	r.Transaction.Client.IP = netip.MustParseAddr("fe80::1%" + "eth0")
	r.Decision.Revision = evil
	r.Decision.Reasons = []engine.Reason{{Set: "reject", Rule: evil, Text: evil + "!"}}
	r.Decision.Notes = []any{evil, map[string]any{evil: []any{evil}}}
	text, err := json.Marshal(map[string]any{"id": "x", "auth": map[string]any{evil: evil}})
	if err != nil {
		t.Fatal(err)
	}
	r.Input = raw(text)
	enc, err := newEncoder(Mask{}, map[string]string{evil: evil}, 0)
	if err != nil {
		t.Fatal(err)
	}
	line := string(enc.line(nil, NewEntry(r)))
	if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 || strings.Count(line, `\u202e`) < 12 {
		t.Errorf("%q", line)
	}
	if l, err := NewParser().Parse([]byte(line)); err != nil || l.ID != evil || l.Result.Rules[0].Rule != evil {
		t.Errorf("%+v, %v", l, err)
	}
}

// FuzzBoundedLine: no facts and no outcome make a line longer than its bound, or one that is not JSON or cannot be read.
func FuzzBoundedLine(f *testing.F) {
	f.Add("alice", "rule", "note", `{"stage":"mail","message":{"headers":[{"key":"from","value":"a@b"}]}}`, 100, 3)
	f.Add("\x01", "\u202e", "\xff", `{"envelope":{"to":[{"address":"a@b"},{"address":"c@d"}]},"message":{"header":{"x":["y"]}}}`, 3000, 40)
	f.Add("", "", "", `null`, 70_000, 1)
	f.Add("a@b", "r", "n", `{"message":{"body":{"text":"secret text of a body"}},"auth":{"login":"x"}}`, 1, 500)
	f.Fuzz(func(t *testing.T, login, rule, note, input string, times, depth int) {
		times, depth = min(max(times, 0), 100_000), min(max(depth, 0), 2000)
		if times*(len(login)+len(rule)+len(note)) > 1<<21 || times*len(input) > 1<<21 {
			t.Skip("more than a test needs")
		}
		r := record("id-1")
		r.Transaction.Auth.Login = strings.Repeat(login, times)
		r.Decision.Reasons = nil
		for range min(times, 3000) {
			r.Decision.Reasons = append(r.Decision.Reasons, engine.Reason{Set: "reject", Rule: rule, Text: note})
		}
		var nested any = strings.Repeat(note, times)
		for i := range depth {
			if i%2 == 0 {
				nested = []any{nested, note}
			} else {
				nested = map[string]any{rule: nested, note: login, strings.Repeat(note, times): 1}
			}
		}
		r.Decision.Notes = []any{nested, json.Number(strings.Repeat("1", 1+times%500))}
		r.Input = raw(`{"stage":"mail","id":"x","message":{"all":[` + strings.TrimSuffix(strings.Repeat(input+",", times), ",") + `]},"envelope":` + input + `}`)
		if !json.Valid(r.Input.AppendJSON(nil)) {
			r.Input = raw(`null`)
		}
		for name, m := range masks() {
			enc, err := newEncoder(m, nil, MinLine)
			if err != nil {
				t.Fatal(err)
			}
			line := enc.line(nil, NewEntry(r))
			if len(line) > MinLine || !json.Valid(line) || strings.ContainsAny(string(line), "\n\r") {
				t.Fatalf("%s: %d octets, valid %v: %.3000q", name, len(line), json.Valid(line), line)
			}
		}
	})
}

// TestAge: the first line after a day begins a new file, also after a restart, which knows the day of the first line from the line itself.
func TestAge(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	o := Options{File: filepath.Join(t.TempDir(), "d.jsonl"), Strict: true, Rotate: Rotate{Age: 24 * time.Hour, Keep: 3}, Now: func() time.Time { return now }}
	add := func(l *Log, id string) {
		t.Helper()
		r := record(id)
		r.Transaction.Now = now
		if err := l.Record(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	files := func() int {
		t.Helper()
		got, err := filepath.Glob(o.File + "*")
		if err != nil {
			t.Fatal(err)
		}
		return len(got)
	}
	l := open(t, o)
	add(l, "1")
	now = now.Add(24*time.Hour - time.Second)
	add(l, "2")
	if n := files(); n != 1 {
		t.Fatalf("%d files before a day is over", n)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, o)
	now = now.Add(time.Second)
	add(l, "3")
	if n := files(); n != 2 {
		t.Fatalf("%d files after a day", n)
	}
	now = now.Add(time.Hour)
	add(l, "4")
	if n := files(); n != 2 {
		t.Fatalf("%d files an hour later", n)
	}
	for i := range 6 {
		now = now.Add(25 * time.Hour)
		add(l, fmt.Sprint(5+i))
	}
	until(t, "three full files are kept", func() bool { return files() == 4 })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(o.File); err != nil || info.Size() == 0 {
		t.Errorf("%v, %v", info, err)
	}
}
