package lint

import (
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
)

func TestTestsReachOut(t *testing.T) {
	for text, want := range map[string]string{
		"test_a if { x := http.send({\"url\": \"http://192.0.2.1\", \"method\": \"get\"}); x.status_code == 200 }": "a_test.rego:3:18",
		"test_a if opa.runtime().env.HOME":                             "opa.runtime",
		"f(x) := count(net.lookup_ip_addr(x))":                         "net.lookup_ip_addr",
		"test_a if { count([y | y := opa.runtime()[_]]) > 0 }":         "opa.runtime",
		"test_a if { count([1]) == 1 with count as http.send }":        "http.send",
		"test_a if { true with input.x as opa.runtime() }":             "opa.runtime",
		"test_a if json.match_schema({}, {\"$ref\": \"http://x\"})[0]": "json.match_schema",
		"test_a if { data.a.b with http.send as {\"x\": 1} }":          "",
		"test_a if { data.a.b with opa.runtime as f }\nf := {}":        "",
		"test_a if time.now_ns() > 0":                                  "",
		"test_a if net.cidr_contains(\"10.0.0.0/8\", \"10.1.1.1\")":    "",
	} {
		text = "package a_test\n\n" + text + "\n"
		module, err := ast.ParseModule("a_test.rego", text)
		if err != nil {
			t.Fatal(err)
		}
		file := bundle.ModuleFile{Path: "a_test.rego", Raw: []byte(text), Parsed: module}
		found := checkTests(&bundle.Bundle{Modules: []bundle.ModuleFile{file}}, nil)
		if (len(found) > 0) != (want != "") || len(found) > 0 && !strings.Contains(found[0].String(), want) {
			t.Errorf("%s: got %v, want %s", text, found, want)
		}
		if len(checkTests(&bundle.Bundle{Modules: []bundle.ModuleFile{file}}, []string{"http.send", "opa.runtime", "net.lookup_ip_addr", "json.match_schema"})) > 0 {
			t.Errorf("%s: refused although it is allowed", text)
		}
		file.Path = "a.rego"
		if len(checkTests(&bundle.Bundle{Modules: []bundle.ModuleFile{file}}, nil)) > 0 {
			t.Errorf("%s: not a test", text)
		}
	}
}
