package bundles

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/postern-mail/postern/internal/testenv"
)

// stock runs `opa test` as a user of OPA does, and returns what it prints on standard output.
func stock(t *testing.T, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", append([]string{"tool", "opa", "test"}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatalf("opa test %q printed nothing: %v\n%s", args, err, errs.String())
	}
	return out
}

// verdicts are package.name to pass, fail, error or skip; cases of a test have lines of their own.
type verdicts map[string]string

func stockVerdicts(t *testing.T, args ...string) verdicts {
	t.Helper()
	type sub struct {
		Fail       bool           `json:"fail"`
		SubResults map[string]any `json:"sub_results"`
	}
	var list []struct {
		Package, Name string
		Fail, Skip    bool
		Error         json.RawMessage
		SubResults    map[string]sub `json:"sub_results"`
	}
	if err := json.Unmarshal(stock(t, append([]string{"--format", "json"}, args...)...), &list); err != nil {
		t.Fatal(err)
	}
	got := verdicts{}
	for _, r := range list {
		name := r.Package + "." + r.Name
		switch {
		case r.Skip:
			got[name] = "skip"
		case r.Error != nil:
			got[name] = "error"
		case r.Fail:
			got[name] = "fail"
		default:
			got[name] = "pass"
		}
		for c, s := range r.SubResults {
			got[name+"/"+c] = map[bool]string{true: "fail", false: "pass"}[s.Fail]
		}
	}
	return got
}

func ourVerdicts(results []TestResult) verdicts {
	got := verdicts{}
	for _, r := range results {
		name := r.Package + "." + r.Name
		switch {
		case r.Skipped:
			got[name] = "skip"
		case r.Err != nil:
			got[name] = "error"
		case r.Passed:
			got[name] = "pass"
		default:
			got[name] = "fail"
		}
		for _, c := range r.Cases {
			got[name+"/"+c.Name] = map[bool]string{false: "fail", true: "pass"}[c.Passed]
		}
	}
	return got
}

const everyVerdict = `package postern.every_test

test_passes if 1 == 1

test_fails if {
	x := 1
	y := x + 1
	x == y
}

test_false := false

test_undefined if input.nothing

test_conflicts if _f(1) == 1

_f(x) := 1 if x > 0

_f(x) := 2 if x > 0

test_builtin_error_is_undefined if to_number("x") == 1

test_not_builtin_error if not to_number("x") == 1

test_runtime if opa.runtime().version != ""

test_time if time.now_ns() > 0

todo_test_later if false

test_same if true

test_same if false

test_cases[name] if {
	some name, c in {"one": {"a": 1, "b": 1}, "two": {"a": 1, "b": 2}}
	c.a == c.b
}

test_good_cases[name] if some name in ["one", "two"]

nested.test_ref if true

nested.test_bad if false

not_a_test if false

test_data if data.limits.recipients == 3

test_more_data if data.senders.alice == ["alice@example.com"]

test_mocked if data.limits.recipients == 5 with data.limits as {"recipients": 5}
`

