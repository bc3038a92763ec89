package engine

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
)

// TestCodesDocumented holds docs/reference/check.md against Rules: a section for each code, nothing else, and examples that do what
// they say.
func TestCodesDocumented(t *testing.T) {
	raw, err := os.ReadFile("../docs/reference/check.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, section := range strings.Split(string(raw), "\n### ")[1:] {
		title, body, _ := strings.Cut(section, "\n")
		body, _, _ = strings.Cut(body, "\n## ")
		sections[strings.Trim(title, "`")] = body
	}
	for _, r := range contract.Rules() {
		body, ok := sections[r.Code]
		if !ok {
			t.Errorf("docs/reference/check.md has no section for %s", r.Code)
			continue
		}
		delete(sections, r.Code)
		start := map[contract.Severity]string{contract.Fault: "\nError.", contract.Warning: "\nWarning."}[r.Severity]
		if r.Ignorable {
			start += " Can be ignored."
		}
		if !strings.HasPrefix(body, start) || !r.Ignorable && strings.HasPrefix(body, start+" Can be") {
			t.Errorf("%s: the section does not begin with %q", r.Code, start)
		}
		for i, example := range regexp.MustCompile("(?s)```rego\n(.*?)```").FindAllStringSubmatch(body, -1) {
			found := Check(context.Background(), moduleBundle(nil, "p.rego", example[1]), Options{Timeout: 5 * time.Second})
			has := slices.ContainsFunc(found, func(f contract.Finding) bool { return f.Code == r.Code })
			if mended := i > 0; has == mended {
				t.Errorf("%s, example %d: %v", r.Code, i+1, found)
			}
			if i > 0 && contract.Faults(slices.DeleteFunc(found, func(f contract.Finding) bool { return f.Code == contract.CodeMissingData })) != nil {
				t.Errorf("%s, mended: %v", r.Code, found)
			}
		}
	}
	for code := range sections {
		t.Errorf("docs/reference/check.md has a section for %s, which does not exist", code)
	}
}

// TestCodesAreRules: no finding is made with a code that is not in Rules, and no rule is without a finding.
func TestCodesAreRules(t *testing.T) {
	var source strings.Builder
	var files []string
	for _, room := range []string{"*.go", "contract/*.go", "lint/*.go"} {
		found, err := filepath.Glob(room)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.go") {
			raw, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(raw)
		}
	}
	constant := regexp.MustCompile(`^(contract\.Code[A-Z]\w*|e\.Code|code)$`) // the last: a contract.Finding made of a code that at was given
	for _, m := range regexp.MustCompile(`(?:\b(?:s|src|tests|s\.src)\.at\(|contract.Finding\{[^}]*Code: )([^,}]+)`).FindAllStringSubmatch(source.String(), -1) {
		if !constant.MatchString(m[1]) {
			t.Errorf("a finding is made with the code %s, which is not one of the constants", m[1])
		}
	}
	var codes []string
	for _, m := range regexp.MustCompile(`(?m)^\tCode[A-Z]\w*\s+= "([a-z-]+)"$`).FindAllStringSubmatch(source.String(), -1) {
		codes = append(codes, m[1])
	}
	codes = append(codes, ast.ParseErr, ast.CompileErr, ast.TypeErr, ast.UnsafeVarErr, ast.RecursionErr)
	slices.Sort(codes)
	var rules []string
	for _, r := range contract.Rules() {
		rules = append(rules, r.Code)
	}
	if !slices.Equal(codes, rules) {
		t.Errorf("constants %q, rules %q", codes, rules)
	}
}
