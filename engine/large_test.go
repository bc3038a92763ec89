package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/table"
)

// packed is a document in which objects of so many entries are tables.
func packed(t testing.TB, v any, large int) any {
	object, ok := v.(map[string]any)
	if !ok {
		return v
	}
	m := table.Members{Large: large}
	for key, child := range table.Each(object) {
		if err := m.Add(key, packed(t, child, large)); err != nil {
			t.Fatal(err)
		}
	}
	return m.Object()
}

// packedData is the same below the root.
func packedData(t testing.TB, data map[string]any, large int) map[string]any {
	out := map[string]any{}
	for key, v := range data {
		out[key] = packed(t, v, large)
	}
	return out
}

const notWhole = "is not read whole"

// senders of so many users.
func senders(n int) map[string]any {
	out := make(map[string]any, n)
	for i := range n {
		out[fmt.Sprint("user", i)] = []any{fmt.Sprint("user", i, "@example.com"), map[string]any{"address": "ceo@example.com", "as": "on-behalf"}}
	}
	out["alice"] = []any{"alice@example.com"}
	return out
}

// TestWholeReads holds the lint against evaluation over large tables. "error": the policy is refused, and would fail. "": it is
// not, and does not. "may": it fails, and there is a warning, because which table is read is computed. "warning": it works as
// yet. "strict": it is refused though it would work. Over small tables all work.
func TestWholeReads(t *testing.T) {
	const helpers = `
_entries(login) := data.senders[login]
_get(table, key) := object.get(table, key, [])
_tables contains "senders"
_looked_up if data.senders[input.auth.login]
`
	large := map[string]any{"senders": senders(2000), "settings": map[string]any{"domain": "example.com"}, "list": []any{"alice", "bob"},
		"tenants": map[string]any{"x": map[string]any{"senders": senders(2000)}, "y": map[string]any{}}}
	large = packedData(t, large, table.Large) // once
	small := map[string]any{"senders": senders(3), "settings": map[string]any{"domain": "example.com"}, "list": []any{"alice", "bob"},
		"tenants": map[string]any{"x": map[string]any{"senders": senders(3)}, "y": map[string]any{}}}
	for expression, whole := range map[string]string{
		`data.senders[input.auth.login]`:                                                        "",
		`data.senders.alice`:                                                                    "",
		`data.senders[input.auth.login][_] == "alice@example.com"`:                              "",
		`some x in data.senders[input.auth.login]; x == "alice@example.com"`:                    "",
		`"alice@example.com" in data.senders[input.auth.login]`:                                 "",
		`x := input.auth.login; y := data.senders[x][0]; y == "alice@example.com"`:              "",
		`some l in data.list; data.senders[l]`:                                                  "",
		`every l in ["alice", "user1"] { data.senders[l] }`:                                     "",
		`count([1 | some l in data.list; data.senders[l]]) == 1`:                                "",
		`_entries("alice")[0] == "alice@example.com"`:                                           "",
		`not data.senders.nobody`:                                                               "",
		`object.get(data.settings, "domain", "") == "example.com"`:                              "",
		`data.settings[_] == "example.com"`:                                                     "warning",
		`some t in ["x"]; data.tenants[t].senders[input.auth.login]`:                            "",
		`some t in ["x"]; count(object.keys(data.tenants[t].senders)) > 0`:                      "may",
		`data.tenants[t].senders.alice`:                                                         "warning",
		`count(data.tenants) > 0`:                                                               "",
		`is_object(data.senders)`:                                                               "",
		`x := object.get(data.senders, [input.auth.login, 0], ""); x == "alice@example.com"`:    "",
		`x := {data.senders}; count(x) == 1`:                                                    "error",
		`some t in ["x"]; some l; data.tenants[t].senders[l][0] == "alice@example.com"`:         "may",
		`x := object.get(data.tenants, "x", {}); count(x) == 1`:                                 "",
		`x := object.filter(data.senders, {"alice"}); count(x) == 1`:                            "error",
		`x := json.filter(data.senders, ["alice"]); count(x) == 1`:                              "error",
		`sprintf("%v", [data.senders]) != ""`:                                                   "error",
		`data.senders == data.senders`:                                                          "error",
		`x := data.senders; y := x; y.alice`:                                                    "strict",
		`some l in data.list; s := data.senders; s[l]`:                                          "",
		`s := data.senders; count([1 | some l in data.list; s[l]]) == 1`:                        "",
		`s := data.senders; every l in ["alice"] { s[l] }`:                                      "",
		`s := data.senders; some l; s[l][0] == "alice@example.com"`:                             "error",
		`s := data.tenants.x; s.senders[input.auth.login]`:                                      "",
		`s := data.tenants.x; s == {}; 1 == 2`:                                                  "strict",
		`count(data.tenants.x.senders) > 0`:                                                     "",
		`data.senders[l][_] == "alice@example.com"`:                                             "error",
		`some l, e in data.senders; l == "alice"`:                                               "error",
		`some l; data.senders[l]; l == "alice"`:                                                 "error",
		`count(data.senders) > 0`:                                                               "",
		`object.get(data.senders, input.auth.login, []) == ["alice@example.com"]`:               "",
		`_get(data.senders, "alice") == ["alice@example.com"]`:                                  "error",
		`s := data.senders; s[input.auth.login]`:                                                "",
		`"alice" in object.keys(data.senders)`:                                                  "error",
		`"x" in data.senders; 1 == 2`:                                                           "error",
		`every l, e in data.senders { l; count(e) > 0 }`:                                        "error",
		`[1 | data.senders[_]] != []`:                                                           "error",
		`{l: e | e := data.senders[l]} != {}`:                                                   "error",
		`x := object.union(data.senders, {"x": 1}); x.x == 1`:                                   "error",
		`walk(data.senders, [p, "alice@example.com"])`:                                          "error",
		`data.senders != {}`:                                                                    "error",
		`_get({"a": data.senders}, "a")`:                                                        "error",
		`$"{data.senders}" != ""`:                                                               "error",
		`{"a": [data.senders]} != {}`:                                                           "error",
		`_entries("alice") with data.senders as {"alice": [1]}`:                                 "",
		`data.list with data.list as data.senders`:                                              "error",
		`count([1 | some x in data.list; data.senders[y][0] == x]) == 0`:                        "error",
		`json.marshal(data.senders[input.auth.login]) == "[\"alice@example.com\"]"`:             "",
		`count(object.get(data.senders, "alice", [])) == 1`:                                     "",
		`x := {"alice"} & {k | data.senders[k]}; count(x) == 1`:                                 "error",
		`input.auth.login == "bob"; data.senders[l]; l != ""`:                                   "strict",
		`startswith(data.senders[input.auth.login][0], "alice")`:                                "",
		`data.senders[input.auth.login][0] == data.senders[x][0]; x == "alice"`:                 "error",
		`[a, b] := ["alice", "user1"]; data.senders[a]; data.senders[b]`:                        "",
		`x := data.senders[{"a": input.auth.login}.a]; count(x) == 1`:                           "",
		`x := data.senders[lower(input.auth.login)]; count(x) == 1`:                             "",
		`x := data.senders[concat("", ["al", "ice"])]; not x[0] == "bob"`:                       "",
		`{"settings": {"domain": d}} = {"settings": data.settings}; d == "example.com"`:         "",
		`input.auth.login = l; data.senders[l]`:                                                 "",
		`data.senders[l] = ["alice@example.com"]; l == input.auth.login`:                        "error",
		`some i; data.senders[input.auth.login][i] == "alice@example.com"`:                      "",
		`x := [e | some l in ["alice"]; some e in data.senders[l]]; x == ["alice@example.com"]`: "",
	} {
		module := "package postern.message\n" + helpers + "reject contains \"x\" if {\n\t" + strings.ReplaceAll(expression, "; ", "\n\t") + "\n}\n" +
			"note contains \"y\" if _looked_up\nnote contains t if some t in _tables\nnote contains \"z\" if _entries(\"alice\")\nnote contains \"g\" if _get({}, \"x\")\n"
		p, _, findings := newPolicy(moduleBundle(large, "p.rego", module), Options{Timeout: 5 * time.Second})
		refused, may := 0, 0
		for _, f := range findings {
			switch f.Code {
			case contract.CodeLargeTable:
				refused++
				if f.Line < 8 || f.Column < 2 || f.Text == "" || !strings.Contains(f.Message, "has 2001 entries") || !strings.Contains(f.Hint, "senders[key]") {
					t.Errorf("%s: %+v", expression, f)
				}
			case contract.CodeTable:
				may++
			case contract.CodeNeedsFact:
			default:
				t.Errorf("%s: %v", expression, f)
			}
		}
		if p == nil {
			t.Errorf("%s: no policy", expression)
			continue
		}
		d := decide(p, submission(t))
		failed := d.Err != nil && strings.Contains(d.Err.Error(), notWhole) && d.Verdict == Defer && d.Reasons[0].Rule == "error.eval"
		switch want := map[string][3]bool{"": {}, "warning": {false, true, false}, "may": {false, true, true}, "error": {true, false, true}, "strict": {true, false, false}}[whole]; {
		case d.Err != nil && !failed:
			t.Errorf("%s: %v", expression, d.Err)
		case want != [3]bool{refused > 0, may > 0, failed}:
			t.Errorf("%s: refused %d, warned %d, failed %v (%v), want %s", expression, refused, may, failed, d.Err, whole)
		}
		if d := decide(compile(t, small, module), submission(t)); d.Err != nil || whole != "strict" && len(d.Reasons) == 0 && !strings.Contains(expression, "1 == 2") {
			t.Errorf("%s over little data: %v %v", expression, d.Err, d.Reasons)
		}
	}
}

