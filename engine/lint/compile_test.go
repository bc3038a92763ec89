package lint

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/postern-mail/postern/engine/contract"
)

// mailFiles are modules of package postern.mail, a.rego, b.rego and so on, below one comment line each.
func mailFiles(t *testing.T, bodies ...string) *bundle.Bundle {
	t.Helper()
	b := &bundle.Bundle{Data: map[string]any{"senders": map[string]any{"alice": []any{"alice@example.com"}}, "other": map[string]any{"a": "b"}}}
	for i, body := range bodies {
		name := string(rune('a'+i)) + ".rego"
		raw := []byte("# the file " + name + "\npackage postern.mail\n\n" + body)
		m, err := ast.ParseModuleWithOpts(name, string(raw), ast.ParserOptions{ProcessAnnotation: true, RegoVersion: ast.RegoV1})
		if err != nil {
			t.Fatal(err)
		}
		b.Modules = append(b.Modules, bundle.ModuleFile{Path: name, Raw: raw, Parsed: m})
	}
	return b
}

const (
	usesSenders = "import data.senders\n\nnote contains \"s\" if senders[input.auth.login]\n"
	plainRule   = "note contains \"p\" if input.auth.login == \"p\"\n"
)

// TestMergedModules: modules are joined where nothing can be told apart by it, and only there.
func TestMergedModules(t *testing.T) {
	for name, c := range map[string]struct {
		bodies []string
		want   string // the files that the compiler gets
	}{
		"alike":               {[]string{plainRule, plainRule, plainRule}, "a.rego"},
		"imports alike":       {[]string{usesSenders, usesSenders}, "a.rego"},
		"other imports":       {[]string{plainRule, usesSenders, usesSenders, plainRule}, "a.rego b.rego d.rego"},
		"unused":              {[]string{usesSenders, "import data.senders\n\n" + plainRule}, "a.rego b.rego"},
		"used by a variable":  {[]string{usesSenders, "import data.senders\n\nnote contains \"v\" if {\n\tx := senders\n\tx.alice\n}\n"}, "a.rego b.rego"},
		"hidden by argument":  {[]string{usesSenders, "import data.senders\n\n_f(senders) if senders.alice\n"}, "a.rego b.rego"},
		"hidden by some":      {[]string{usesSenders, "import data.senders\n\nnote contains \"h\" if {\n\tsome senders in [{\"alice\": 1}]\n\tsenders.alice\n}\n"}, "a.rego b.rego"},
		"imported twice":      {[]string{usesSenders, "import data.senders\nimport data.other as senders\n\nnote contains \"t\" if senders.a\n"}, "a.rego b.rego"},
		"of a keyword import": {[]string{"import rego.v1\n\n" + plainRule, "import rego.v1\n\n" + plainRule}, "a.rego"},
	} {
		t.Run(name, func(t *testing.T) {
			s, found := parse(mailFiles(t, c.bodies...), contract.Capabilities(nil))
			if len(found) > 0 {
				t.Fatal(found)
			}
			modules, _ := s.mergedModules()
			var names []string
			rules := 0
			for name, m := range modules {
				names = append(names, name)
				rules += len(m.Rules)
			}
			slices.Sort(names)
			if got := strings.Join(names, " "); got != c.want || rules != len(c.bodies) {
				t.Errorf("the compiler gets %s with %d rules, want %s with %d", got, rules, c.want, len(c.bodies))
			}
			for name, m := range s.modules {
				if len(m.Rules) != 1 || m.Package.Location.File != name {
					t.Errorf("%s itself has changed", name)
				}
			}
		})
	}
}

// TestMergedModulesAnnotations: annotations of rules come along, and those of a package keep its file apart.
func TestMergedModulesAnnotations(t *testing.T) {
	ofRule := "# METADATA\n# title: %s\n" + plainRule
	b := mailFiles(t, fmt.Sprintf(ofRule, "first"), fmt.Sprintf(ofRule, "second"))
	s, _ := parse(b, contract.Capabilities(nil))
	modules, ok := s.mergedModules()
	if !ok || len(modules["a.rego"].Annotations) != 2 {
		t.Errorf("joined: %v, with %v", ok, modules["a.rego"].Annotations)
	}
	raw := "# METADATA\n# title: all of it\npackage postern.mail\n\n" + plainRule
	m, err := ast.ParseModuleWithOpts("b.rego", raw, ast.ParserOptions{ProcessAnnotation: true, RegoVersion: ast.RegoV1})
	if err != nil {
		t.Fatal(err)
	}
	b.Modules[1].Raw, b.Modules[1].Parsed = []byte(raw), m
	s, _ = parse(b, contract.Capabilities(nil))
	if modules, ok := s.mergedModules(); ok || len(modules) != 2 {
		t.Errorf("a file with the package's annotations was joined: %v", modules)
	}
}

// TestMergedModulesFindings: what is wrong in one of many files that are alike is said of its file, line and column, the same as of
// the file alone.
func TestMergedModulesFindings(t *testing.T) {
	for name, bad := range map[string]string{
		"type":            "note contains \"x\" if count(1) == 1\n",
		"unsafe":          "note contains y if input.auth.login == \"x\"\n",
		"unused variable": "note contains \"x\" if {\n\ty := 1\n\tinput.auth.login\n}\n",
		"unused import":   "import data.other\n\nnote contains \"x\" if input.auth.login\n",
		"denied builtin":  "note contains \"x\" if http.send({}).status_code == 200\n",
		"unknown fact":    "note contains \"x\" if input.auth.logim\n",
		"missing rule":    "note contains \"x\" if data.postern.lib.nothing\n",
		"recursion":       "_a if _b\n\n_b if _a\n\nnote contains \"x\" if _a\n",
	} {
		t.Run(name, func(t *testing.T) {
			alone := check(mailFiles(t, bad))
			many := check(mailFiles(t, plainRule, plainRule, bad, plainRule))
			if len(alone) == 0 || len(many) != len(alone) {
				t.Fatalf("of the file alone %v, of many %v", alone, many)
			}
			for i, f := range many {
				if f.File = strings.Replace(f.File, "c.rego", "a.rego", 1); fmt.Sprint(f) != fmt.Sprint(alone[i]) {
					t.Errorf("of the file alone\n%v\nof many\n%v", alone[i], many[i])
				}
			}
		})
	}
}

// check returns the sorted findings of a bundle.
func check(b *bundle.Bundle) []contract.Finding {
	_, findings := Check(b, Options{})
	return contract.Sort(findings)
}
