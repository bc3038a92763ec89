package engine

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/message"
)

var update = flag.Bool("update", false, "rewrite policies/schemas/input.json")

// TestSchemaFile holds the copy that stock tools read to the contract.
func TestSchemaFile(t *testing.T) {
	file := filepath.Join("..", "policies", "schemas", "input.json")
	if *update {
		if err := os.WriteFile(file, contract.InputSchema(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(have, contract.InputSchema()) {
		t.Errorf("%s is not engine.InputSchema (%v): run go test ./engine -run TestSchemaFile -update", file, err)
	}
}

// full is a transaction with every fact.
func full(t testing.TB) *Transaction {
	tr := transactionOf(t, "From: Alice <alice@xn--bcher-kva.example>, bob\r\nFrom: x@xn--bcher-kva.example\r\nSender: alice@xn--bcher-kva.example\r\nReply-To: a@xn--bcher-kva.example\r\n"+
		"To: b@xn--bcher-kva.example\r\nCc: c@xn--bcher-kva.example;\r\nBcc: d@xn--bcher-kva.example\r\nResent-From: r@xn--bcher-kva.example (x@example.net)\r\nResent-Sender: r@xn--bcher-kva.example\r\nResent-To: r@xn--bcher-kva.example\r\nResent-Date: x\r\nSubject: \xff\r\n"+
		"Date: yesterday\r\nReceived: from a by mail.example.com\r\nAuthentication-Results: mail.example.com; none\r\n\r\n")
	tr.Message.MboxLine = "From alice Mon Nov 30 10:00:00 2026"
	from, to := path("a@xn--bcher-kva.example"), path("b@xn--bcher-kva.example")
	from.Unreadable, to.Unreadable = "x", "y"
	tr.Envelope.From, tr.Envelope.To[0].Path = from, to
	tr.Client.Name = "laptop.example.com"
	tr.Client.RecentAuthFailures, tr.Client.RecentLogin = new(int), &RecentLogin{Login: "alice", Age: time.Minute}
	tr.TLS.SNI = "mail.example.com"
	tr.TLS.Client = &Certificate{Subject: "CN=alice", Issuer: "CN=ca", SANs: []string{"email:alice@example.com"}, SHA256: "00"}
	tr.Auth.Certificate = tr.TLS.Client
	tr.Auth.AuthzID = "boss"
	tr.Auth.RecentFailures = new(int)
	tr.Recipient = &tr.Envelope.To[0]
	tr.Unknown = []string{"message.size"}
	return tr
}

// TestInputIsTheContract: what is built has only facts of the contract, of the right type, and all of them.
func TestInputIsTheContract(t *testing.T) {
	b := builder{k: newKeys()}
	v, err := b.build(full(t), contract.PartsAll)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	check(t, contract.Facts(), v, "input", seen)
	var want []string
	paths(contract.Facts(), "input", &want)
	for _, path := range want {
		if !seen[path] {
			t.Errorf("%s is in the contract but was not built", path)
		}
	}
}

// paths of all paths of a fact.
func paths(f *contract.Fact, path string, out *[]string) {
	*out = append(*out, path)
	for i := range f.Fields {
		paths(&f.Fields[i], path+"."+f.Fields[i].Name, out)
	}
	if f.Item != nil {
		paths(f.Item, path+"[]", out)
	}
}

// check one value against its fact.
func check(t *testing.T, f *contract.Fact, v ast.Value, path string, seen map[string]bool) {
	t.Helper()
	seen[path] = true
	switch v := v.(type) {
	case ast.String:
		if f.Kind != contract.Text || strings.ToValidUTF8(string(v), "") != string(v) {
			t.Errorf("%s is string %q", path, string(v))
		}
	case ast.Number:
		if f.Kind != contract.Integer {
			t.Errorf("%s is a number", path)
		}
	case ast.Boolean:
		if f.Kind != contract.Boolean {
			t.Errorf("%s is a boolean", path)
		}
	case *ast.Array:
		if f.Kind != contract.List || f.Item == nil {
			t.Errorf("%s is a list", path)
			return
		}
		v.Foreach(func(e *ast.Term) { check(t, f.Item, e.Value, path+"[]", seen) })
	case ast.Object:
		v.Foreach(func(k, e *ast.Term) {
			name := string(k.Value.(ast.String))
			if f.Kind == contract.Open {
				check(t, f.Item, e.Value, path+"[]", seen)
			} else if field := f.Field(name); field == nil {
				t.Errorf("%s.%s is not in the contract", path, name)
			} else {
				check(t, field, e.Value, path+"."+name, seen)
			}
		})
	default:
		t.Errorf("%s is %T", path, v)
	}
}

// TestAlways: facts that lint takes for certain are there in the least transaction of each stage that has them.
func TestAlways(t *testing.T) {
	for _, s := range contract.Stages() {
		tr := &Transaction{Stage: s}
		if s >= StageMail {
			tr.Envelope = &Envelope{From: message.Path{Null: true}}
		}
		if s == StageRcpt {
			tr.Recipient = &Recipient{Path: path("b@example.com")}
		}
		if s == StageMessage {
			tr.Message = &Message{Header: transactionOf(t, "X: y\r\n\r\n").Message.Header, Size: -1}
		}
		b := builder{k: newKeys()}
		v, err := b.build(tr, contract.PartsAll)
		if err != nil {
			t.Fatal(err)
		}
		var walk func(f *contract.Fact, v ast.Value, path []string)
		walk = func(f *contract.Fact, v ast.Value, path []string) {
			for i := range f.Fields {
				field := &f.Fields[i]
				at := append(slices.Clone(path), field.Name)
				term := v.(ast.Object).Get(ast.StringTerm(field.Name))
				if certain := contract.Facts().Certain(at, s, true); certain && term == nil {
					t.Errorf("stage %s: %v is certain by the contract but absent", s, at)
				}
				if term != nil && field.Kind == contract.Closed {
					walk(field, term.Value, at)
				}
			}
		}
		walk(contract.Facts(), v, nil)
	}
}

// TestParts: every part builds at its own path and nothing else but what is always there.
func TestParts(t *testing.T) {
	for i, path := range contract.PartPaths() {
		b := builder{k: newKeys()}
		v, err := b.build(full(t), 1<<i)
		if err != nil {
			t.Fatal(err)
		}
		var doc map[string]any
		if err := json.Unmarshal(AppendValue(nil, v), &doc); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"version", "stage", "id", "now", "unknown"} {
			if _, ok := doc[name]; !ok {
				t.Errorf("part %s: no %s", path, name)
			}
			delete(doc, name)
		}
		for _, name := range strings.Split(path, ".") {
			if keys := slices.Collect(maps.Keys(doc)); !slices.Equal(keys, []string{name}) {
				t.Errorf("part %s: has %v", path, keys)
				break
			}
			doc, _ = doc[name].(map[string]any)
		}
	}
}

// TestAbsent: what is unknown is absent, never empty.
func TestAbsent(t *testing.T) {
	b := builder{k: newKeys()}
	v, err := b.build(&Transaction{Stage: StageConnect}, contract.PartsAll)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"client":{},"id":"","now":-6795364578871345152,"server":{},"stage":"connect","unknown":[],"version":4}`
	if got := string(AppendValue(nil, v)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestBody(t *testing.T) {
	p := compile(t, nil, "package postern.message\nnote contains [count(input.message.body.text), input.message.body.truncated]")
	tr := submission(t)
	for _, c := range []struct {
		size int
		want string
	}{{10, "accept; note [10 false]"}, {maxBody, "accept; note [1048576 false]"}, {maxBody + 1, "accept; note [1048576 true]"}} {
		tr.Message.Body = func(limit int) ([]byte, error) { return bytes.Repeat([]byte("x"), min(c.size, limit)), nil }
		if got := describe(decide(p, tr)); got != c.want {
			t.Errorf("body of %d: %s", c.size, got)
		}
	}
	tr.Message.Body = func(int) ([]byte, error) { return nil, os.ErrClosed }
	if d := decide(p, tr); d.Verdict != Defer || d.Reasons[0].Rule != "error.input" {
		t.Errorf("unreadable body: %s", describe(d))
	}
}

// FuzzAppendString against encoding/json: what we write reads back as what json.Marshal would have written.
func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain", "\"\\/\b\f\n\r\t\x00\x1f\x7f", "\xff\xc3(", "ä\u2028\u2029\ufffd😀", "<script>&"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var got, want string
		line := AppendString(nil, s)
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		std, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(std, &want); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
		if bytes.ContainsAny(line, "\n\r\x00\x7f") {
			t.Errorf("%q is not one printable line", line)
		}
	})
}

func TestAppendValue(t *testing.T) {
	v := ast.MustParseTerm(`{"b": [1, 1.5, -2e3, true, null, "x\n"], "a": {"set": {3, 1, 2}, "o": {}}, "c": set()}`).Value
	const want = `{"a":{"o":{},"set":[1,2,3]},"b":[1,1.5,-2e3,true,null,"x\n"],"c":[]}`
	if got := string(AppendValue(nil, v)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := appendBrief(nil, v, 5); len(got) > 20 || len(got) <= 5 {
		t.Errorf("brief: %s", got)
	}
	odd := ast.NewObject([2]*ast.Term{ast.IntNumberTerm(1), ast.StringTerm("x")})
	if got := string(AppendValue(nil, odd)); got != `{"1":"x"}` {
		t.Errorf("number as key: %s", got)
	}
}
