package docs_test

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
)

var (
	testFunction = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	namedTest    = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z]\\w+)`")
	testCommand  = regexp.MustCompile("go test (?:\\./\\S+ )?[^`\n]*")
	testPackage  = regexp.MustCompile(`\./([a-z0-9/]*(?:\.\.\.)?)`)
	testPattern  = regexp.MustCompile(`-(?:run|bench) '?([^' ` + "`" + `]+)`)
)

// TestNamedTests looks for each test that a page names, and for tests that fit the pattern of each command go test, in the package that
// it names.
func TestNamedTests(t *testing.T) {
	tests := map[string][]string{} // by package
	root := os.DirFS("..")
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		text, err := fs.ReadFile(root, name)
		for _, m := range testFunction.FindAllStringSubmatch(string(text), -1) {
			tests[path.Dir(name)] = append(tests[path.Dir(name)], m[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	exists := func(room string, pattern *regexp.Regexp) bool {
		for p, names := range tests {
			if below, all := strings.CutSuffix(room, "..."); p != room && !(all && strings.HasPrefix(p+"/", below)) {
				continue
			}
			for _, name := range names {
				if pattern.MatchString(name) {
					return true
				}
			}
		}
		return false
	}
	for page, text := range markdown(t, root) {
		for _, m := range namedTest.FindAllStringSubmatch(text, -1) {
			if !exists("...", regexp.MustCompile("^"+m[1]+"$")) {
				t.Errorf("%s names the test %s, which does not exist", page, m[1])
			}
		}
		for _, command := range testCommand.FindAllString(text, -1) {
			for _, p := range testPattern.FindAllStringSubmatch(command, -1) {
				pattern, _, _ := strings.Cut(strings.ReplaceAll(p[1], `\|`, "|"), "/")
				if strings.Trim(pattern, "^$x.X") == "" { // none, or all
					continue
				}
				for _, one := range strings.Split(pattern, "|") {
					found := false
					for _, room := range testPackage.FindAllStringSubmatch(command, -1) {
						found = found || exists(strings.TrimSuffix(room[1], "/"), regexp.MustCompile(one))
					}
					if !found {
						t.Errorf("%s: no test fits %s in\n%s", page, one, command)
					}
				}
			}
		}
	}
}
