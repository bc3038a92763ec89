package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestMetrics holds the tables of reference/metrics.md against the source: every metric that is made anywhere, its type and labels, and
// no other.
func TestMetrics(t *testing.T) {
	page := read(t, "reference/metrics.md")
	made := metricsOf(t, os.DirFS(".."))
	if len(made) < 35 {
		t.Fatalf("found only %d metrics in the source: %q", len(made), made)
	}
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(postern_[a-z_]+)` \\| ([a-z]+) \\|([^|]*)\\|").FindAllStringSubmatch(page, -1) {
		labels := strings.NewReplacer("`", "", " ", "").Replace(m[3])
		listed = append(listed, strings.TrimSpace(m[1]+" "+m[2]+" "+labels))
	}
	for _, m := range made {
		if !slices.Contains(listed, m) {
			t.Errorf("the page does not list %q", m)
		}
	}
	for _, m := range listed {
		if !slices.Contains(made, m) {
			t.Errorf("the page lists %q, which nothing makes", m)
		}
	}
}

// metricsOf finds the calls of prometheus.New... in the source and returns "name type label,label" of each. A name that is made by a
// function name("...") is one of bundles, which puts policy, shadow or canary into it; it counts as policy's.
func metricsOf(t *testing.T, root fs.FS) (metrics []string) {
	t.Helper()
	call := regexp.MustCompile(`^New(Counter|Gauge|Histogram)(Vec|Func)?$`)
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git"):
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
		ast.Inspect(file, func(n ast.Node) bool {
			c, ok := n.(*ast.CallExpr)
			if !ok || len(c.Args) == 0 {
				return true
			}
			f, ok := c.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := f.X.(*ast.Ident); !ok || x.Name != "prometheus" || !call.MatchString(f.Sel.Name) {
				return true
			}
			var labels []string
			if strings.HasSuffix(f.Sel.Name, "Vec") {
				labels = stringsIn(c.Args[1])
			}
			kind := strings.ToLower(call.FindStringSubmatch(f.Sel.Name)[1])
			metric := metricName(c.Args[0])
			if metric == "" {
				t.Errorf("%s: %s has no name that this test can read", name, f.Sel.Name)
			}
			metrics = append(metrics, strings.TrimSpace(metric+" "+kind+" "+strings.Join(labels, ",")))
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
