package bundles

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"
)

func TestLastGood(t *testing.T) {
	dir := tempDir(t, map[string]string{"b/a.rego": module, "b/.manifest": `{"revision": "r7", "roots": ["postern"]}`, "s.yaml": "senders: {a: [1, 2.5, 1e400]}\n"})
	c := mustLoad(t, Dir(filepath.Join(dir, "b")))
	state := filepath.Join(dir, "state", "policy")
	if _, err := LoadLastGood(context.Background(), state); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a copy: %v", err)
	}
	write(t, dir, map[string]string{"s.yaml": "senders: {a: [1, 2.5]}\n"})
	c = mustLoad(t, Dir(filepath.Join(dir, "b")), filepath.Join(dir, "s.yaml"))
	for range 2 { // over an older copy too
		if err := SaveLastGood(state, c); err != nil {
			t.Fatal(err)
		}
	}
	got, err := LoadLastGood(context.Background(), state)
	if err != nil {
		t.Fatal(err)
	}
	if got.Revision != c.Revision || got.ModulesHash != c.ModulesHash || !reflect.DeepEqual(got.Bundle.Data, c.Bundle.Data) {
		t.Errorf("got %s %v, want %s %v", got.Revision, got.Bundle.Data, c.Revision, c.Bundle.Data)
	}
	if c.Bundle.Manifest.Revision != "r7" || !reflect.DeepEqual(*c.Bundle.Manifest.Roots, []string{"postern"}) {
		t.Errorf("saving changed the candidate: %v", c.Bundle.Manifest)
	}
	name := filepath.Join(state, lastGood)
	info, err := os.Stat(name)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(state); len(entries) != 1 {
		t.Errorf("leftovers: %v", entries)
	}
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := bundle.NewReader(bytes.NewReader(content)).Read(); err != nil || b.Manifest.Revision != c.Revision {
		t.Errorf("stock OPA cannot read it: %v", err)
	}
	for _, cut := range []int{0, 10, len(content) / 2, len(content) - 4} {
		if err := os.WriteFile(name, content[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadLastGood(context.Background(), state); err == nil {
			t.Errorf("cut to %d octets it was loaded", cut)
		}
	}
}

func TestLastGoodFails(t *testing.T) {
	dir := tempDir(t, map[string]string{"file": "", "b/a.rego": module})
	if err := SaveLastGood(filepath.Join(dir, "file"), mustLoad(t, Dir(filepath.Join(dir, "b")))); err == nil || !strings.Contains(err.Error(), "last good") {
		t.Errorf("got %v", err)
	}
}

func TestRunTests(t *testing.T) {
	c := mustLoad(t, Dir(tempDir(t, map[string]string{
		"a.rego": "package a\n\nallowed contains x if some x in data.senders[input.user]\n",
		"a_test.rego": `package a_test

import data.a

test_passes if "x" in a.allowed with input as {"user": "alice"}

test_replaces_data if "y" in a.allowed with input as {"user": "u"} with data.senders as {"u": ["y"]}

test_fails if { print("seen"); a.allowed == {"z"} with input as {"user": "alice"} }

todo_test_later if false

test_conflicts if { f(1) == 1 }
f(x) := 1 if x > 0
f(x) := 2 if x > 0
`, "data.json": `{"senders": {"alice": ["x"]}}`})))
	results, err := RunTests(context.Background(), c.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range results {
		got = append(got, r.String())
		if r.Name == "test_fails" && !strings.Contains(r.Output, "seen") {
			t.Errorf("output %q", r.Output)
		}
	}
	want := []string{"a_test.rego:5: data.a_test.test_passes passed", "a_test.rego:7: data.a_test.test_replaces_data passed",
		"a_test.rego:9: data.a_test.test_fails failed", "a_test.rego:11: data.a_test.todo_test_later skipped"}
	if len(got) != 5 || !reflect.DeepEqual(got[:4], want) || !strings.Contains(got[4], "eval_conflict_error") {
		t.Errorf("got\n%s\nwant\n%s\nand a conflict", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRunTestsErrors(t *testing.T) {
	c := mustLoad(t, Dir(tempDir(t, map[string]string{"a.rego": "package a\n\nx := y\n"})))
	if _, err := RunTests(context.Background(), c.Bundle); err == nil || !strings.Contains(err.Error(), "a.rego:3") {
		t.Errorf("got %v", err)
	}
	c = mustLoad(t, Dir(tempDir(t, map[string]string{"a.rego": "package a\n\ntest_long if count([1 | some x in numbers.range(1, 100000); some y in numbers.range(1, 100000); x == y]) == 0\n"})))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if results, err := RunTests(ctx, c.Bundle); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v %v", results, err)
	}
}
