package decisionlog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// raw is an input that is JSON already.
type raw string

func (r raw) AppendJSON(dst []byte) []byte { return append(dst, r...) }

// record with an id.
func record(id string) engine.Record {
	return engine.Record{
		Transaction: &engine.Transaction{
			ID: id, Stage: engine.StageMail, Now: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
			Server:   engine.Server{Listener: ":587", Door: "submission"},
			Client:   engine.Client{IP: netip.MustParseAddr("192.0.2.7")},
			Auth:     &engine.Auth{Login: "alice"},
			Envelope: &engine.Envelope{From: message.Path{Mailbox: message.Mailbox{Local: "alice", Domain: "example.com"}}},
		},
		Decision: &engine.Decision{
			Verdict: engine.Reject, Stage: engine.StageMail, Revision: "r1", Latency: 123 * time.Microsecond,
			Reply:   message.MustReply(550, "5.7.1", "no\nreally"),
			Reasons: []engine.Reason{{Set: "reject", Rule: "a.b", Code: 550, Status: "5.7.1", Text: "no\nreally"}, {Set: "allow", Rule: "x", Text: "x"}},
			Notes:   []any{map[string]any{"n": 1}},
		},
		Input: raw(`{"id":"` + id + `"}`),
	}
}

func open(t testing.TB, o Options) *Log {
	t.Helper()
	if o.File == "" {
		o.File = filepath.Join(t.TempDir(), "decisions.jsonl")
	}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// lines of a file, each of which must be JSON.
func lines(t *testing.T, file string) (out []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := bufio.NewScanner(bytes.NewReader(text))
	s.Buffer(nil, 1<<24)
	for s.Scan() {
		var m map[string]any
		if err := json.Unmarshal(s.Bytes(), &m); err != nil {
			t.Fatalf("%v in %q", err, s.Text())
		}
		out = append(out, m)
	}
	return out
}

func TestLine(t *testing.T) {
	var got map[string]any
	if err := json.Unmarshal(NewEntry(record("id-1")).AppendJSON(nil), &got); err != nil {
		t.Fatal(err)
	}
	id, _ := got["decision_id"].(string)
	if len(id) != 36 || id[14] != '4' {
		t.Errorf("decision_id %q", id)
	}
	delete(got, "decision_id")
	const want = `{"timestamp":"2026-01-02T03:04:05.000006Z","path":"postern/mail","bundles":{"postern":{"revision":"r1"}},"requested_by":"192.0.2.7","metrics":{"timer_rego_query_eval_ns":123000},"id":"id-1",
		"stage":"mail","door":"submission","listener":":587","client":"192.0.2.7","login":"alice","from":"alice@example.com","recipients":0,
		"revision":"r1","latency_us":123,"input":{"id":"id-1"},
		"result":{"verdict":"reject","reply":{"code":550,"status":"5.7.1","lines":["no","really"]},
			"rules":[{"set":"reject","rule":"a.b","code":550,"status":"5.7.1","message":"no\nreally"},{"set":"allow","rule":"x"}],"notes":[{"n":1}]}}`
	compareJSON(t, got, want)
}

func TestErrorLine(t *testing.T) {
	var e engine.Engine
	tr := record("x").Transaction
	d := e.Decide(context.Background(), tr)
	line := string(NewEntry(engine.Record{Transaction: tr, Decision: &d, Input: raw("null")}).AppendJSON(nil))
	for _, want := range []string{`"error":{"code":"no-policy","message":"no-policy: no policy is active"}`, `"rules":[{"set":"error","rule":"error.no-policy"}]`, `"input":null`} {
		if !strings.Contains(line, want) {
			t.Errorf("no %s in %s", want, line)
		}
	}
}

// compareJSON compares through encoding/json.
func compareJSON(t *testing.T, got any, want string) {
	t.Helper()
	var w any
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(w)
	if !bytes.Equal(a, b) {
		t.Errorf("got  %s\nwant %s", a, b)
	}
}

func TestEdits(t *testing.T) {
	b := &bundle.Bundle{Modules: []bundle.ModuleFile{{Path: "p.rego", Raw: []byte(`package postern.message
edit contains {"op": "add_header", "name": "X-A", "value": "1"}
edit contains {"op": "insert_header", "name": "X-B", "value": "2", "index": 1}
edit contains {"op": "replace_header", "name": "X-C", "value": "3"}
edit contains {"op": "remove_header", "name": "X-D", "index": 2}
edit contains {"op": "change_sender", "address": "c@example.com"}
edit contains {"op": "add_recipient", "address": "d@example.com"}
edit contains {"op": "remove_recipient", "address": "e@example.com"}
`)}}}
	p, err := engine.Compile(context.Background(), b, engine.Options{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	tr := record("x").Transaction
	tr.Stage, tr.Policy = engine.StageMessage, p
	l := open(t, Options{})
	d := (&engine.Engine{Recorder: l}).Decide(context.Background(), tr)
	if d.Err != nil {
		t.Fatal(d.Err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	compareJSON(t, lines(t, l.o.File)[0]["result"].(map[string]any)["edits"], `[
		{"op":"remove_header","name":"X-D","index":2},{"op":"replace_header","name":"X-C","index":0,"value":"3"},
		{"op":"insert_header","name":"X-B","index":1,"value":"2"},{"op":"add_header","name":"X-A","value":"1"},
		{"op":"change_sender","address":"c@example.com"},{"op":"remove_recipient","address":"e@example.com"},
		{"op":"add_recipient","address":"d@example.com"}]`)
}

func TestEveryLineArrives(t *testing.T) {
	for _, strict := range []bool{false, true} {
		l := open(t, Options{Strict: strict, Wait: 10 * time.Second})
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 50 {
					if err := l.Record(context.Background(), record(fmt.Sprintf("%d-%d", g, i))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		seen := map[any]bool{}
		for _, m := range lines(t, l.o.File) {
			seen[m["id"]] = true
		}
		if len(seen) != 400 || l.Lost() != 0 {
			t.Errorf("strict %v: %d lines, %d lost", strict, len(seen), l.Lost())
		}
		if info, err := os.Stat(l.o.File); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	}
}

func TestReopen(t *testing.T) {
	l := open(t, Options{Strict: true})
	if err := l.Record(context.Background(), record("before")); err != nil {
		t.Fatal(err)
	}
	rotated := l.o.File + ".1"
	if err := os.Rename(l.o.File, rotated); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	if err := l.Record(context.Background(), record("after")); err != nil {
		t.Fatal(err)
	}
	if a, b := lines(t, rotated), lines(t, l.o.File); len(a) != 1 || a[0]["id"] != "before" || len(b) != 1 || b[0]["id"] != "after" {
		t.Errorf("rotated %v, new %v", a, b)
	}
}

func TestReopenFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l := open(t, Options{File: filepath.Join(dir, "d.jsonl"), Strict: true})
	moved := dir + ".moved"
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err == nil {
		t.Error("reopened in a directory that is gone")
	}
	if err := l.Record(context.Background(), record("x")); err != nil {
		t.Errorf("the old file is not used any more: %v", err)
	}
	if got := lines(t, filepath.Join(moved, "d.jsonl")); len(got) != 1 {
		t.Errorf("%d lines", len(got))
	}
}

func TestClosed(t *testing.T) {
	l := open(t, Options{Strict: true})
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	if err := l.Record(context.Background(), record("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("Record after Close: %v", err)
	}
	if err := l.Reopen(); !errors.Is(err, ErrClosed) {
		t.Errorf("Reopen after Close: %v", err)
	}
}

// TestFullDisk writes to a device that is always full.
func TestFullDisk(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Fatalf("this test needs /dev/full: %v", err)
	}
	strict := open(t, Options{File: "/dev/full", Strict: true})
	if err := strict.Record(context.Background(), record("x")); err == nil {
		t.Error("strict: a line that was not written was not reported")
	}
	reg := prometheus.NewRegistry()
	l := open(t, Options{File: "/dev/full", Metrics: reg})
	if err := l.Record(context.Background(), record("x")); err != nil {
		t.Errorf("not strict: %v", err)
	}
	l.Close()
	if n := counted(t, reg); l.Lost() != 1 || len(n) != int(lossCount) || n["write"] != 1 {
		t.Errorf("lost %d, counted %v", l.Lost(), n)
	}
}

// counted are the losses that reg knows, by reason.
func counted(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "postern_decision_log_lost_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			out[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	return out
}

// slow is an input whose encoding blocks until the test lets it go on.
type slow struct{ release chan struct{} }

func (s slow) AppendJSON(dst []byte) []byte {
	<-s.release
	return append(dst, "null"...)
}

func TestQueueFull(t *testing.T) {
	s := slow{make(chan struct{})}
	block := record("slow")
	block.Input = s
	l := open(t, Options{Queue: 1, Wait: time.Millisecond})
	for range 5 {
		if err := l.Record(context.Background(), block); err != nil {
			t.Error(err)
		}
	}
	if lost := l.Lost(); lost < 3 {
		t.Errorf("lost %d of 5 with room for 1", lost)
	}
	close(s.release)
}

// broken is an input that cannot be encoded.
type broken struct{}

func (broken) AppendJSON([]byte) []byte { panic("broken") }

func TestEncoderPanic(t *testing.T) {
	l := open(t, Options{Strict: true})
	r := record("x")
	r.Input = broken{}
	if err := l.Record(context.Background(), r); err == nil {
		t.Error("no error")
	}
	if err := l.Record(context.Background(), record("next")); err != nil {
		t.Error(err)
	}
	if got := lines(t, l.o.File); len(got) != 1 || got[0]["id"] != "next" {
		t.Errorf("%v", got)
	}
}

// BenchmarkRecord is what the live path pays, with a whole message as input, everything masked and the file rotated;
// BenchmarkLine and BenchmarkMaskedLine are what the writer pays later.
func BenchmarkRecord(b *testing.B) {
	l := open(b, Options{Wait: time.Second, Rotate: Rotate{Size: 10 << 20, Keep: 1},
		Mask: Mask{Addresses: HashedAddresses, ClientIP: HashedClientIP, EraseSubject: true, Key: testKey}})
	r := recordOf(b, ordinary)
	b.ReportAllocs()
	for n := 1; b.Loop(); n++ {
		if err := l.Record(context.Background(), r); err != nil {
			b.Fatal(err)
		}
		if n%1000 == 0 { // the writer catches up; this time is not measured
			b.StopTimer()
			for l.queued.Load() > 0 {
				time.Sleep(time.Millisecond)
			}
			b.StartTimer()
		}
	}
	b.ReportMetric(float64(l.Lost()), "lost")
}

func BenchmarkLine(b *testing.B) {
	enc, err := newEncoder(Mask{}, nil, 0)
	if err != nil {
		b.Fatal(err)
	}
	e := NewEntry(record("id"))
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = enc.line(buf[:0], e)
	}
}

// written is a file with text in it.
func written(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
