package decisionlog

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// gossip is a policy that copies all its facts to every place where a policy can write text.
const gossip = `package postern.message
note contains input.envelope
note contains input.auth
note contains input.message
note contains {input.auth.login: input.client}
note contains {"tls": input.tls}
note contains substring(input.message.body.text, 3, 60)
note contains sprintf("%s wrote <%s> about %s from %s", [input.auth.login, input.envelope.from.address, input.message.header.subject[0], input.client.ip])
reject contains {"rule": sprintf("blocked.%s", [input.auth.login]), "message": sprintf("%s may not write as \"%s\"", [input.auth.login, input.envelope.from.address])}
reject contains {"rule": "body", "message": sprintf("You said: %s", [input.message.body.text])}
reject contains {"rule": "subject", "message": sprintf("No %s here", [input.message.header.subject[0]])}
`

// editor is a policy that writes what it has read into the message.
const editor = `package postern.message
edit contains {"op": "add_header", "name": "Sender", "value": sprintf("%s <%s>", [input.message.from[0].name, input.envelope.from.address])}
edit contains {"op": "replace_header", "name": "Subject", "value": sprintf("[outside] %s", [input.message.header.subject[0]])}
edit contains {"op": "add_header", "name": "X-Client", "value": input.client.ip}
edit contains {"op": "change_sender", "address": input.envelope.from.address}
edit contains {"op": "add_recipient", "address": "archive@example.com"}
`

// ordinary is a policy that reads the header and says little.
const ordinary = `package postern.message
note contains input.auth.login
note contains input.envelope.from.address
note contains input.message.headers
note contains input.message.from
reject contains {"rule": "x", "message": sprintf("%s may not", [input.auth.login])}`

const letter = "Received: from laptop.home (laptop.home [192.0.2.77]) by mail.example.com; Thu, 1 Jan 2026 00:00:00 +0000\r\n" +
	"From: Alice Liddell <Alice@example.com>\r\nTo: \"Bob Builder\" <bob@example.net>, \"odd one\"@example.org\r\n" +
	"Subject: Quarterly figures\r\nMessage-ID: <alice.17@example.com>\r\nX-Campaign: spring\r\n\r\n"

const secretBody = "The merger will be announced on Friday morning.\r\nTell nobody about this, please.\r\n"

