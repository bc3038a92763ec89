package policies_test

import (
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
)

// TestCookbook runs every recipe of docs/how-to/cookbook.md as a reader would, with its files added to the default bundle.
func TestCookbook(t *testing.T) {
	recipes := cookbook(t)
	if len(recipes) < 20 {
		t.Fatalf("docs/how-to/cookbook.md has %d recipes", len(recipes))
	}
	for title, files := range recipes {
		t.Run(title, func(t *testing.T) {
			bundle := map[string][]byte{}
			for name, text := range embedded(t) {
				if !strings.HasSuffix(name, "_test.rego") {
					bundle[name] = text
				}
			}
			for name, text := range files {
				formatted, err := format.SourceWithOpts(name, text, format.Opts{RegoVersion: ast.RegoV1})
				if err != nil {
					t.Fatal(err)
				}
				if string(formatted) != string(text) {
					t.Errorf("%s is not as `opa fmt` writes it:\n%s", name, formatted)
				}
				if bundle[name] != nil {
					t.Errorf("%s has the name of a file of the default bundle", name)
				}
			}
			maps.Copy(bundle, files)
			compiler := ast.NewCompiler().WithStrict(true)
			if compiler.Compile(parse(t, bundle)); compiler.Failed() {
				t.Fatal(compiler.Errors)
			}
			if run(t, parse(t, bundle), data(), nil, "") == 0 {
				t.Error("no test ran")
			}
		})
	}
}

// cookbook returns the files of each recipe, by the title of the recipe and then by name in the bundle. A file is a block of
// Rego whose first line is its name.
func cookbook(t *testing.T) map[string]map[string][]byte {
	t.Helper()
	doc, err := os.ReadFile("../docs/how-to/cookbook.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```rego\n(# (postern/[a-z_/]+\\.rego)\n.*?)```\n")
	recipes := map[string]map[string][]byte{}
	for _, section := range strings.Split(string(doc), "\n### ")[1:] {
		title, body, _ := strings.Cut(section, "\n")
		files := map[string][]byte{}
		for _, m := range block.FindAllStringSubmatch(body, -1) {
			files[m[2]] = []byte(m[1])
		}
		if len(files) != strings.Count(body, "```rego\n") || len(files) < 2 {
			t.Errorf("recipe %q: every block starts with its file's name, and there is a test", title)
		}
		recipes[title] = files
	}
	return recipes
}