// TestGrownTable: a reload of data alone is refused when what the rules read whole has become too large, and nothing else is.
func TestGrownTable(t *testing.T) {
	p := compile(t, map[string]any{"senders": senders(3), "other": map[string]any{}}, `package postern.message
reject contains "x" if {
	some login, _ in data.senders
	login == input.auth.login
}
`)
	if w := p.Warnings(); len(w) != 1 || w[0].Code != contract.CodeTable || w[0].Line != 3 || !strings.Contains(w[0].Message, "1000 entries") {
		t.Errorf("warnings %v", w)
	}
	ctx := context.Background()
	if _, err := p.WithData(ctx, map[string]any{"senders": senders(table.Large - 2), "other": senders(2000)}, "r"); err != nil {
		t.Error(err)
	}
	_, err := p.WithData(ctx, map[string]any{"senders": senders(table.Large)}, "r")
	want := "policy.rego:3:19: data.senders has 1001 entries and is not read whole [large-table-read-whole]\n    3 | \tsome login, _ in data.senders"
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// TestRuleOverPackedData: data where a rule is defined is found without reading it.
func TestRuleOverPackedData(t *testing.T) {
	for path, conflict := range map[string]bool{"lib.senders.alice": true, "lib.senders.alice[0]": true, "lib.senders.nobody": false, "lib.other": false, "lib.senders": true} {
		at := strings.Split(path, ".")
		rule := strings.TrimSuffix(at[len(at)-1], "[0]")
		pkg := strings.Join(at[:len(at)-1], ".")
		b := moduleBundle(map[string]any{"lib": map[string]any{"senders": senders(2000)}},
			"p.rego", "package postern.message\nreject contains \"x\" if data.lib.x\n", "q.rego", "package "+pkg+"\n"+rule+" := 1\n", "r.rego", "package lib\nx := 1\n")
		found := contract.Faults(Check(context.Background(), b, Options{Timeout: 5 * time.Second}))
		if (found != nil) != conflict || conflict && !strings.Contains(found.Error(), "conflict") {
			t.Errorf("%s: %v", path, found)
		}
	}
}
