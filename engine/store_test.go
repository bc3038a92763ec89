package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/postern-mail/postern/internal/table"
)

// someKeys are what keys of random documents are made of: few, so that paths meet, and odd ones.
func someKeys() []string {
	return []string{"a", "b", "c", "d", "0", "1", "-1", "01", "", "a/b", "a.b", "ü", "\"", "alice@example.com"}
}

// document of random shape. Lists hold objects, objects lists.
func document(r *rand.Rand, depth int) any {
	keys := someKeys()
	switch n := r.IntN(10); {
	case depth == 0 || n < 3:
		return []any{nil, true, false, json.Number("1"), json.Number("-2.5"), json.Number("1e3"), "x", "", "a\x00\"b\\"}[r.IntN(9)]
	case n < 5:
		list := make([]any, r.IntN(4))
		for i := range list {
			list[i] = document(r, depth-1)
		}
		return list
	}
	object := map[string]any{}
	for range r.IntN(8) {
		object[keys[r.IntN(len(keys))]] = document(r, depth-1)
	}
	return object
}

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

// ask a store a query.
func ask(s storage.Store, query string) (answer any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = recovered(r)
		}
	}()
	rs, err := rego.New(rego.Query(query), rego.Store(s), rego.StrictBuiltinErrors(true), rego.Input(map[string]any{"a": "a"})).Eval(context.Background())
	if err != nil {
		return nil, err
	}
	var out []any
	for _, r := range rs {
		out = append(out, r.Expressions[0].Value, r.Bindings)
	}
	return out, nil
}

// TestStoreAsOPADoes holds the store against OPA's own over random documents and queries: the answer is the same, or an
// error, and that only where a packed object would be read whole.
func TestStoreAsOPADoes(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 7))
	same, errs := 0, 0
	for range 200 {
		data := map[string]any{}
		for _, key := range someKeys()[:4] {
			data[key] = document(r, 4)
		}
		theirs := inmem.NewFromObjectWithOpts(data, inmem.OptRoundTripOnWrite(false))
		ours := newStore(packedData(t, data, 2+r.IntN(4)))
		for range 25 {
			query, path, whole := randomQuery(r)
			want, wantErr := ask(theirs, query)
			got, err := ask(ours, query)
			switch {
			case err != nil && (strings.Contains(err.Error(), notWhole) || strings.Contains(err.Error(), "unread requires evaluation")):
				errs++
				if !whole && ours.packedAt(wholeRead{path: path, below: true}) == nil {
					t.Fatalf("%s over %v: %v, and nothing is read whole", query, data, err)
				}
			case fmt.Sprint(err) != fmt.Sprint(wantErr) || !reflect.DeepEqual(got, want):
				t.Fatalf("%s over %v:\n%v %v, OPA says\n%v %v", query, data, got, err, want, wantErr)
			default:
				same++
			}
		}
	}
	if same < 2000 || errs < 300 {
		t.Errorf("%d answers were the same and %d errors: the test has lost its meaning", same, errs)
	}
}

// randomQuery, the path that it reads, and whether it reads all that is there rather than what lies at the path.
func randomQuery(r *rand.Rand) (query string, path []pathKey, whole bool) {
	ref := "data"
	keys := someKeys()
	for range r.IntN(5) {
		key := keys[r.IntN(len(keys))]
		path = append(path, pathKey{name: key})
		ref += fmt.Sprintf("[%s]", ast.String(key))
	}
	with := fmt.Sprintf("x := data.a.b with data.a.b as %s with data.b as {}", ast.String(keys[0]))
	shapes := []struct {
		text  string
		whole bool
	}{
		{"x := " + ref, false}, {"x := " + ref, false}, {"x := " + ref, false}, {"x := " + ref + "[input.a]", false},
		{"k := input.a; x := data[k][k][input.a]", false}, {"x := " + ref + "[0]", false}, {"not " + ref, false},
		{"x := is_string(" + ref + ")", false}, {"x := [1 | " + ref + "]", false},
		{"x := object.get(" + ref + `, input.a, "none")`, false}, {"some k; x := " + ref + "[k]", true}, {"some k, v in " + ref, true},
		{"x := count(" + ref + ")", false}, {"x := input.a in " + ref, true}, {"walk(" + ref + ", [p, x])", true},
		{"every v in " + ref + " { v != 7 }", true}, {"x := {k | " + ref + "[k][_]}", true}, {with, true},
		{"x := " + ref + " with data.a as {\"a\": [1]}", true}, {"x := " + ref + " with data.a.a as 7", true},
	}
	shape := shapes[r.IntN(len(shapes))]
	if strings.HasPrefix(shape.text, "k :=") {
		path = []pathKey{{name: "a"}, {name: "a"}, {name: "a"}}
	}
	return shape.text, path, shape.whole
}

