package engine

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/postern-mail/postern/engine/contract"
)

// TestNegationAsOPADoesIt holds the lint against OPA: an expression is flagged if and only if it is undefined where the
// facts in it are absent, although its positive form does not hold.
func TestNegationAsOPADoesIt(t *testing.T) {
	const helpers = `
_partial if input.tls.version == "1.3"
_value := input.tls.version
default _default := false
_set contains x if some x in input.auth.groups
_total(x) := [x]
_sometimes(x) := x if x == "never"
_map := {"a": 1}
`
	for _, expression := range negations() {
		module := fmt.Sprintf("package postern.message\n%s\nallow contains \"x\" if {\n\tw := \"x\"\n\tw == \"x\"\n\t%s\n}\n", helpers, expression)
		flagged := slices.ContainsFunc(Check(context.Background(), moduleBundle(nil, "p.rego", module), Options{Timeout: 5 * time.Second}),
			func(f contract.Finding) bool {
				if f.Severity == contract.Fault && f.Code != contract.CodeNegatedCall {
					t.Errorf("%s: %v", expression, f)
				}
				return f.Code == contract.CodeNegatedCall
			})
		result, err := rego.New(rego.Module("p.rego", module), rego.Query("data.postern.message.allow"), rego.Input(map[string]any{
			"envelope": map[string]any{"from": map[string]any{"domain": "example.com"}},
			"message":  map[string]any{"from": []any{map[string]any{"domain": "example.com"}}},
		})).Eval(context.Background())
		if err != nil {
			t.Fatalf("%s: %v", expression, err)
		}
		if open := len(result[0].Expressions[0].Value.([]any)) == 0; open != flagged {
			t.Errorf("%s: fails open: %v, flagged: %v", expression, open, flagged)
		}
	}
}

// negations are expressions over facts that are absent, over data that is not there, and over helpers.
func negations() []string {
	return []string{
		`not input.tls.version`,
		`not input.tls.version == "1.3"`,
		`not "1.3" == input.tls.version`,
		`not input.tls.version = "1.3"`,
		`not input.tls.version == input.tls.cipher`,
		`not input.tls.version != ""`,
		`not input.tls.version < "1.3"`,
		`not [input.tls.version] == ["1.3"]`,
		`not {"v": input.tls.version} == {"v": "1.3"}`,
		`not {input.tls.version} == {"1.3"}`,
		`not { input.tls.version == "1.3" }`,
		`not w in input.auth.groups`,
		`not input.tls.version in {"1.3"}`,
		`not data.table[input.auth.login]`,
		`not data.table[w]`,
		`not data.table[data.other[w]]`,
		`not data.table[w][input.auth.login]`,
		`not _map[input.auth.login]`,
		`not _map[w]`,
		`not startswith(lower(input.tls.version), "1")`,
		`not count(input.auth.groups) + 1 > 2`,
		`not count(input.auth.groups) + 1 == 2`,
		`not array.slice(input.auth.groups, 0, 1)[0] == "x"`,
		`not count([1 | input.tls.version]) == 1`,
		`not count([x | some x in data.table]) == 1`,
		`not {1 | input.tls.version} == {1}`,
		`not w == [x | x := input.tls.version][0]`,
		"not $\"{input.tls.version}\" == \"1.3\"",
		`not startswith($"{input.tls.version}", "1.3")`,
		`not _partial`,
		`not _value == "1.3"`,
		`not startswith(_value, "1.3")`,
		`not _partial == true`,
		`not _default`,
		`not is_string(_default)`,
		`not w in _set`,
		`not count(_set) == 1`,
		`not _total(w) == ["b"]`,
		`not _total(input.tls.version) == ["b"]`,
		`not _total(input.tls.version)`,
		`not _sometimes(w)`,
		`not _sometimes(w) == "never"`,
		`not _partial with input.tls.version as data.version`,
		`not _partial with input.tls.version as [data.version]`,
		`not _partial with input.tls.version as "1.2"`,
		`not startswith(input.envelope.from.domain, "zz")`,
		`not input.envelope.from.domain in {"zz"}`,
		`count([1 | some g in ["a"]; not g in input.auth.groups]) == 1`,
		`every g in ["a"] { not g in input.auth.groups }`,
		`every p in input.message.from { not p.domain in {"zz"} }`,
	}
}
