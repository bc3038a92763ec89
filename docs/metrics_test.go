package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestMetrics holds the tables of reference/metrics.md against the source: every metric that is made anywhere and no other, and its type
// and labels where the source says them beside the name.
func TestMetrics(t *testing.T) {
	made := metricsOf(t, os.DirFS(".."))
	if len(made) < 35 {
		t.Fatalf("found only %d metrics in the source: %q", len(made), made)
	}
	listed := map[string]string{}
	rows := regexp.MustCompile("(?m)^\\| `(postern_[a-z_]+)` \\| ([a-z]+) \\|([^|]*)\\|")
	for _, m := range rows.FindAllStringSubmatch(read(t, "reference/metrics.md"), -1) {
		listed[m[1]] = m[2] + " " + strings.NewReplacer("`", "", " ", "").Replace(m[3])
	}
	for name, what := range made {
		if got, ok := listed[name]; !ok {
			t.Errorf("the page does not list %s", name)
		} else if what != "" && got != what {
			t.Errorf("%s: the page says %q, the source %q", name, got, what)
		}
	}
	for name := range listed {
		if _, ok := made[name]; !ok {
			t.Errorf("the page lists %s, which nothing makes", name)
		}
	}
}

// metricsOf finds the names of metrics in the source: each string literal that is one, and the arguments of name("...") in bundles, which
// puts policy, shadow or canary before them and counts as policy's. For a metric that is made by a call with its name in it, the value is "type
// label,label", otherwise "".
func metricsOf(t *testing.T, root fs.FS) map[string]string {
	t.Helper()
	metric := regexp.MustCompile(`^postern_[a-z_]+$`)
	call := regexp.MustCompile(`^New(Counter|Gauge|Histogram)(Vec|Func)?$`)
	metrics := map[string]string{}
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git" || name == "internal/tools"):
			return fs.SkipDir
		case d.IsDir() || path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, 0)
		if err != nil {
			return err
		}
		for _, s := range stringsIn(file) {
			if metric.MatchString(s) {
				metrics[s] += ""
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			c, ok := n.(*ast.CallExpr)
			if !ok || len(c.Args) == 0 {
				return true
			}
			f, ok := c.Fun.(*ast.SelectorExpr)
			if !ok || !call.MatchString(f.Sel.Name) {
				return true
			}
			if made := metricName(c.Args[0]); made != "" {
				var labels []string
				if strings.HasSuffix(f.Sel.Name, "Vec") {
					labels = stringsIn(c.Args[1])
				}
				metrics[made] = strings.ToLower(call.FindStringSubmatch(f.Sel.Name)[1]) + " " + strings.Join(labels, ",")
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return metrics
}

// metricName is the field Name of the options of a metric.
func metricName(options ast.Expr) string {
	lit, ok := options.(*ast.CompositeLit)
	if !ok {
		return ""
	}
	for _, e := range lit.Elts {
		pair, ok := e.(*ast.KeyValueExpr)
		if !ok || pair.Key.(*ast.Ident).Name != "Name" {
			continue
		}
		if name := stringsIn(pair.Value); len(name) == 1 {
			if _, made := pair.Value.(*ast.CallExpr); made {
				return "postern_policy_" + name[0]
			}
			return name[0]
		}
	}
	return ""
}

// stringsIn returns the string literals below n.
func stringsIn(n ast.Node) (found []string) {
	ast.Inspect(n, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil {
				found = append(found, s)
			}
		}
		return true
	})
	return found
}
