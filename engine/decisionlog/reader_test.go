package decisionlog

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/postern-mail/postern/engine"
)

// good is a line that can be asked again.
const good = `{"decision_id":"d1","timestamp":"2026-01-02T03:04:05Z","path":"postern/mail","id":"t1","stage":"mail","login":"alice",` +
	`"from":"a@example.com","revision":"r1","result":{"verdict":"accept","rules":[]},"parts":["auth"],` +
	`"input":{"auth":{"attributes":{},"groups":[],"login":"alice"},"id":"t1","now":1,"stage":"mail","unknown":[],"version":1}}`

// all lines of a reader, or the error of each.
func all(t *testing.T, r *Reader) (out []string) {
	t.Helper()
	for range 100 {
		text, n, whole, err := r.Next()
		switch {
		case err == io.EOF:
			return out
		case err != nil:
			out = append(out, err.Error())
		default:
			out = append(out, fmt.Sprintf("%d %s %v", n, text, whole))
		}
	}
	t.Fatal("the reader does not end")
	return nil
}

func TestReader(t *testing.T) {
	var zipped bytes.Buffer
	for _, member := range []string{"a\nb\n", "c\n"} { // rotated files may be put one behind the other
		z := gzip.NewWriter(&zipped)
		io.WriteString(z, member)
		z.Close()
	}
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", ""},
		{"plain", "a\nb\n", "1 a true|2 b true"},
		{"blank and CRLF", "\n a\r\n\nb", "2 a true|4 b false"},
		{"long", strings.Repeat("x", MaxLine+1) + "\nb\n", "log:1: the line is longer than 16 MiB|2 b true"},
		{"as long as can be", strings.Repeat("x", MaxLine-1) + "\n", "1 " + strings.Repeat("x", MaxLine-1) + " true"},
		{"gzip", zipped.String(), "1 a true|2 b true|3 c true"},
		{"gzip broken off", zipped.String()[:zipped.Len()-12], "1 a true|2 b true|3 c true|log:4: the log breaks off: unexpected EOF"},
	} {
		r, err := NewReader("log", strings.NewReader(c.text))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(all(t, r), "|"); got != c.want {
			t.Errorf("%s: %.200s, want %.200s", c.name, got, c.want)
		}
	}
	if _, err := NewReader("log", strings.NewReader("\x1f\x8b\x00")); err == nil || !strings.HasPrefix(err.Error(), "log: ") {
		t.Errorf("broken gzip header: %v", err)
	}
}

// TestParse reads a line that the writer wrote.
func TestParse(t *testing.T) {
	r := record("t1")
	r.Transaction.Envelope.FromParams = map[string]string{"SMTPUTF8": ""}
	r.Transaction.Failure = engine.Reject
	r.Input = raw(`{"id":"t1","stage":"mail"}`)
	p := NewParser()
	l, err := p.Parse(NewEntry(r).AppendJSON(nil))
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%s %v %s %s %s %s %s %v %+v", l.ID, l.Stage, l.Door, l.Client, l.Login, l.From, l.Revision, *l.Result.Reply, l.Result.Rules)
	want := `t1 mail submission 192.0.2.7 alice alice@example.com r1 {550 5.7.1 [no really]} ` +
		`[{Set:reject Rule:a.b Code:550 Status:5.7.1 Message:no` + "\n" + `really} {Set:allow Rule:x Code:0 Status: Message:}]`
	if got != want || !l.Time.Equal(r.Transaction.Now) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	q, err := p.Logged(l)
	if err != nil || !q.UTF8 || q.Failure != engine.Reject || q.Stage != engine.StageMail {
		t.Errorf("%+v, %v", q, err)
	}
}

