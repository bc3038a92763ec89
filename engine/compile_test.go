package engine

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/postern-mail/postern/engine/contract"
)

func TestCompileRefuses(t *testing.T) {
	const mail = "package postern.mail\n"
	for _, c := range []struct{ name, rego, want, hint string }{
		{"syntax", mail + `reject contains "x" if {`, "policy.rego:2:", ""},
		{"misspelt input", mail + `reject contains "x" if input.envelop.from.key == ""`, `policy.rego:2:24: input has no "envelop"`, "did you mean input.envelope?"},
		{"misspelt deep", mail + `reject contains "x" if input.envelope.from.adress == ""`, `input.envelope.from has no "adress"`, "did you mean input.envelope.from.address?"},
		{"misspelt element", "package postern.message\nreject contains \"x\" if input.message.from[_].adress == \"\"", `has no "adress"`, "address?"},
		{"fact as string", mail + `reject contains "x" if input.auth.groups == "staff"`, "policy.rego:2:", ""},
		{"http", mail + `reject contains "x" if http.send({"method": "get", "url": "http://127.0.0.1"}).status_code == 200`, "builtin http.send is not allowed", ""},
		{"clock", mail + `reject contains "x" if time.now_ns() > 0`, "use input.now", ""},
		{"shift", mail + `reject contains "x" if bits.lsh(1, 1000000) > 0`, "builtin bits.lsh is not allowed", ""},
		{"environment", mail + `reject contains opa.runtime().env.HOME`, "builtin opa.runtime is not allowed", ""},
		{"strict", mail + "import data.senders\nreject contains \"x\" if { y := 1 }", "assigned var y unused", ""},
		{"missing rule", mail + "import data.postern.lib.helpers\nreject contains \"x\" if helpers.authorised", "policy.rego:3:", ""},
		{"unknown set", mail + `rejct contains "x"`, "has no set rejct", "did you mean reject?"},
		{"unknown rule", mail + "reject contains \"x\" if helper\nhelper := true", "has no set helper", "leading _"},
		{"complete rule", mail + `reject := "x"`, "reject must be a partial set", "reject contains"},
		{"partial object", mail + `reject.x := "x"`, "reject must be a partial set", "reject contains"},
		{"set of other stage", mail + "reject contains \"x\"\nquarantine contains \"x\"", "quarantine has no meaning at stage mail", "postern.message"},
		{"empty stage", mail + `_x := 1`, "defines no decision set", "reject"},
		{"no stage", "package example\nx := 1", "the bundle defines no stage", "postern.mail"},
		{"misspelt stage", "package postern.messages\nreject contains \"x\"", "postern.messages is not a stage", "did you mean package postern.message?"},
		{"misspelt key", mail + `reject contains {"rule": "r", "mesage": "no"}`, `no key "mesage"`, "did you mean message?"},
		{"no rule name", mail + `reject contains {"message": "no"}`, `needs the key "rule"`, "rule"},
		{"misspelt op", "package postern.message\nedit contains {\"op\": \"add_heder\", \"name\": \"A\", \"value\": \"b\"}", `no operation "add_heder"`, "did you mean add_header?"},
		{"misspelt edit key", "package postern.message\nedit contains e if { e := {\"op\": \"add_header\", \"name\": \"A\", \"valu\": \"b\"} }", `no key "valu"`, "did you mean value?"},
		{"not in data", mail + `reject contains "x" if not input.envelope.from.key in data.senders[input.auth.login]`, "fails open", "helper rule"},
		{"not over absent fact", mail + `reject contains "x" if not startswith(input.tls.version, "1.")`, "fails open", "helper rule"},
		{"not over import", mail + "import data.senders\nreject contains \"x\" if not count(senders) == 0", "fails open", "helper rule"},
		{"smoke", mail + `reject contains "x" if startswith(json.unmarshal("{}"), "x")`, "does not decide a plain transaction", "eval"},
		{"rule and data", "package postern.lib.here\nx := 1", "conflict", ""},
		{"recursion", mail + "_a if _b\n_b if _a\nreject contains \"x\" if _a", "recursive", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := map[string]any{"senders": map[string]any{"alice": []any{"alice@example.com"}}, "postern": map[string]any{"lib": map[string]any{"here": map[string]any{"x": 2}}}}
			_, err := Compile(context.Background(), moduleBundle(data, "policy.rego", c.rego), Options{Timeout: 5 * time.Second})
			t.Log(err)
			var ce *contract.CompileError
			if !errors.As(err, &ce) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v\nwant %s", err, c.want)
			}
			found := slices.ContainsFunc(ce.Findings, func(f contract.Finding) bool {
				return strings.Contains(f.Hint, c.hint) && (f.Line == 0 || f.File == "policy.rego" && f.Text != "" && f.Column > 0)
			})
			if !found {
				t.Errorf("no finding with hint %q and a place: %v", c.hint, err)
			}
			if _, err := json.Marshal(ce); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCompileTakes(t *testing.T) {
	for _, c := range []struct{ name, rego string }{
		{"positive helper", "package postern.mail\nreject contains \"x\" if not _ok\n_ok if input.envelope.from.key in data.senders[input.auth.login]"},
		{"not over certain fact", "package postern.mail\nreject contains \"x\" if not startswith(input.envelope.from.key, \"a\")"},
		{"not over comprehension", "package postern.mail\nreject contains \"x\" if not count([1 | data.senders.alice[_]]) == 1"},
		{"not over local", "package postern.mail\nreject contains \"x\" if { v := input.tls.version; not startswith(v, \"1.\") }\nallow contains \"all\""},
		{"print", "package postern.mail\nreject contains \"x\" if { print(input.id); input.id == \"\" }"},
		{"annotation", "package postern.mail\n# METADATA\n# title: t\n# schemas:\n#   - input: schema.input\nreject contains \"x\" if input.id == \"\""},
		{"functions and helpers", "package postern.mail\nf(x) := x\n_h := f(1)\nreject contains \"x\" if _h == 2"},
		{"subpackage", "package postern.mail.helpers\nx := 1\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := map[string]any{"senders": map[string]any{"alice": []any{"alice@example.com"}}}
			b := moduleBundle(data, "policy.rego", c.rego, "more.rego", "package postern.message\nnote contains 1",
				"x_test.rego", "package postern.broken_test\nreject contains http.send({})")
			p, err := Compile(context.Background(), b, Options{Timeout: 5 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Warnings()) != 0 {
				t.Errorf("warnings: %v", p.Warnings())
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	rego := "package postern.mail\nreject contains \"x\" if input.message.size > 1\nreject contains \"y\" if data.sendrs.a"
	found := Check(context.Background(), moduleBundle(map[string]any{"senders": map[string]any{}}, "policy.rego", rego), Options{Timeout: 5 * time.Second})
	var got []string
	for _, f := range found {
		got = append(got, string(f.Severity)+" "+f.Code+" "+f.Hint)
	}
	want := []string{"warning fact-of-other-stage ", "warning missing-data did you mean data.senders?"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q (%v), want %q", got, found, want)
	}
}

func TestAllowBuiltins(t *testing.T) {
	rego := "package postern.mail\nreject contains \"x\" if time.now_ns() < 0"
	if _, err := Compile(context.Background(), moduleBundle(nil, "p.rego", rego), Options{AllowBuiltins: []string{"time.now_ns"}, Timeout: 5 * time.Second}); err != nil {
		t.Errorf("allowed builtin: %v", err)
	}
	_, err := Compile(context.Background(), moduleBundle(nil, "p.rego", rego), Options{AllowBuiltins: []string{"time.nowns"}})
	if err == nil || !strings.Contains(err.Error(), "did you mean time.now_ns?") {
		t.Errorf("misspelt builtin: %v", err)
	}
}

// TestDeniedExist finds entries of the deny list that OPA has renamed: they would be allowed silently.
func TestDeniedExist(t *testing.T) {
	for name := range contract.Denied() {
		if _, ok := ast.BuiltinMap[name]; !ok {
			t.Errorf("OPA has no builtin %s", name)
		}
	}
	for _, b := range ast.Builtins {
		if _, no := contract.Denied()[b.Name]; b.Nondeterministic && !no {
			t.Errorf("builtin %s is nondeterministic and allowed", b.Name)
		}
	}
}

func TestParsedModules(t *testing.T) {
	m := ast.MustParseModule("package postern.mail\nreject contains \"x\"")
	b := &bundle.Bundle{Modules: []bundle.ModuleFile{{Path: "p.rego", Parsed: m}}}
	p, err := Compile(context.Background(), b, Options{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if r := p.Revision(); len(r) != 16 {
		t.Errorf("revision %q", r)
	}
}

func TestRevision(t *testing.T) {
	b := moduleBundle(map[string]any{"a": 1}, "p.rego", "package postern.mail\nreject contains \"x\"")
	o := Options{Timeout: 5 * time.Second}
	b.Manifest.Revision = ""
	one, err := Compile(context.Background(), b, o)
	if err != nil {
		t.Fatal(err)
	}
	other, err := one.WithData(context.Background(), map[string]any{"a": 2}, "")
	if err != nil {
		t.Fatal(err)
	}
	same, err := other.WithData(context.Background(), map[string]any{"a": 1}, "")
	if err != nil {
		t.Fatal(err)
	}
	if one.Revision() == other.Revision() || one.Revision() != same.Revision() {
		t.Errorf("revisions %s %s %s", one.Revision(), other.Revision(), same.Revision())
	}
	o.Revision = "named"
	if p, err := Compile(context.Background(), b, o); err != nil || p.Revision() != "named" {
		t.Errorf("%v, %v", p.Revision(), err)
	}
}

func TestWithData(t *testing.T) {
	p := compile(t, map[string]any{"who": "alice"}, "package postern.message\nreject contains data.who")
	q, err := p.WithData(context.Background(), map[string]any{"who": "bob"}, "r2")
	if err != nil {
		t.Fatal(err)
	}
	if a, b := decide(p, submission(t)), decide(q, submission(t)); a.Reasons[0].Rule != "alice" || b.Reasons[0].Rule != "bob" || b.Revision != "r2" {
		t.Errorf("%s; %s", describe(a), describe(b))
	}
	if _, err := p.WithData(context.Background(), map[string]any{"postern": map[string]any{"message": map[string]any{"reject": 1}}}, ""); err == nil {
		t.Error("data over a rule was taken")
	}
	if _, err := p.WithData(context.Background(), map[string]any{"who": 7}, ""); err == nil {
		t.Error("data by which the smoke transaction fails was taken")
	}
}

func TestNeeds(t *testing.T) {
	for _, c := range []struct {
		name, rego string
		want       Needs
	}{
		{"nothing", `reject contains "x" if input.envelope.from.null`, Needs{}},
		{"size", `reject contains "x" if input.message.size > 1`, Needs{Size: true}},
		{"header", `reject contains "x" if input.message.header.subject[0] == "x"`, Needs{Header: true}},
		{"body behind a helper", "reject contains \"x\" if _f(1)\n_f(_) if _b\n_b if contains(input.message.body.text, \"x\")", Needs{Body: true}},
		{"body in else", "reject contains \"x\" if _v == 2\n_v := 1 if input.id == \"\" else := 2 if input.message.body.truncated", Needs{Body: true}},
		{"whole message", "reject contains \"x\" if count(input.message) == 0", Needs{Header: true, Size: true, Body: true}},
		{"dynamic", "reject contains \"x\" if { some k in [\"size\"]; input.message[k] == 1 }", Needs{Header: true, Size: true, Body: true}},
		{"whole input", "reject contains \"x\" if { walk(input, [_, \"x\"]) }", Needs{Header: true, Size: true, Body: true}},
		{"import", "import input.message as m\nreject contains \"x\" if m.size > 1", Needs{Size: true}},
		{"edits", "edit contains {\"op\": \"add_header\", \"name\": \"A\", \"value\": \"b\"}\nedit contains e if { e := {\"op\": \"remove_header\", \"name\": \"B\"} }",
			Needs{Edits: []string{"remove_header", "add_header"}}},
		{"any edit", "edit contains e if { some e in data.edits }", Needs{Edits: contract.EditNames()}},
		{"sets", "quarantine contains \"q\" if false\ndiscard contains \"d\" if false", Needs{Quarantine: true, Discard: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := compile(t, map[string]any{"edits": []any{}}, "package postern.message\n"+c.rego).Needs()
			c.want.Message = true
			a, _ := json.Marshal(got)
			b, _ := json.Marshal(c.want)
			if string(a) != string(b) {
				t.Errorf("got  %s\nwant %s", a, b)
			}
		})
	}
}
