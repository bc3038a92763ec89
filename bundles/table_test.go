package bundles

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/table"
)

// someObject of random shape, with few keys, so that two of them meet.
func someObject(r *rand.Rand, depth int) map[string]any {
	object := map[string]any{}
	for range r.IntN(7) {
		key := string(rune('a' + r.IntN(6)))
		switch n := r.IntN(4); {
		case n == 0 || depth == 0:
			object[key] = json.Number(fmt.Sprint(r.IntN(10)))
		case n == 1:
			object[key] = []any{someObject(r, depth-1), "x"}
		default:
			object[key] = someObject(r, depth-1)
		}
	}
	return object
}

// TestMergeTables holds the merging of data with tables in it against the merging of maps.
func TestMergeTables(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 9))
	parsed := func(object map[string]any, large int) map[string]any {
		text, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		v, err := readDocument("x.json", text, 64, large, false)
		if err != nil {
			t.Fatal(err)
		}
		out, ok := root(v)
		if !ok {
			t.Fatalf("%s is no object", text)
		}
		return out
	}
	clashes, tables := 0, 0
	for range 1000 {
		a, b := someObject(r, 4), someObject(r, 4)
		before := fmt.Sprint(a, b)
		x, y := parsed(a, 1+r.IntN(4)), parsed(b, 1+r.IntN(4))
		if table.Holds(x) || table.Holds(y) {
			tables++
		}
		if got, want := Unpacked(overlay(x, y)), overlay(a, b); !reflect.DeepEqual(got, want) {
			t.Fatalf("%v over %v is %v, want %v", b, a, got, want)
		}
		want := clash(a, b, nil)
		if got := clash(x, y, nil); (got != nil) != (want != nil) {
			t.Fatalf("%v and %v clash at %v, want %v", a, b, got, want)
		} else if got != nil {
			clashes++
		}
		if got, want := outside([]string{"a/b", "c"}, x), outside([]string{"a/b", "c"}, a); (got == "") != (want == "") {
			t.Fatalf("%v: %q is outside, want %q", a, got, want)
		}
		if !reflect.DeepEqual(Unpacked(x), any(a)) || !reflect.DeepEqual(Unpacked(y), any(b)) || fmt.Sprint(a, b) != before {
			t.Fatal("what was merged has changed")
		}
	}
	if clashes < 100 || clashes > 900 || tables < 300 {
		t.Errorf("%d clash, %d have tables: the test has lost its meaning", clashes, tables)
	}
}

// directory is a data document with n users, in JSON or YAML.
func directory(n int, kind string) string {
	var text strings.Builder
	text.Grow(80 * n)
	if kind == "json" {
		text.WriteString("{\"senders\": {")
		for i := range n {
			if i > 0 {
				text.WriteByte(',')
			}
			fmt.Fprintf(&text, "\n  \"user%d@example.com\": [\"user%[1]d@example.com\", \"u%[1]d@example.org\", \"group:staff\"]", i)
		}
		text.WriteString("\n}}\n")
		return text.String()
	}
	text.WriteString("senders:\n")
	for i := range n {
		fmt.Fprintf(&text, "  user%d@example.com: [user%[1]d@example.com, u%[1]d@example.org, group:staff]\n", i)
	}
	return text.String()
}

// TestLargeDocuments: in each format, a document with many users becomes a table that replaces the bundle's empty object. Errors in it
// have their place, and tests of the bundle see it as OPA does.
func TestLargeDocuments(t *testing.T) {
	const n = 5000
	dir := tempDir(t, map[string]string{
		"p/a.rego": module, "p/data.yaml": "senders: {}\nsettings: {x: 1}\n", "p/a_test.rego": "package a_test\n\ntest_all if count(data.lots) == 1500\n",
		"p/lots/data.json": strings.Replace(strings.Replace(directory(1500, "json"), "{\"senders\": ", "", 1), "}}", "}", 1),
		"s.yaml":           directory(n, "yaml"), "s.json": directory(n, "json"), "more.yaml": "senders: {zoe: [z@example.com], user7@example.com: []}\n",
		"twice.json": strings.Replace(directory(n, "json"), "user4000@", "user30@", 1), "twice.yaml": strings.Replace(directory(n, "yaml"), "  user4000@", "  user30@", 1),
		"deep.json": strings.Replace(directory(n, "json"), "[\"user4000@example.com\"", "["+strings.Repeat("[", 64)+"1"+strings.Repeat("]", 64), 1),
	})
	at := func(name string) string { return filepath.Join(dir, name) }
	var all []any
	for _, name := range []string{"s.yaml", "s.json"} {
		c := mustLoad(t, Dir(at("p")), at(name), at("more.yaml"))
		senders, ok := c.Bundle.Data["senders"].(*table.Table)
		if _, lots := c.Own.Data["lots"].(*table.Table); !ok || !lots || senders.Len() != n+1 {
			t.Fatalf("%s: senders are %T, lots %T", name, c.Bundle.Data["senders"], c.Own.Data["lots"])
		}
		all = append(all, Unpacked(c.Bundle.Data))
		results, err := RunTests(context.Background(), c.Own)
		if err != nil || len(results) != 1 || !results[0].Passed {
			t.Errorf("%v %v", results, err)
		}
	}
	if !reflect.DeepEqual(all[0], all[1]) {
		t.Error("YAML and JSON differ")
	}
	for name, want := range map[string]string{
		"twice.json": `twice.json:4002:3: the key "user30@example.com" is there twice`, "twice.yaml": `twice.yaml:4002:3: the key "user30@example.com" is there twice`,
		"deep.json": "deep.json:4002:89: more than 64 levels deep",
	} {
		if _, err := Load(context.Background(), Dir(at("p")), at(name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}

// TestAliasedText: YAML aliases cannot make a small document large.
func TestAliasedText(t *testing.T) {
	var text strings.Builder
	fmt.Fprintf(&text, "a: &a %s\nb:\n", strings.Repeat("x", 1<<20))
	for i := range 2000 {
		fmt.Fprintf(&text, "  k%d: *a\n", i)
	}
	_, err := parseDocument("x.yaml", []byte(text.String()), 64, false)
	if err == nil || !strings.Contains(err.Error(), "the aliases expand to more than 16777216 bytes") {
		t.Errorf("got %v", err)
	}
}

// TestDirectorySize prints, with POSTERN_DIRECTORY=users[,yaml], what it takes to load that many users: docs/explanation/performance.md
// has the figures. Without, it holds a small directory to the bounds that are promised for a large one.
func TestDirectorySize(t *testing.T) {
	n, kind := 20_000, "json"
	if text := os.Getenv("POSTERN_DIRECTORY"); text != "" {
		if _, err := fmt.Sscanf(text, "%d,%s", &n, &kind); err != nil && n == 0 {
			t.Fatal(err)
		}
	}
	name := filepath.Join(t.TempDir(), "s."+kind)
	text := directory(n, kind)
	size := len(text)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	text = ""
	source := Dir(tempDir(t, map[string]string{"a.rego": module}))
	before, cpu := inUse(), cpuTime(t)
	start := time.Now()
	c := mustLoad(t, source, name)
	took, used := time.Since(start), cpuTime(t)-cpu
	kept := float64(inUse()-before) / float64(n)
	runtime.KeepAlive(c)
	t.Logf("%d users in %s, %d bytes: loaded in %v, %v of CPU; %.0f B a user are kept", n, kind, size, took, used, kept)
	if kept > 300 {
		t.Errorf("%.0f B a user are kept, 300 are promised", kept)
	}
}

func inUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
