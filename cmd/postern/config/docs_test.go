package config

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/smtpd"
)

const page = "../../../docs/reference/configuration.md"

// TestDocumented: the page names every key that the reader knows, and no table of it names another.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_.\\[\\]]+)` \\|.*\\|.*\\| (restart|\\*\\*.*) \\|$").FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, m[1])
	}
	known := knownKeys(t)
	if len(known) < 45 {
		t.Fatalf("only %d keys found in the reader: %q", len(known), known)
	}
	for _, k := range known {
		section := slices.ContainsFunc(known, func(other string) bool { return strings.HasPrefix(other, k+".") || strings.HasPrefix(other, k+"[].") })
		if !section && !slices.Contains(documented, k) {
			t.Errorf("%s is not in a table of %s", k, page)
		}
	}
	for _, k := range documented {
		if !slices.Contains(known, k) {
			t.Errorf("%s documents %s, which no reader knows", page, k)
		}
	}
}

// TestLimitsDocumented: the page has the bounds and the default that each limit of the submission server declares.
func TestLimitsDocumented(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range new(smtpd.Limits).Declared() {
		row := fmt.Sprintf("| `submission.limits.%s` | number, %s to %s | %s | restart |", d.Name, commas(d.Least), commas(d.Most), commas(d.Default))
		if d.Octets {
			row = fmt.Sprintf("| `submission.limits.%s` | size, %s to %s | %s | restart |", d.Name, size(d.Least), size(d.Most), size(d.Default))
		} else if _, ok := d.Value.(*time.Duration); ok {
			row = fmt.Sprintf("| `submission.limits.%s` | time, %s to %s | `%s` | restart |", d.Name, span(d.Least), span(d.Most), span(d.Default))
		}
		if !strings.Contains(string(text), row+"\n") {
			t.Errorf("%s lacks the row\n%s", page, row)
		}
	}
}

func commas(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func size(n int64) string {
	units := []string{"", " KiB", " MiB", " GiB", " TiB"}
	for n%1024 == 0 {
		n, units = n/1024, units[1:]
	}
	return strconv.FormatInt(n, 10) + units[0]
}

func span(n int64) string {
	return regexp.MustCompile("([a-z])0[ms].*").ReplaceAllString(time.Duration(n).String(), "$1")
}

// TestExamples loads every yaml block of the page, and of those about backends. What they refer to does not exist here; their keys and values must be right.
func TestExamples(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dovecot", "ldap", "radius", "recent-logins"} {
		backend, err := os.ReadFile("../../../docs/how-to/" + name + ".md")
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, backend...)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 16 {
		t.Fatalf("only %d examples", len(blocks))
	}
	for i, b := range blocks {
		path := filepath.Join(t.TempDir(), "example"+strconv.Itoa(i)+".yaml")
		write(t, path, b[1])
		if _, err := Load(path, ""); err != nil {
			t.Errorf("%v\nin\n%s", err, b[1])
		}
	}
}

// knownKeys finds the keys in the reader's source: the tables of type yamldoc.Keys, and the methods that their entries call.
// Elements of a list are written [], and keys that are names of the user's own are written id.
func knownKeys(t *testing.T) []string {
	t.Helper()
	methods := map[string]*ast.BlockStmt{}
	for _, name := range []string{"reader.go", "values.go", "limits.go", "oauth.go", "candidates.go", "auth.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv != nil {
				methods[f.Name.Name] = f.Body
			}
		}
	}
	w := &keyWalker{methods: methods}
	w.walk(methods["root"], "", 0)
	for _, l := range new(smtpd.Limits).Declared() {
		w.keys = append(w.keys, "submission.limits."+l.Name)
	}
	slices.Sort(w.keys)
	return slices.Compact(w.keys)
}

type keyWalker struct {
	methods map[string]*ast.BlockStmt
	keys    []string
}

// walk adds the keys that are read below n, where prefix is the key of what n reads.
func (w *keyWalker) walk(n ast.Node, prefix string, depth int) {
	if depth > 8 || n == nil {
		return
	}
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if s, ok := n.Fun.(*ast.SelectorExpr); ok && (s.Sel.Name == "List" || s.Sel.Name == "Each") {
				for _, a := range n.Args {
					w.walk(a, prefix+map[string]string{"List": "[]", "Each": ".id"}[s.Sel.Name], depth+1)
				}
				return false
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "r" && w.methods[n.Sel.Name] != nil && n.Sel.Name != "section" {
				w.walk(w.methods[n.Sel.Name], prefix, depth+1)
			}
		case *ast.CompositeLit:
			s, ok := n.Type.(*ast.SelectorExpr)
			if !ok || s.Sel.Name != "Keys" {
				return true
			}
			for _, e := range n.Elts {
				pair := e.(*ast.KeyValueExpr)
				name, err := strconv.Unquote(pair.Key.(*ast.BasicLit).Value)
				if err != nil {
					continue
				}
				key := strings.TrimPrefix(prefix+"."+name, ".")
				w.keys = append(w.keys, key)
				w.walk(pair.Value, key, depth+1)
			}
			return false
		}
		return true
	})
}
