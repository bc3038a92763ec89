package bundles

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestTestParts: in parts of any size the results are the same as in one run, with helpers that several files share.
func TestTestParts(t *testing.T) {
	files := map[string]string{
		"a.rego":         "package a\n\nallowed contains x if some x in data.users\n\nlimit := 3\n",
		"help_test.rego": "package help_test\n\nusers := [\"x\", \"y\"]\n\ntest_help if count(users) == 2\n",
		"data.json":      `{"users": ["x"]}`,
	}
	for i := range 7 {
		files[fmt.Sprintf("t%d_test.rego", i)] = fmt.Sprintf("package a_test\n\nimport data.a\nimport data.help_test\n\n"+
			"# METADATA\n# title: one\ntest_a%[1]d if count(a.allowed) == 2 with data.users as help_test.users\n\n"+
			"test_b%[1]d if a.limit == %[1]d\n\ntodo_test_c%[1]d if false\n", i)
	}
	c := mustLoad(t, Dir(tempDir(t, files)))
	whole, err := RunTests(context.Background(), c.Bundle)
	if err != nil || len(whole) != 22 {
		t.Fatal(len(whole), err)
	}
	for most, want := range map[int]int{1: 22, 100: 1, 15: 5} {
		parts := testParts(c.Bundle, most)
		var together []TestResult
		for _, p := range parts {
			results, err := RunTests(context.Background(), p)
			if err != nil {
				t.Fatal(err)
			}
			together = append(together, results...)
		}
		text := func(list []TestResult) string {
			var lines []string
			for _, r := range slices.SortedFunc(slices.Values(list), func(a, b TestResult) int { return cmp.Compare(a.String(), b.String()) }) {
				lines = append(lines, r.String())
			}
			return strings.Join(lines, "\n")
		}
		if text(together) != text(whole) {
			t.Errorf("%d parts: got\n%s\nwant\n%s", len(parts), text(together), text(whole))
		}
		if len(parts) != want {
			t.Errorf("%d: %d parts, want %d", most, len(parts), want)
		}
	}
	if parts := TestParts(c.Bundle); len(parts) != 1 || parts[0] != c.Bundle {
		t.Error("a small bundle was split")
	}
	if parts := TestParts(mustLoad(t, Dir(tempDir(t, map[string]string{"a.rego": "package a\n\nx := 1\n"}))).Bundle); len(parts) != 0 {
		t.Error("no tests, and something to run")
	}
}
