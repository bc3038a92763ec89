package bundles

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/compile"
)

const module = "package postern.mail\n\nreject contains \"no\" if input.client.name == \"bad\"\n"

// write puts files below a directory.
func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func tempDir(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, files)
	return dir
}

func mustLoad(t testing.TB, s Source, data ...string) *Candidate {
	t.Helper()
	c, err := Load(context.Background(), s, data...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLoadSameFromEverySource(t *testing.T) {
	files := map[string]string{
		".manifest":               `{"revision": "r1", "roots": ["postern", "senders", "settings"]}`,
		"postern/mail/mail.rego":  module,
		"postern/mail/_test.rego": "package postern.mail_test\n\ntest_a if true\n",
		"data.json":               `{"settings": {"limit": 12345678901234567890}}`,
		"senders/data.yaml":       "alice: [alice@example.com]\nuntil: 2026-12-31T00:00:00Z\n",
		"schemas/data.json":       `{"not": "data"}`,
		"README.md":               "hello",
		".hidden/x.rego":          "broken",
	}
	dir := tempDir(t, files)
	mapFS := fstest.MapFS{}
	for name, text := range files {
		mapFS[name] = &fstest.MapFile{Data: []byte(text)}
	}
	sources := map[string]Source{"directory": Dir(dir), "fs.FS": FS(mapFS, "default"), "tarball": Tarball(buildTarball(t, tarOf(files)...))}
	want := map[string]any{
		"settings": map[string]any{"limit": json.Number("12345678901234567890")},
		"senders":  map[string]any{"alice": []any{"alice@example.com"}, "until": "2026-12-31T00:00:00Z"},
	}
	var hashes []string
	for name, s := range sources {
		c := mustLoad(t, s)
		if c.Revision != "r1" || len(c.Bundle.Modules) != 2 || c.Bundle.Modules[1].Path != "postern/mail/mail.rego" {
			t.Errorf("%s: revision %q, modules %v", name, c.Revision, c.Files)
		}
		if !reflect.DeepEqual(c.Bundle.Data, want) {
			t.Errorf("%s: data %v, want %v", name, c.Bundle.Data, want)
		}
		hashes = append(hashes, c.ContentHash)
	}
	if hashes[0] != hashes[1] || hashes[1] != hashes[2] {
		t.Errorf("the same content has several hashes: %v", hashes)
	}
}

// TestLoadAsOPADoes holds our reading against OPA's own reader.
func TestLoadAsOPADoes(t *testing.T) {
	dir := tempDir(t, map[string]string{
		".manifest":     `{"revision": "r", "roots": ["a", "b"], "metadata": {"x": 1}}`,
		"a/p.rego":      "package a.p\n\nx := 1\n",
		"a/q/data.yaml": "yes: no\non: 1\n1: one\nf: 2.50\nd: 2026-01-01\nn: ~\nm: 0x10\nbig: 1e3\nbase: &b {x: 1}\nder: {<<: *b, y: 2}\n",
		"b/data.json":   `{"deep": {"x": [1, 2.0, "é"]}}`,
		"b/c/data.yml":  "- 1\n- two\n",
	})
	want, err := bundle.NewCustomReader(bundle.NewDirectoryLoader(dir)).Read()
	if err != nil {
		t.Fatal(err)
	}
	got := mustLoad(t, Dir(dir)).Bundle
	if !reflect.DeepEqual(got.Data, want.Data) {
		t.Errorf("data\n%v, want\n%v", got.Data, want.Data)
	}
	if !got.Manifest.Equal(want.Manifest) {
		t.Errorf("manifest %v, want %v", got.Manifest, want.Manifest)
	}
	if len(got.Modules) != 1 || !got.Modules[0].Parsed.Equal(want.Modules[0].Parsed) {
		t.Errorf("modules %v", got.Modules)
	}
}

func TestLoadWhatOPABuilds(t *testing.T) {
	dir := tempDir(t, map[string]string{"postern/mail/mail.rego": module, "data.yaml": "settings: {domain: example.com}\n"})
	var out bytes.Buffer
	c := compile.New().WithPaths(dir).WithAsBundle(true).WithOutput(&out).WithRevision("built").WithRegoVersion(ast.RegoV1)
	if err := c.Build(context.Background()); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "bundle.tar.gz")
	if err := os.WriteFile(name, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	got := mustLoad(t, Tarball(name))
	if got.Revision != "built" || len(got.Bundle.Modules) != 1 || got.Bundle.Data["settings"] == nil {
		t.Errorf("revision %q, files %v, data %v", got.Revision, got.Files, got.Bundle.Data)
	}
}

func TestLoadErrors(t *testing.T) {
	cases := []struct {
		name  string
		files map[string]string
		want  string // place and message; DIR/ stands before
		text  string
	}{
		{"syntax", map[string]string{"a/x.rego": "package a\n\nx := {\n"}, "a/x.rego:3:7: rego_parse_error: unexpected eof", ""},
		{"version 0", map[string]string{"x.rego": "package a\n\nx { true }\n"}, "x.rego:3:1: rego_parse_error: `if` keyword", "x { true }"},
		{"empty module", map[string]string{"x.rego": ""}, "x.rego:1:1: is empty", ""},
		{"no module", map[string]string{"data.json": "{}"}, ": there is no .rego file", ""},
		{"JSON", map[string]string{"data.json": "{\n \"a\": 1,\n}"}, "data.json:2:8: ", "\"a\": 1,"},
		{"JSON cut", map[string]string{"data.json": `{"a": `}, "data.json:1:6: the document ends too early", ""},
		{"JSON twice", map[string]string{"data.json": "{\"a\": 1,\n\"a\": 2}"}, `data.json:2:1: the key "a" is there twice`, ""},
		{"YAML twice", map[string]string{"data.yaml": "a: 1\nb: 2\na: 3\n"}, `data.yaml:3:1: the key "a" is there twice`, "a: 3"},
		{"YAML twice by type", map[string]string{"data.yaml": "1: a\n\"1\": b\n"}, `data.yaml:2:1: the key "1" is there twice`, ""},
		{"YAML tab", map[string]string{"data.yaml": "a:\n\tb: 1\n"}, "data.yaml:2: not valid YAML", "\tb: 1"},
		{"YAML second document", map[string]string{"data.yaml": "a: 1\n---\nb: 2\n"}, "data.yaml:2:1: a second document", "---"},
		{"YAML fraction as key", map[string]string{"data.yaml": "1.0: a\n"}, "data.yaml:1:1: \"1.0\" cannot be a key (quote it)", ""},
		{"YAML infinity", map[string]string{"data.yaml": "a: .inf\n"}, "data.yaml:1:4: ", ""},
		{"YAML tag", map[string]string{"data.yaml": "a: !!python/object x\n"}, "data.yaml:1:4: the tag", ""},
		{"YAML bomb", map[string]string{"data.yaml": yamlBomb()}, "data.yaml:", "the aliases expand"},
		{"YAML cycle", map[string]string{"data.yaml": "a: &a [*a]\n"}, "data.yaml:1:", "levels deep"},
		{"deep JSON", map[string]string{"data.json": `{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "}"}, "more than 64 levels", ""},
		{"not UTF-8", map[string]string{"data.json": "{\"a\":\n\"\xff\"}"}, "data.json:2:2: is not valid UTF-8", ""},
		{"root is a list", map[string]string{"data.json": "[1]"}, "data.json: a data file at the root must hold an object", ""},
		{"two data files", map[string]string{"data.json": `{"a": {"b": 1}}`, "a/data.json": `{"b": 2}`}, "data.json: data.a.b is defined", ""},
		{"manifest", map[string]string{".manifest": "{"}, ".manifest:1:1: the document ends", ""},
		{"manifest type", map[string]string{".manifest": `{"roots": 1}`}, ".manifest:1:11: roots must be a list", ""},
		{"nested manifest", map[string]string{"a/.manifest": "{}"}, "a/.manifest: a manifest must be at the root", ""},
		{"overlapping roots", map[string]string{".manifest": `{"roots": ["a", "a/b"]}`}, ".manifest:1:17: the roots", ""},
		{"module outside", map[string]string{".manifest": `{"roots": ["b"]}`, "x.rego": module}, "x.rego:1:1: the roots", "package postern.mail"},
		{"data outside", map[string]string{".manifest": `{"roots": ["a"]}`, "data.json": `{"c": 1}`}, ".manifest:1:2: the roots [\"a\"] do not permit the data at /c", ""},
		{"unknown version", map[string]string{".manifest": `{"rego_version": 9}`}, ".manifest:1:2: unknown rego_version 9", ""},
		{"wasm", map[string]string{"policy.wasm": "x"}, "policy.wasm: this kind of bundle", ""},
		{"delta", map[string]string{"patch.json": "{}"}, "patch.json: this kind of bundle", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Load(context.Background(), Dir(tempDir(t, c.files)))
			var load *LoadError
			if !errors.As(err, &load) {
				t.Fatalf("got %v, want a LoadError", err)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, want %q in it", err, c.want)
			}
			if c.text != "" && !strings.Contains(load.Text+load.Message, c.text) {
				t.Errorf("text %q, message %q, want %q", load.Text, load.Message, c.text)
			}
		})
	}
}

func yamlBomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	return b.String()
}

func TestAllSyntaxErrorsAreReported(t *testing.T) {
	_, err := Load(context.Background(), Dir(tempDir(t, map[string]string{"a.rego": "package a\nx :=\n", "b.rego": "package b\ny :=\n"})))
	var load *LoadError
	if !errors.As(err, &load) || load.File != "a.rego" || len(load.More) == 0 || load.More[len(load.More)-1].File != "b.rego" {
		t.Fatalf("got %#v", err)
	}
}

func TestSymbolicLinks(t *testing.T) {
	outside := tempDir(t, map[string]string{"x.rego": module, "sub/y.rego": module})
	cases := []struct{ name, target, want string }{
		{"inside.rego", "a.rego", ""},
		{"outside.rego", filepath.Join(outside, "x.rego"), "within the bundle"},
		{"climbing.rego", "../" + filepath.Base(outside) + "/x.rego", "within the bundle"},
		{"directory", "real", "a symbolic link to a directory"},
		{"outside", outside, ""}, // is not followed and does not count
		{".#a.rego", "user@host.1234:567", ""},
		{"nowhere.rego", "gone", "no such file"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := tempDir(t, map[string]string{"a.rego": module, "real/b.rego": "package b\n"})
			if err := os.Symlink(c.target, filepath.Join(dir, c.name)); err != nil {
				t.Fatal(err)
			}
			got, err := Load(context.Background(), Dir(dir))
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range got.Bundle.Modules {
					if strings.HasPrefix(m.Path, "outside") {
						t.Errorf("loaded %s", m.Path)
					}
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestKubernetesVolumeIsReadOnce(t *testing.T) {
	dir := kubernetesVolume(t, "1", map[string]string{"a.rego": module})
	c := mustLoad(t, Dir(dir))
	if len(c.Bundle.Modules) != 1 || c.Bundle.Modules[0].Path != "a.rego" {
		t.Errorf("modules %v", c.Files)
	}
}

// TestOneReadOneRevision reads a volume while it is updated: what comes is one revision whole, whichever.
func TestOneReadOneRevision(t *testing.T) {
	files := func(i int) map[string]string {
		text := fmt.Sprintf("package a\n\nx := %d\n", i)
		return map[string]string{"a.rego": text, "b.rego": text, "c.rego": text}
	}
	dir := kubernetesVolume(t, "0", files(0))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			swap(t, dir, fmt.Sprint(i), files(i))
			remove(t, filepath.Join(dir, fmt.Sprint("..2026_", i-1)))
		}
	}()
	good := 0
	for range 50 {
		tree, err := Dir(dir).Read(context.Background(), Limits{})
		if err != nil {
			continue // always swapped meanwhile: no verdict, which the watcher knows
		}
		good++
		if len(tree.Files) != 3 || !bytes.Equal(tree.Files[0].Data, tree.Files[2].Data) {
			t.Fatalf("several revisions at once: %q", tree.Files)
		}
	}
	close(stop)
	<-stopped
	if good == 0 {
		t.Error("nothing was ever read")
	}
}

func TestLimits(t *testing.T) {
	files := map[string]string{"a.rego": module, "b/c/d.rego": "package b\n", "data.json": `{"a": "` + strings.Repeat("x", 1000) + `"}`}
	for _, c := range []struct {
		limits Limits
		want   string
	}{{Limits{Files: 2}, "more than 2 files"}, {Limits{File: 500}, "at most 500"}, {Limits{Total: 1050}, "larger than 1050"}, {Limits{Depth: 2}, "more than 2 dir"}} {
		for _, s := range []Source{Dir(tempDir(t, files)), Tarball(buildTarball(t, tarOf(files)...))} {
			l := Loader{Source: s, Limits: c.limits}
			if _, err := l.Load(context.Background()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%T %+v: got %v, want %q", s, c.limits, err, c.want)
			}
		}
	}
}

func TestExtraData(t *testing.T) {
	dir := tempDir(t, map[string]string{
		"bundle/a.rego":    module,
		"bundle/.manifest": `{"revision": "r1", "roots": ["postern", "senders", "list"]}`,
		"bundle/data.yaml": "senders: {alice: [a@example.com], bob: [b@example.com]}\nlist: [1, 2]\n",
		"one.yaml":         "senders: {alice: [c@example.com], carol: {until: 2026-12-31T00:00:00Z}}\nlist: [3]\n",
		"two.json":         `{"senders": {"carol": {"as": "on-behalf"}}, "settings": {"domain": "example.com"}}`,
		"bad.yaml":         "senders:\n  alice: [a]\n  alice: [b]\n",
		"list.yaml":        "- a\n",
		"empty.yaml":       "# nothing\n",
	})
	at := func(name string) string { return filepath.Join(dir, name) }
	c := mustLoad(t, Dir(at("bundle")), at("one.yaml"), at("two.json"))
	want := map[string]any{
		"senders": map[string]any{"alice": []any{"c@example.com"}, "bob": []any{"b@example.com"},
			"carol": map[string]any{"until": "2026-12-31T00:00:00Z", "as": "on-behalf"}},
		"list": []any{json.Number("3")}, "settings": map[string]any{"domain": "example.com"},
	}
	if !reflect.DeepEqual(c.Bundle.Data, want) {
		t.Errorf("data %v, want %v", c.Bundle.Data, want)
	}
	if !strings.HasPrefix(c.Revision, "r1+data.") {
		t.Errorf("revision %q does not tell the data", c.Revision)
	}
	for name, want := range map[string]string{"bad.yaml": ":3:3: the key", "list.yaml": ":1: a data document must hold an object",
		"empty.yaml": "must hold an object", "gone.yaml": "no such file", "x.txt": "must be named"} {
		_, err := Load(context.Background(), Dir(at("bundle")), at(name))
		if err == nil || !strings.HasPrefix(err.Error(), at(name)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	if _, err := Load(context.Background(), Dir(at("bundle")), at("gone.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cause is lost: %v", err)
	}
}

func TestHashesTellWhatChanged(t *testing.T) {
	dir := tempDir(t, map[string]string{"a.rego": module, "b.rego": "package b\n", "data.json": `{"x": {"y": 1}}`, "extra/e.yaml": "x: {z: 1}"})
	extra := filepath.Join(dir, "extra", "e.yaml")
	l := &Loader{Source: Dir(dir), Data: []string{extra}}
	load := func() *Candidate {
		c, err := l.Load(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := load()
	if again := load(); again.ContentHash != first.ContentHash || again.Revision != first.Revision {
		t.Error("the same content has another hash")
	}
	write(t, dir, map[string]string{"extra/e.yaml": "x: {z: 2}"})
	data := load()
	if data.ModulesHash != first.ModulesHash || data.DataHash == first.DataHash || data.Revision == first.Revision {
		t.Error("a change of data is not told from one of modules")
	}
	if data.Bundle.Modules[0].Parsed != first.Bundle.Modules[0].Parsed {
		t.Error("an unchanged module was parsed again")
	}
	if x := first.Bundle.Data["x"].(map[string]any); x["z"] != json.Number("1") {
		t.Error("an older candidate's data changed")
	}
	write(t, dir, map[string]string{"b.rego": "package b\n\nx := 1\n"})
	code := load()
	if code.ModulesHash == data.ModulesHash || code.DataHash != data.DataHash {
		t.Error("a change of modules is not told from one of data")
	}
	if code.Bundle.Modules[0].Parsed != first.Bundle.Modules[0].Parsed || len(code.Bundle.Modules[1].Parsed.Rules) != 1 {
		t.Error("the cache holds the wrong modules")
	}
}

func TestOpen(t *testing.T) {
	dir := tempDir(t, map[string]string{"b.tar.gz": "x", "file": "x"})
	for name, want := range map[string]string{dir: "dir", filepath.Join(dir, "b.tar.gz"): "tarball", filepath.Join(dir, "file"): "tarball", "none": "dir", "x.tgz": "tarball",
		"https://example.com/bundle.tar.gz?sig=secret": "web", "http://127.0.0.1:8080/b": "web", "http://[::1]/b": "web", "oci://registry.example.com/x:1": "image"} {
		s, err := Open(name, Remote{})
		if err != nil || !strings.HasSuffix(fmt.Sprintf("%T", s), want) {
			t.Errorf("%s: %T %v, want %s", name, s, err, want)
		}
	}
	for name, want := range map[string]string{
		"":                                   "no bundle named",
		"ftp://example.com/b.tar.gz":         "not read over ftp://",
		"http://example.com/b.tar.gz":        "insecure: true",
		"https://u:p@example.com/b":          "the address contains a login",
		"https:///b":                         "the host is missing",
		"https://example.com/b#1":            "must not contain #",
		"https://exa mple.com/b":             "is not a URL",
		"oci://registry.example.com/x":       "neither a tag nor a digest",
		"oci://registry.example.com/X:1":     "is not a reference",
		"oci://registry.example.com/x@md5:1": "is not a reference",
	} {
		_, err := Open(name, Remote{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "u:p@") {
			t.Errorf("%q: got %v, want %s", name, err, want)
		}
	}
	if _, err := Open("http://example.com/b.tar.gz", Remote{Insecure: true}); err != nil {
		t.Error(err)
	}
	if s, _ := Open("https://example.com/bundle.tar.gz?sig=secret", Remote{}); s.String() != "https://example.com/bundle.tar.gz" {
		t.Errorf("the query is shown: %s", s)
	}
}
