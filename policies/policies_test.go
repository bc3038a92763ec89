package policies_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/format"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"

	"github.com/postern-mail/postern/policies"
)

// TestRego runs the tests of the embedded bundle and checks their coverage.
func TestRego(t *testing.T) {
	tracer := cover.New()
	modules := parse(t, embedded(t))
	if n := run(t, modules, data(), tracer, ""); n < 60 {
		t.Errorf("only %d tests ran", n)
	}
	rules := map[string]*ast.Module{}
	for name, m := range modules {
		if !strings.HasSuffix(name, "_test.rego") {
			rules[name] = m
		}
	}
	report := tracer.Report(rules)
	if report.Coverage < 95 {
		for name, file := range report.Files {
			t.Logf("%s: not covered: %v", name, file.NotCovered)
		}
		t.Errorf("tests cover %.1f %% of the rules; want 95 %%", report.Coverage)
	}
}

// TestOperatorDataDoesNotBreakTests: the tests pass with an operator's documents merged over the data, as they run before activation.
func TestOperatorDataDoesNotBreakTests(t *testing.T) {
	documents := map[string]any{
		"senders":  map[string]any{"alice": []any{"bob@example.com", "@sub.example.org"}, "mallory": []any{"alice@example.com"}},
		"groups":   map[string]any{"support": []any{"bob@example.com"}},
		"settings": map[string]any{"domain": "example.org", "require_auth": false, "allow_local": true, "sender": "leave", "max_recipients": 1},
	}
	run(t, parse(t, embedded(t)), documents, nil, "")
}

// TestWritten: files are formatted by OPA, compile in strict mode, and have their tests in the same directory.
func TestWritten(t *testing.T) {
	files := embedded(t)
	for name, text := range files {
		formatted, err := format.SourceWithOpts(name, text, format.Opts{RegoVersion: ast.RegoV1})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(formatted, text) {
			t.Errorf("%s: not as `opa fmt` writes it", name)
		}
		if test := strings.TrimSuffix(name, ".rego") + "_test.rego"; !strings.HasSuffix(name, "_test.rego") && files[test] == nil {
			t.Errorf("%s: there is no %s beside it", name, test)
		}
	}
	compiler := ast.NewCompiler().WithStrict(true).WithEnablePrintStatements(false).WithSchemas(inputSchema(t))
	if compiler.Compile(parse(t, files)); compiler.Failed() {
		t.Fatal(compiler.Errors)
	}
}

// TestDescribed: packages are named after their directories, the only public rules of stage packages are decision sets, and
// public rules have a description.
func TestDescribed(t *testing.T) {
	modules := parse(t, embedded(t))
	described := map[string]bool{}
	for name, m := range modules {
		wantPackage := "data." + strings.ReplaceAll(filepath.ToSlash(filepath.Dir(name)), "/", ".")
		if got := strings.TrimSuffix(m.Package.Path.String(), "_test"); got != wantPackage {
			t.Errorf("%s: package %s; its directory says %s", name, got, wantPackage)
		}
		for _, a := range m.Annotations {
			if a.Title != "" && a.Description != "" {
				described[a.GetTargetPath().String()] = true
			}
		}
	}
	sets := []string{"allow", "reject", "defer", "quarantine", "discard", "edit", "note"}
	for name, m := range modules {
		if strings.HasSuffix(name, "_test.rego") {
			continue
		}
		if !described[m.Package.Path.String()] {
			t.Errorf("package %s has no METADATA with title and description", m.Package.Path)
		}
		for _, r := range m.Rules {
			rule := r.Head.Ref().GroundPrefix().String()
			if strings.HasPrefix(rule, "_") {
				continue
			}
			if !described[m.Package.Path.String()+"."+rule] {
				t.Errorf("%s: %s has no METADATA with title and description", r.Location, rule)
			}
			if !strings.HasPrefix(name, "postern/lib/") && !slices.Contains(sets, rule) {
				t.Errorf("%s: %s is public, but no decision set", r.Location, rule)
			}
		}
	}
}

// TestEmbedded: the embedded files are those on disk, and stock OPA reads them as a bundle.
func TestEmbedded(t *testing.T) {
	for _, root := range []string{".manifest", "data.yaml", "postern", "schemas"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			want, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if got, err := fs.ReadFile(policies.FS, filepath.ToSlash(path)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: embedded differs from disk: %v", path, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	loader, err := bundle.NewFSLoader(policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundle.NewCustomReader(loader).Read()
	if err != nil {
		t.Fatal(err)
	}
	if b.Manifest.Revision == "" || len(b.Modules) == 0 || b.Data["senders"] == nil {
		t.Errorf("revision %q, %d modules, data %v", b.Manifest.Revision, len(b.Modules), b.Data)
	}
}

// embedded returns the embedded Rego files by their name in the bundle.
func embedded(t *testing.T) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := fs.WalkDir(policies.FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, ".rego") {
			return err
		}
		files[name], err = fs.ReadFile(policies.FS, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// inputSchema returns the schema of input, for the compiler's type checks.
func inputSchema(t *testing.T) *ast.SchemaSet {
	t.Helper()
	text, err := fs.ReadFile(policies.FS, "schemas/input.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatalf("schemas/input.json: %v", err)
	}
	set := ast.NewSchemaSet()
	set.Put(ast.SchemaRootRef, schema)
	return set
}

func parse(t *testing.T, files map[string][]byte) map[string]*ast.Module {
	t.Helper()
	modules := map[string]*ast.Module{}
	for name, text := range files {
		m, err := ast.ParseModuleWithOpts(name, string(text), ast.ParserOptions{ProcessAnnotation: true, RegoVersion: ast.RegoV1})
		if err != nil {
			t.Fatal(err)
		}
		modules[name] = m
	}
	return modules
}

// data returns the data of the bundle, without an operator's.
func data() map[string]any {
	return map[string]any{"senders": map[string]any{}, "groups": map[string]any{}, "settings": map[string]any{}}
}

// run runs the tests whose names match filter ("": all), with failing builtins as errors, and returns their number.
func run(t *testing.T, modules map[string]*ast.Module, documents map[string]any, tracer *cover.Cover, filter string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	store := inmem.NewFromObject(clone(t, documents))
	runner := tester.NewRunner().SetStore(store).SetModules(modules).Filter(filter).RaiseBuiltinErrors(true).
		SetDefaultRegoVersion(ast.RegoV1).SetTimeout(time.Minute)
	if tracer != nil {
		runner = runner.SetCoverageQueryTracer(tracer)
	}
	txn, err := store.NewTransaction(ctx, storage.WriteParams)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Abort(ctx, txn)
	results, err := runner.RunTests(ctx, txn)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for r := range results {
		n++
		if !r.Pass() {
			var cases []string
			for name, sub := range r.SubResults {
				if sub.Fail {
					cases = append(cases, name)
				}
			}
			t.Errorf("%s: %s failed: %v %q", r.Location, r.Name, r.Error, cases)
		}
	}
	return n
}

func clone(t *testing.T, v map[string]any) (out map[string]any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