// TestParseRefuses: each line is wrong in one thing.
func TestParseRefuses(t *testing.T) {
	p := NewParser()
	for _, c := range []struct{ old, new, want string }{
		{good, ``, "not a JSON object"},
		{good, `null`, "not a JSON object"},
		{good, `[1]`, "not a JSON object"},
		{good, `{"stage":"mail"`, "ends in the middle"},
		{good, `{"stage" "mail"}`, "column "},
		{good, good + `{}`, "something follows"},
		{`"id":"t1","stage"`, `"id":"t1","id":"t2","stage"`, "column 88: /id: duplicate object member name"},
		{`"id":"t1","stage"`, `"id":1,"stage"`, "id: json"},
		{`"id":"t1","stage"`, `"stage"`, "no transaction id"},
		{`"stage":"mail","login"`, `"stage":"data","login"`, "has no stage"},
		{`"verdict":"accept"`, `"verdict":"maybe"`, `unknown verdict "maybe"`},
		{`"rules":[]`, `"rules":{}`, "result: json"},
		{`"result":{"verdict":"accept","rules":[]},`, ``, "no result"},
		{`2026-01-02T03:04:05Z`, `yesterday`, "timestamp: "},
		{`"parts":["auth"]`, `"parts":"auth"`, "parts: json"},
		{`"parts":["auth"]`, `"on_error":"perhaps"`, `on_error: unknown verdict "perhaps"`},
		{`"login":"alice"`, "\"login\":\"al\xffice\"", "/login: invalid UTF-8"},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		if _, err := p.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.new, err, c.want)
		}
	}
	for _, c := range []struct{ old, new, want string }{
		{`"now":1`, `"now":"1"`, "input.now: want a whole number"},
		{`"stage":"mail","unknown"`, `"stage":"rcpt","unknown"`, "of stage mail, but its input is of stage rcpt"},
	} {
		l, err := p.Parse([]byte(strings.Replace(good, c.old, c.new, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Logged(l); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.new, err, c.want)
		}
	}
	l, err := p.Parse([]byte(good[:strings.Index(good, `,"input"`)] + "}"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Logged(l); !errors.Is(err, ErrNoInput) {
		t.Errorf("%v", err)
	}
}

// TestParseMasked: what OPA's events say of masked and erased values.
func TestParseMasked(t *testing.T) {
	p := NewParser()
	l, err := p.Parse([]byte(strings.Replace(good, `"result":{"verdict":"accept","rules":[]}`, `"erased":["/result","/input/auth/attributes"],"masked":["/input/envelope/from/address"]`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if !l.ResultMasked() || len(l.Gone) != 3 {
		t.Errorf("%+v", l)
	}
	if l, err := p.Parse([]byte(strings.Replace(good, `"parts"`, `"masked":["/result/reply/lines/0"],"parts"`, 1))); err != nil || !l.ResultMasked() {
		t.Errorf("%v %+v", err, l)
	}
	if l, err := p.Parse([]byte(strings.Replace(good, `"parts"`, `"masked":["/input/auth/login","/result/notes/0","/result/rules/0/message"],"parts"`, 1))); err != nil || l.ResultMasked() {
		t.Errorf("%v %+v", err, l)
	}
}

// FuzzLogLine: any line of a log is read or refused with an error, without a panic. Plain and compressed files, read whole or octet by
// octet, give the same lines, and a truncated file gives those before the cut. A line that was read can be decided again, and its input is
// encoded as it was.
func FuzzLogLine(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(good + "\n" + good[:40]))
	f.Add([]byte(strings.Replace(good, `"parts":["auth"]`, `"erased":["/input","/a~1b~0"],"smtputf8":true,"on_error":"accept"`, 1)))
	f.Add([]byte(`{"stage":"message","id":"x","result":{"verdict":"reject","reply":{"code":550,"lines":["\u0000"]}},"input":{"stage":"message","message":{"header":{"":[""]}}}}`))
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff})
	f.Add([]byte("\r\n{}\n[[[[[[[[["))
	f.Add([]byte(good + "\r\n\n \n" + good + "\n"))
	f.Add([]byte(strings.Replace(good, `"id":"t1"`, `"id":"t1","id":"t2"`, 1)))
	f.Add([]byte(good + " x\n\x00\n\xff\xfe\n{\"stage\":null}\n"))
	p := NewParser()
	f.Fuzz(func(t *testing.T, log []byte) {
		lines, ends := linesOf(t, bytes.NewReader(log))
		if !bytes.HasPrefix(log, []byte{0x1f, 0x8b}) {
			var want []string
			for i, line := range strings.Split(string(log), "\n") {
				if line = strings.TrimSpace(line); line != "" {
					want = append(want, fmt.Sprintf("%d %s", i+1, line))
				}
			}
			if !slices.Equal(lines, want) || ends != nil {
				t.Fatalf("%q: read %q, %v", log, lines, ends)
			}
			if octets, err := linesOf(t, iotest.OneByteReader(bytes.NewReader(log))); !slices.Equal(octets, lines) || err != nil {
				t.Fatalf("%q: read %q octet by octet, %v", log, octets, err)
			}
			packed := compress(t, log)
			if zipped, err := linesOf(t, bytes.NewReader(packed)); !slices.Equal(zipped, lines) || err != nil {
				t.Fatalf("%q: read %q of the compressed log, %v", log, zipped, err)
			}
			half, err := linesOf(t, bytes.NewReader(packed[:10+(len(packed)-10)/2]))
			if len(half) > len(lines) || !slices.Equal(half, lines[:len(half)]) || err == nil {
				t.Fatalf("%q: read %q of the half of it, %v", log, half, err)
			}
		}
		for _, line := range lines {
			_, text, _ := strings.Cut(line, " ")
			wantLine(t, p, []byte(text))
		}
	})
}

// linesOf are all lines of a log with their numbers, and the error that ended it.
func linesOf(t *testing.T, in io.Reader) (lines []string, ends error) {
	t.Helper()
	r, err := NewReader("log", in)
	if err != nil {
		return nil, err
	}
	before := 0
	for {
		text, n, _, err := r.Next()
		if err == io.EOF {
			return lines, ends
		}
		if n <= before || ends != nil {
			t.Fatalf("line %d after line %d, after %v", n, before, ends)
		}
		if before = n; err != nil {
			var le *LineError
			if !errors.As(err, &le) || le.Line != n {
				t.Fatalf("%#v", err)
			}
			if !strings.Contains(err.Error(), "longer") {
				ends = err
			}
			continue
		}
		lines = append(lines, fmt.Sprintf("%d %s", n, text))
	}
}

func compress(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// wantLine: what is taken of a line is what the standard library reads in it.
func wantLine(t *testing.T, p *Parser, text []byte) {
	t.Helper()
	l, err := p.Parse(text)
	if err != nil {
		if err.Error() == "" || strings.ContainsAny(err.Error(), "\r\n") {
			t.Fatalf("%q: %q", text, err)
		}
		return
	}
	var plain map[string]any // names as they are: in a struct their case would not count
	err = json.Unmarshal(text, &plain)
	id, _ := plain["id"].(string)
	login, _ := plain["login"].(string)
	result, there := plain["result"].(map[string]any)
	if err != nil || id != l.ID || login != l.Login || there != (l.Result != nil) || there && result["verdict"] != l.Result.Verdict {
		t.Fatalf("%q: %v, read as %+v", text, err, l)
	}
	if l.ID == "" || l.Stage == 0 || l.Result == nil && !l.ResultMasked() {
		t.Fatalf("%q: %+v", text, l)
	}
	q, err := p.Logged(l)
	if err != nil {
		return
	}
	again, err := engine.NewInputReader().Read(q.Input.AppendJSON(nil))
	if err != nil || !bytes.Equal(again.AppendJSON(nil), q.Input.AppendJSON(nil)) {
		t.Fatalf("%v: %s", err, q.Input.AppendJSON(nil))
	}
}
