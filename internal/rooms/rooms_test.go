// Package rooms holds the test that keeps the arrows between packages pointing down.
package rooms

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/postern-mail/postern/"

// mayImport says which packages of this module the code of a room may import, and whether it may import Open Policy Agent ("opa").
// A name that ends in a slash stands for everything below it. A room that is not named has the rule of the nearest name with a
// slash above it. No rule names cmd, so that only cmd can import cmd.
var mayImport = map[string][]string{
	"docs":               {},
	"policies":           {},
	"internal/":          {"internal/"},
	"internal/message":   {},
	"internal/trial":     {"internal/", "engine", "engine/"},
	"internal/tools/":    {"internal/", "policies", "engine", "engine/", "bundles", "smtpd", "smtpd/", "milter", "opa"},
	"engine":             {"internal/", "engine/", "opa"},
	"engine/":            {"internal/", "engine/", "opa"},
	"engine/contract":    {"internal/", "opa"},
	"engine/data":        {"internal/", "opa"},
	"engine/lint":        {"internal/", "engine/contract", "engine/data", "opa"},
	"engine/decisionlog": {"internal/", "engine/", "engine", "opa"},
	"bundles":            {"internal/", "bundles/", "opa"},
	"bundles/":           {"internal/", "bundles/", "opa"},
	"smtpd":              {"internal/", "engine", "engine/", "smtpd/"},
	"smtpd/":             {"internal/", "smtpd/"},
	"milter":             {"internal/", "engine", "engine/", "milter/"},
	"milter/":            {"internal/", "milter/"},
	"cmd/":               {"internal/", "policies", "engine", "engine/", "bundles", "bundles/", "smtpd", "smtpd/", "milter", "milter/", "cmd/"},
	"cmd/postern/config": {"internal/", "bundles", "engine/decisionlog", "smtpd", "smtpd/", "milter", "cmd/postern/certs", "cmd/postern/systemd"},
}

// testsMayNotImport says what the tests of a room must not import; names work as above. Anything else is free, because a test of a low
// room may load a bundle and decide by it.
var testsMayNotImport = map[string][]string{
	"docs":      {},
	"internal/": {"cmd/"},
	"policies":  {"cmd/", "smtpd", "smtpd/", "milter", "milter/"},
	"bundles":   {"cmd/", "smtpd", "smtpd/", "milter", "milter/"},
	"bundles/":  {"cmd/", "smtpd", "smtpd/", "milter", "milter/"},
	"engine":    {"cmd/", "smtpd", "smtpd/", "milter", "milter/"},
	"engine/":   {"cmd/", "smtpd", "smtpd/", "milter", "milter/"},
	"smtpd":     {"cmd/", "milter", "milter/"},
	"smtpd/":    {"cmd/", "milter", "milter/"},
	"milter":    {"cmd/", "smtpd", "smtpd/"},
	"milter/":   {"cmd/", "smtpd", "smtpd/"},
	"cmd/":      {},
}

func TestRooms(t *testing.T) {
	for _, i := range imports(t) {
		may, known := ruleOf(i.room, mayImport)
		mustNot, knownToTests := ruleOf(i.room, testsMayNotImport)
		switch {
		case !known || !knownToTests:
			t.Errorf("%s: %s is a room without a rule; give it one in this test", i.file, i.room)
		case i.target == i.room:
		case i.test && covers(mustNot, i.target):
			t.Errorf("%s imports %s; tests of %s must not import %v", i.file, i.target, i.room, mustNot)
		case !i.test && !covers(may, i.target):
			t.Errorf("%s imports %s; %s may import %v", i.file, i.target, i.room, may)
		}
	}
	for name := range mayImport {
		if _, err := os.Stat(filepath.Join("../..", name)); err != nil {
			t.Errorf("there is no room %s; take its rule out of this test: %v", name, err)
		}
	}
}

// arrow is an import of a package of this module, or of OPA.
type arrow struct {
	file, room, target string // room is the package of file
	test               bool   // file is a test
}

// imports reads all Go files of the module, with any build constraint. It reads them in this process, not through go list,
// so that the result of an earlier run is not taken from the cache after a file has changed.
func imports(t *testing.T) (all []arrow) {
	root := os.DirFS("../..")
	err := fs.WalkDir(root, ".", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && file != "."):
			return fs.SkipDir
		case d.IsDir() || path.Ext(file) != ".go":
			return nil
		}
		text, err := fs.ReadFile(root, file)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, text, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range f.Imports {
			if target := local(strings.Trim(i.Path.Value, `"`)); target != "" {
				all = append(all, arrow{file, path.Dir(file), target, strings.HasSuffix(file, "_test.go")})
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// local returns the path of a package below the module, "opa" for a package of Open Policy Agent, and "" for any other package.
func local(path string) string {
	if strings.HasPrefix(path, "github.com/open-policy-agent/opa") {
		return "opa"
	}
	room, _ := strings.CutPrefix(path, module)
	if room == path {
		return ""
	}
	return room
}

// ruleOf returns the rule of a room, or else that of the nearest name with a slash above it.
func ruleOf(room string, rules map[string][]string) (rule []string, ok bool) {
	for name := room; name != ""; name = name[:strings.LastIndexByte(strings.TrimSuffix(name, "/"), '/')+1] {
		if rule, ok = rules[name]; ok {
			return rule, true
		}
	}
	return nil, false
}

// covers reports whether one of names is room or, with a slash at its end, above room.
func covers(names []string, room string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return name == room || strings.HasSuffix(name, "/") && strings.HasPrefix(room, name)
	})
}