// TestStockVerdicts: test by test, our verdicts are those of stock `opa test`.
func TestStockVerdicts(t *testing.T) {
	testenv.NotShort(t, "stock OPA and several seconds")
	dir := tempDir(t, map[string]string{
		"every/postern/mail/mail.rego":        module,
		"every/postern/every/every_test.rego": everyVerdict,
		"every/limits/data.json":              `{"recipients": 3}`,
		"senders.yaml":                        "senders:\n  alice: [alice@example.com]\n",
	})
	every, extra := filepath.Join(dir, "every"), filepath.Join(dir, "senders.yaml")
	for name, c := range map[string]struct {
		bundle string
		data   []string
		stock  []string
		filter string
		least  map[string]int
	}{
		"every verdict":      {every, []string{extra}, []string{every, extra}, "", map[string]int{"pass": 9, "fail": 6, "error": 1, "skip": 1}},
		"without the data":   {every, nil, []string{every}, "", map[string]int{"pass": 8, "fail": 7, "error": 1, "skip": 1}},
		"filtered":           {every, nil, []string{every, "--run", "nested|cases|later"}, "nested|cases|later", map[string]int{"pass": 4, "fail": 3, "skip": 1}},
		"filtered to a name": {every, nil, []string{every, "--run", `^data\.postern\.every_test\.test_fails$`}, `^data\.postern\.every_test\.test_fails$`, map[string]int{"fail": 1}},
		"default bundle":     {"../policies", nil, []string{"-b", "../policies"}, "", map[string]int{"pass": 60}},
	} {
		t.Run(name, func(t *testing.T) {
			b := mustLoad(t, Dir(c.bundle), c.data...).Bundle
			tests := &Tests{Bundle: b, Timeout: time.Minute, Explain: true}
			if c.filter != "" {
				tests.Filter = regexp.MustCompile(c.filter)
			}
			called := 0
			tests.Each = func(TestResult) { called++ }
			results, err := tests.Run(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			want, got := stockVerdicts(t, append(c.stock, "--timeout", "1m")...), ourVerdicts(results)
			count := map[string]int{}
			for name, verdict := range want {
				count[verdict]++
				if got[name] != verdict {
					t.Errorf("%s: %q, stock says %q", name, got[name], verdict)
				}
			}
			for name := range got {
				if want[name] == "" {
					t.Errorf("%s: stock does not know it", name)
				}
			}
			for verdict, n := range c.least {
				if count[verdict] < n {
					t.Errorf("only %d × %s: %v", count[verdict], verdict, slices.Sorted(maps.Keys(want)))
				}
			}
			if called != len(results) || tests.Count() != len(results) {
				t.Errorf("%d results, %d calls, counted %d", len(results), called, tests.Count())
			}
		})
	}
}

// TestStopped: a failed test names the expression and what its variables were.
func TestStopped(t *testing.T) {
	b := mustLoad(t, Dir(tempDir(t, map[string]string{"a.rego": module, "b_test.rego": everyVerdict}))).Bundle
	results, err := (&Tests{Bundle: b, Explain: true}).Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, r := range results {
		switch r.Name {
		case "test_fails":
			found++
			if p := r.Stopped; p == nil || p.File != "b_test.rego" || p.Line != 8 || p.Column != 2 || p.Text != "x == y" || !strings.Contains(p.Detail, "2") {
				t.Errorf("%+v", p)
			}
		case "test_cases":
			for _, c := range r.Cases {
				if found++; c.Passed != (c.Stopped == nil) || c.Stopped != nil && c.Stopped.Text != "c.a == c.b" {
					t.Errorf("%s: %+v", c.Name, c.Stopped)
				}
			}
		case "test_passes", "test_conflicts":
			if r.Stopped != nil {
				t.Errorf("%s: %+v", r.Name, r.Stopped)
			}
		}
	}
	if found != 3 {
		t.Errorf("found %d of 3", found)
	}
}

// TestStockCoverage: of every file that is no test, stock says the same.
func TestStockCoverage(t *testing.T) {
	testenv.NotShort(t, "stock OPA and several seconds")
	dir := tempDir(t, map[string]string{"postern/mail/mail.rego": "package postern.mail\n\nreject contains \"a\" if {\n\tinput.id == \"1\"\n\tinput.now > 1\n}\n\nreject contains \"b\" if input.id == \"2\"\n",
		"postern/mail/mail_test.rego": "package postern.mail_test\n\nimport data.postern.mail\n\ntest_none if count(mail.reject) == 0 with input as {\"id\": \"1\", \"now\": 0}\n"})
	for _, bundle := range []string{dir, "../policies"} {
		b := mustLoad(t, Dir(bundle)).Bundle
		c := NewCoverage()
		if _, err := (&Tests{Bundle: b, Coverage: c, Timeout: time.Minute}).Run(context.Background()); err != nil {
			t.Fatal(err)
		}
		got := c.Report(b)
		var want CoverageReport
		if err := json.Unmarshal(stock(t, "--coverage", "--coverage-runs", "", "--timeout", "1m", bundle), &want); err != nil {
			t.Fatal(err)
		}
		compared := 0
		for name, w := range want.Files {
			rel, err := filepath.Rel(bundle, name)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(rel, "_test.rego") {
				continue
			}
			compared++
			ours, err := json.Marshal(got.Files[rel])
			if err != nil {
				t.Fatal(err)
			}
			if theirs, _ := json.Marshal(w); !bytes.Equal(ours, theirs) {
				t.Errorf("%s: %s\nstock: %s", rel, ours, theirs)
			}
		}
		if compared == 0 || compared != len(got.Files) {
			t.Errorf("%s: %d files compared, %d reported", bundle, compared, len(got.Files))
		}
	}
}

func TestUncovered(t *testing.T) {
	at := func(from, to int) cover.Range {
		return cover.Range{Start: cover.Position{Row: from}, End: cover.Position{Row: to}}
	}
	for want, ranges := range map[string][]cover.Range{
		"[]":            nil,
		"[{3 3}]":       {at(3, 3), at(3, 3)},
		"[{1 5} {8 9}]": {at(8, 9), at(1, 4), at(3, 5)},
		"[{1 2} {4 4}]": {at(4, 4), at(2, 2), at(1, 1)},
	} {
		if got := fmt.Sprint(Uncovered(&cover.FileReport{NotCovered: ranges})); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
