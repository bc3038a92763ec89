package data

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/postern-mail/postern/internal/table"
	"github.com/postern-mail/postern/internal/testenv"
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
			var refused *storage.Error
			if refused, _ = r.(*storage.Error); refused == nil {
				panic(r)
			}
			err = refused
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
	testenv.NotShort(t, "several seconds")
	r := rand.New(rand.NewPCG(4, 7))
	same, errs := 0, 0
	for range 200 {
		data := map[string]any{}
		for _, key := range someKeys()[:4] {
			data[key] = document(r, 4)
		}
		theirs := inmem.NewFromObjectWithOpts(data, inmem.OptRoundTripOnWrite(false))
		ours := New(packedData(t, data, 2+r.IntN(4)))
		for range 25 {
			query, path, whole := randomQuery(r)
			want, wantErr := ask(theirs, query)
			got, err := ask(ours, query)
			switch {
			case err != nil && (strings.Contains(err.Error(), notWhole) || strings.Contains(err.Error(), "lazyobject requires evaluation")):
				errs++
				if !whole && !slices.ContainsFunc(ours.Packed(), func(at []string) bool { return len(at) >= len(path) && slices.Equal(at[:len(path)], path) }) {
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
func randomQuery(r *rand.Rand) (query string, path []string, whole bool) {
	ref := "data"
	keys := someKeys()
	for range r.IntN(5) {
		key := keys[r.IntN(len(keys))]
		path = append(path, key)
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
		path = []string{"a", "a", "a"}
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
		got, err := New(packedData(t, data, 2)).Read(context.Background(), nil, path)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%v %v, OPA says %v %v", got, err, want, wantErr)
		}
		if u, ok := got.(*LazyObject); ok {
			if object, ok := want.(map[string]any); !ok || len(object) != u.Len() {
				t.Fatalf("a LazyObject of %d, OPA says %v", u.Len(), want)
			}
			return
		}
		if err == nil && ast.MustInterfaceToValue(want).Compare(got.(ast.Value)) != 0 {
			t.Fatalf("%v, OPA says %v", got, want)
		}
	})
}

// TestEntryThatIsNoValue: beside a packed object may lie what cannot be made a value. To look it up fails; were it undefined, a
// refusal that hangs on it would not come.
func TestEntryThatIsNoValue(t *testing.T) {
	users := map[string]any{}
	for i := range table.Large {
		users[fmt.Sprint("user", i)] = "x"
	}
	root, err := New(map[string]any{"d": map[string]any{"users": users, "bad": func() {}}}).Read(context.Background(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := root.(*LazyObject).Get(ast.StringTerm("d")).Value.(*LazyObject)
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