// letterFrom is a transaction with something in every fact.
func letterFrom(t testing.TB) *engine.Transaction {
	t.Helper()
	h, err := message.ParseHeader([]byte(letter), message.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	alice := message.Path{Mailbox: message.Mailbox{Local: "alice", Domain: "example.com"}}
	bob := message.Path{Mailbox: message.Mailbox{Local: "bob", Domain: "example.net"}}
	return &engine.Transaction{
		ID: "id-1", Stage: engine.StageMessage, Now: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
		Server: engine.Server{Hostname: "mail.example.com", Listener: ":587", Door: "submission"},
		Client: engine.Client{IP: netip.MustParseAddr("192.0.2.77"), Port: 5555, Name: "laptop.home", EHLO: "laptop.home"},
		TLS: &engine.TLS{Version: "1.3", Client: &engine.Certificate{Subject: "CN=Alice Liddell", Issuer: "CN=CA",
			SANs: []string{"email:alice@example.com", "dns:mail.example.com"}}},
		Auth:     &engine.Auth{Login: "alice", Mechanism: "PLAIN", Groups: []string{"sales"}, Attributes: map[string][]string{"alias": {"alice@example.com"}}},
		Envelope: &engine.Envelope{From: alice, FromParams: message.Params{"AUTH": "alice+40x", "SIZE": "17"}, To: []engine.Recipient{{Path: bob, Params: message.Params{"ORCPT": "rfc822;bob@example.net"}}}},
		Message: &engine.Message{Header: h, Size: 999, Body: func(int) ([]byte, error) { return []byte(secretBody), nil },
			Generated: engine.Generated{MessageID: "<id@mail.example.com>", Date: "Fri, 02 Jan 2026 03:04:05 +0000"}},
	}
}

// decided is the line of a decision of rego about letterFrom.
func decided(t testing.TB, rego string, m Mask) (line string, doc map[string]any) {
	t.Helper()
	r := recordOf(t, rego)
	enc, err := newEncoder(m, map[string]string{"id": "x"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	line = string(enc.line(nil, NewEntry(r)))
	if err := json.Unmarshal([]byte(line), &doc); err != nil {
		t.Fatalf("%v in %s", err, line)
	}
	return line, doc
}

// catcher keeps the one record of a decision.
type catcher struct{ r engine.Record }

func (c *catcher) Record(_ context.Context, r engine.Record) error { c.r = r; return nil }

func recordOf(t testing.TB, rego string) engine.Record {
	t.Helper()
	b := &bundle.Bundle{Modules: []bundle.ModuleFile{{Path: "p.rego", Raw: []byte(rego)}}}
	p, err := engine.Compile(context.Background(), b, engine.Options{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	tr := letterFrom(t)
	tr.Policy = p
	var c catcher
	d := (&engine.Engine{Recorder: &c}).Decide(context.Background(), tr)
	if d.Err != nil {
		t.Fatal(d.Err)
	}
	return engine.Record{Transaction: tr, Decision: &d, Input: c.r.Input}
}

var testKey = []byte("0123456789abcdef0123456789abcdef")

// TestNothingLeaks: what a mask hides is nowhere in the line, however often policy has repeated it.
func TestNothingLeaks(t *testing.T) {
	body := []string{"merger", "Friday", "Tell nobody"}
	people := []string{"alice", "bob", "odd one", "liddell", "builder"}
	client := []string{"192.0.2.77", "laptop"}
	for name, c := range map[string]struct {
		mask   Mask
		hidden []string
		shown  []string
	}{
		"default": {Mask{}, body, []string{"alice@example.com", "Alice Liddell", "Quarterly figures", "192.0.2.77", `"truncated":false`}},
		"hash": {Mask{Addresses: HashedAddresses, Key: testKey},
			slices.Concat(body, people, []string{"example.net", "example.org"}), []string{"Quarterly figures", "192.0.2.77", "sales"}},
		"domain":         {Mask{Addresses: DomainAddresses, Key: testKey}, slices.Concat(body, people), []string{"@example.com", "@example.net"}},
		"client hash":    {Mask{ClientIP: HashedClientIP, Key: testKey}, slices.Concat(body, client), []string{"2001:db8:", "alice@example.com"}},
		"client network": {Mask{ClientIP: NetworkClientIP}, slices.Concat(body, client), []string{`"192.0.2.0"`}},
		"subject":        {Mask{EraseSubject: true}, slices.Concat(body, []string{"Quarterly"}), []string{"spring", "alice@example.com"}},
		"erase":          {Mask{EraseHeaders: []string{"x-campaign"}}, slices.Concat(body, []string{"spring"}), []string{"Quarterly"}},
		"keep":           {Mask{KeepHeaders: []string{"From"}}, slices.Concat(body, []string{"spring", "Quarterly"}), []string{"Alice Liddell <Alice@example.com>"}},
		"all": {Mask{Addresses: HashedAddresses, ClientIP: NetworkClientIP, EraseSubject: true, EraseHeaders: []string{"X-Campaign"}, Key: testKey},
			slices.Concat(body, people, client, []string{"spring", "Quarterly"}), []string{"192.0.2.0", ".invalid"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, rego := range []string{gossip, editor} {
				line, _ := decided(t, rego, c.mask)
				lower := strings.ToLower(line)
				for _, s := range c.hidden {
					if i := strings.Index(lower, strings.ToLower(s)); i >= 0 {
						t.Errorf("%q is in the line: ...%s", s, line[max(i-80, 0):min(i+80, len(line))])
					}
				}
				for _, s := range c.shown {
					if rego == gossip && !strings.Contains(line, s) {
						t.Errorf("%q is not in the line %s", s, line)
					}
				}
			}
		})
	}
}

// at follows a JSON pointer.
func at(t *testing.T, doc any, pointer string) (any, bool) {
	t.Helper()
	for _, part := range strings.Split(pointer, "/")[1:] {
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		switch d := doc.(type) {
		case map[string]any:
			v, ok := d[part]
			if !ok {
				return nil, false
			}
			doc = v
		case []any:
			i := slices.Index(strings.Split("0 1 2 3 4 5 6 7 8 9 10 11 12", " "), part)
			if i < 0 || i >= len(d) {
				return nil, false
			}
			doc = d[i]
		default:
			return nil, false
		}
	}
	return doc, true
}

func pointers(doc map[string]any, name string) (out []string) {
	list, _ := doc[name].([]any)
	for _, p := range list {
		out = append(out, p.(string))
	}
	return out
}

// TestPointers: a masked value is in the line, an erased one is not, and the line lists the pointers of both.
func TestPointers(t *testing.T) {
	mask := Mask{Addresses: HashedAddresses, ClientIP: NetworkClientIP, EraseSubject: true, Key: testKey}
	for _, rego := range []string{gossip, editor} {
		_, doc := decided(t, rego, mask)
		for _, p := range pointers(doc, "masked") {
			if _, ok := at(t, doc, p); !ok {
				t.Errorf("masked: nothing is at %s", p)
			}
		}
		for _, p := range pointers(doc, "erased") {
			if v, ok := at(t, doc, p); ok {
				t.Errorf("erased: %v is at %s", v, p)
			}
		}
	}
	_, doc := decided(t, gossip, mask)
	for _, want := range []string{"/client", "/requested_by", "/login", "/from", "/input/client/ip", "/input/auth/login", "/input/envelope/from",
		"/input/envelope/to/0", "/input/message/from/0", "/input/message/header/from/0", "/input/message/headers/2/value", "/result/reply/lines/0"} {
		if !slices.Contains(pointers(doc, "masked"), want) {
			t.Errorf("%s is not in masked: %v", want, pointers(doc, "masked"))
		}
	}
	for _, want := range []string{"/input/message/body/text", "/input/message/header/subject", "/input/message/headers/3/value", "/input/client/ehlo", "/input/client/port"} {
		if !slices.Contains(pointers(doc, "erased"), want) {
			t.Errorf("%s is not in erased: %v", want, pointers(doc, "erased"))
		}
	}
	_, plain := decided(t, `package postern.message
note contains input.message.from`, Mask{})
	if plain["masked"] != nil || plain["erased"] != nil {
		t.Errorf("nothing was hidden: %v %v", plain["masked"], plain["erased"])
	}
}

// TestTokens: one address has one token wherever it stands, by the same key, and it is an address still.
func TestTokens(t *testing.T) {
	for form, suffix := range map[Addresses]string{HashedAddresses: ".invalid", DomainAddresses: "@example.com"} {
		_, doc := decided(t, gossip, Mask{Addresses: form, Key: testKey})
		get := func(p string) any { v, _ := at(t, doc, p); return v }
		from, _ := get("/from").(string)
		if _, err := message.ParseMailbox(from, false); err != nil || !strings.HasSuffix(from, suffix) {
			t.Errorf("from %q: %v", from, err)
		}
		local, domain, _ := strings.Cut(from, "@")
		for p, want := range map[string]string{
			"/input/envelope/from/address": from, "/input/envelope/from/key": from, "/input/envelope/from/local": local, "/input/envelope/from/domain": domain,
			"/input/message/from/0/key": from, "/input/message/header/from/0": from, "/input/message/headers/1/value": from,
			"/input/tls/certificate/sans/0": "email:" + from, "/input/auth/attributes/alias/0": from, "/input/tls/certificate/issuer": "CN=CA",
		} {
			if got := get(p); got != want {
				t.Errorf("%s is %v, want %s", p, got, want)
			}
		}
		if login := get("/login"); login != get("/input/auth/login") || login == local {
			t.Errorf("login %v", login)
		}
		_, other := decided(t, gossip, Mask{Addresses: form, Key: []byte("another key of the same length...")})
		if other["from"] == from {
			t.Error("another key makes the same token")
		}
	}
}

func TestScan(t *testing.T) {
	mark := func(s string) string { return "(" + s + ")" }
	same := func(s string) string { return s }
	for in, want := range map[string]string{
		"":                            "",
		"nobody here":                 "nobody here",
		"a@b.example":                 "(a@b.example)",
		"<A.b+c@b.example>, x@y.":     "<(A.b+c@b.example)>, (x@y).",
		"'a@b.example' is no sender":  "'(a@b.example)' is no sender",
		`"odd \" one"@b.example said`: `("odd \" one"@b.example) said`,
		"@b.example and a@ and @":     "@b.example and a@ and @",
		"u@[192.0.2.1] u@[":           "(u@[192.0.2.1]) u@[",
		"a@b@c":                       "(a@b)@c",
		"grün@bücher.example!":        "(grün@bücher.example)!",
		"mail=a@b.example;x":          "(mail=a@b.example);x",
		`"@b.example`:                 `"@b.example`,
		"email:a@b.example":           "email:(a@b.example)",
	} {
		if got := addresses(in, mark, same); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for _, c := range [][4]string{{"Bob, bobby and BOB's bob", "bob", "X", "X, bobby and X's X"}, {"192.0.2.7 192.0.2.77 1192.0.2.7", "192.0.2.7", "X", "X 192.0.2.77 1192.0.2.7"}, {"", "a", "X", ""}, {"b", "bob", "X", "b"}} {
		if got := words(c[0], c[1], c[2]); got != c[3] {
			t.Errorf("%q without %q: %q, want %q", c[0], c[1], got, c[3])
		}
	}
}

var plainAddress = regexp.MustCompile(`^[A-Za-z0-9]{3,20}@[A-Za-z0-9]{3,20}\.[A-Za-z]{3,10}\z`)

// FuzzMaskedLine: the line of any decision is one line of JSON, and every address that must be masked is masked.
func FuzzMaskedLine(f *testing.F) {
	f.Add("alice@example.com", "Alice <alice@example.com>", `{"message":{"headers":[{"key":"from","value":"a@b"}]}}`)
	f.Add("Alice@Example.com", "user=alice@example.com, <ALICE@EXAMPLE.COM>;alice@example.com.", `{}`)
	f.Add(`"a b"@x`, "\xff@\xfe", `{"client":{"ip":"x"},"envelope":{"from":{"address":"a@b","parameters":{"AUTH":"<>"}},"to":[1]}}`)
	mask := Mask{Addresses: HashedAddresses, ClientIP: HashedClientIP, EraseSubject: true, KeepHeaders: []string{"from"}, Key: testKey}
	f.Fuzz(func(t *testing.T, login, text, input string) {
		enc, err := newEncoder(mask, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		r := record("id")
		r.Transaction.Auth.Login, r.Input = login, raw(input)
		r.Decision.Notes = []any{text, map[string]any{text: []any{text, nil, 1.5}}}
		line := enc.line(nil, NewEntry(r))
		if !json.Valid(line) || strings.ContainsAny(string(line), "\n\r") {
			t.Errorf("no line of JSON: %q", line)
		}
		// A masked address is nowhere in the line, not even in texts of the policy.
		if plainAddress.MatchString(login) && !strings.Contains(strings.ToLower(input), strings.ToLower(login)) && strings.Contains(strings.ToLower(string(line)), strings.ToLower(login)) {
			t.Errorf("%q stands in %q", login, line)
		}
	})
}

func TestKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "mask.key")
	if _, err := LoadKey(path, false); err == nil {
		t.Error("a key that is not there was read")
	}
	made, err := LoadKey(path, true)
	if err != nil || len(made) != 64 {
		t.Fatalf("%q %v", made, err)
	}
	again, err := LoadKey(path, true)
	if err != nil || string(again) != string(made) {
		t.Errorf("%q is read as %q, %v", made, again, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".key-*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if err := os.WriteFile(path, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(path, true); err == nil || !strings.Contains(err.Error(), "at least 16 octets") {
		t.Errorf("a short key: %v", err)
	}
	if _, err := newMasker(Mask{Addresses: HashedAddresses}); err == nil {
		t.Error("hashed without a key")
	}
	if _, err := newMasker(Mask{EraseHeaders: []string{"a"}, KeepHeaders: []string{"b"}}); err == nil {
		t.Error("both kept and erased by name")
	}
}

// BenchmarkMaskedLine is what the writer pays for a message that policy has read whole but for its body, by mask.
func BenchmarkMaskedLine(b *testing.B) {
	r := recordOf(b, ordinary)
	e := NewEntry(r)
	for name, m := range map[string]Mask{"default": {}, "all": {Addresses: HashedAddresses, ClientIP: HashedClientIP, EraseSubject: true, Key: testKey}} {
		b.Run("mask="+name, func(b *testing.B) {
			enc, err := newEncoder(m, map[string]string{"id": newUUID()}, 0)
			if err != nil {
				b.Fatal(err)
			}
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				buf = enc.line(buf[:0], e)
			}
			b.ReportMetric(float64(len(buf)), "octets")
		})
	}
}
