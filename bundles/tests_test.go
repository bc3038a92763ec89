package bundles

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

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