// FuzzStore reads one path of one document through both stores.
func FuzzStore(f *testing.F) {
	for _, text := range []string{
		`{"senders": {"alice": ["alice@example.com", {"address": "b", "until": "2026-01-01"}], "bob": [], "": null}}`,
		`{"a": {"b": {"c": {"d": 1, "e": 2}, "f": "g"}, "h": [[1], {"i": 2}]}}`, `{"a": {"b": 1.50, "c": 1e400, "d": -0, "é": "\u0000\ud800"}}`,
	} {
		f.Add(text, "senders/alice/1/address")
		f.Add(text, "a/b/c")
	}
	f.Fuzz(func(t *testing.T, text, at string) {
		var data map[string]any
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if len(text) > 4096 || d.Decode(&data) != nil {
			return
		}
		path := storage.Path(strings.Split(at, "/"))
		theirs := inmem.NewFromObjectWithOpts(data, inmem.OptRoundTripOnWrite(false))
		txn := storage.NewTransactionOrDie(context.Background(), theirs)
		want, wantErr := theirs.Read(context.Background(), txn, path)
		got, err := newStore(packedData(t, data, 2)).Read(context.Background(), nil, path)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%v %v, OPA says %v %v", got, err, want, wantErr)
		}
		if u, ok := got.(*unread); ok {
			if object, ok := want.(map[string]any); !ok || len(object) != u.Len() {
				t.Fatalf("an unread of %d, OPA says %v", u.Len(), want)
			}
			return
		}
		if err == nil && ast.MustInterfaceToValue(want).Compare(got.(ast.Value)) != 0 {
			t.Fatalf("%v, OPA says %v", got, want)
		}
	})
}

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
		p, _, findings := build(moduleBundle(large, "p.rego", module), Options{Timeout: 5 * time.Second})
		refused, may := 0, 0
		for _, f := range findings {
			switch f.Code {
			case codeLargeTable:
				refused++
				if f.Line < 8 || f.Column < 2 || f.Text == "" || !strings.Contains(f.Message, "has 2001 entries") || !strings.Contains(f.Hint, "senders[key]") {
					t.Errorf("%s: %+v", expression, f)
				}
			case codeTable:
				may++
			case codeNeedsFact:
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
	if w := p.Warnings(); len(w) != 1 || w[0].Code != codeTable || w[0].Line != 3 || !strings.Contains(w[0].Message, "1000 entries") {
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
		found := faults(Check(context.Background(), b, Options{Timeout: 5 * time.Second}))
		if (found != nil) != conflict || conflict && !strings.Contains(found.Error(), "conflict") {
			t.Errorf("%s: %v", path, found)
		}
	}
}

// TestEntryThatIsNoValue: beside a packed object may lie what cannot be made a value. To look it up fails; were it undefined, a
// refusal that hangs on it would not come.
func TestEntryThatIsNoValue(t *testing.T) {
	users := map[string]any{}
	for i := range table.Large {
		users[fmt.Sprint("user", i)] = "x"
	}
	p := &unread{node: newStore(map[string]any{"d": map[string]any{"users": users, "bad": func() {}}}).root}
	d := p.Get(ast.StringTerm("d")).Value.(*unread)
	if got := d.Get(ast.StringTerm("nobody")); got != nil {
		t.Errorf("what is not there: %v", got)
	}
	defer func() {
		if err, ok := recover().(*storage.Error); !ok || !strings.Contains(err.Error(), "data.d.bad") {
			t.Errorf("it ended with %v", err)
		}
	}()
	t.Errorf("what is no value: %v", d.Get(ast.StringTerm("bad")))
}
