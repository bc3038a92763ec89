package bundles

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/open-policy-agent/opa/v1/util"

	"github.com/postern-mail/postern/internal/table"
)

// FuzzTarball checks that any bytes give a tree within the limits and within its root, or a LoadError that says what is wrong.
// There is no panic, and no more memory than the limits allow. The tree is what archive/tar finds on its own, and it is the same
// after it has been packed and unpacked again.
func FuzzTarball(f *testing.F) {
	f.Add(packed(f, regular("/a.rego", module), regular("/data.json", `{"a": 1}`), regular("/.manifest", `{"revision": "r"}`)))
	f.Add(packed(f, regular("../a.rego", module)))
	f.Add(packed(f, regular("a/data.yaml", "x: &a [1]\ny: *a\n"), regular("b.rego", "package b\n")))
	for _, c := range hostileTarballs(f) {
		if len(c.data) < 16<<10 {
			f.Add(c.data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		limits := Limits{Files: 50, File: 1 << 16, Total: 1 << 17, Depth: 8, Others: len(data)%2 == 0}
		// Raw tar bytes are tried too: the mutations get past the compression that way.
		for _, in := range [][]byte{data, zipped(t, data)} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			tree, err := Unpack(bytes.NewReader(in), limits)
			runtime.ReadMemStats(&after)
			// The decompressor alone has 40 KiB, a member's header with its records may have a megabyte.
			if most := 16*uint64(limits.Total) + 4<<20; after.TotalAlloc-before.TotalAlloc > most {
				t.Fatalf("%d bytes took %d of memory", len(in), after.TotalAlloc-before.TotalAlloc)
			}
			var load *LoadError
			if err != nil {
				if !errors.As(err, &load) || load.Message == "" || strings.ContainsFunc(err.Error(), unicode.IsControl) {
					t.Fatalf("%T: %q", err, err)
				}
				continue
			}
			wantTree(t, in, tree, limits)
			l := &Loader{Source: FS(nil, "fuzz"), Limits: limits}
			if _, err := l.parse(context.Background(), &content{tree: tree, hash: strings.Repeat("0", 64)}); err != nil && !errors.As(err, &load) {
				t.Fatalf("%T: %v", err, err)
			}
		}
	})
}

// wantTree compares a tree with what stands in the archive.
func wantTree(t *testing.T, in []byte, tree *Tree, limits Limits) {
	t.Helper()
	there := map[string]string{}
	zip, err := gzip.NewReader(bytes.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	for archive := tar.NewReader(zip); ; {
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		text, err := io.ReadAll(archive)
		if err != nil || h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir || h.Linkname != "" && h.Typeflag != tar.TypeReg {
			t.Fatalf("%q of type %q was taken: %v", h.Name, h.Typeflag, err)
		}
		there[path.Clean("/" + h.Name)[1:]] = string(text)
	}
	total := 0
	for _, f := range slices.Concat(tree.Files, tree.Others) {
		total += len(f.Data)
		if path.IsAbs(f.Path) || !filepath.IsLocal(f.Path) || path.Clean(f.Path) != f.Path || len(f.Data) > int(limits.File) || strings.ContainsFunc(f.Path, unicode.IsControl) {
			t.Fatalf("%q, %d bytes", f.Path, len(f.Data))
		}
		if text, ok := there[f.Path]; !ok || text != string(f.Data) || f.Hash != fmt.Sprintf("%x", sha256.Sum256(f.Data)) {
			t.Fatalf("%q is %q, in the archive %q", f.Path, f.Data, text)
		}
	}
	if total > int(limits.Total) || len(there) > limits.Files+1 {
		t.Fatalf("%d bytes in %d members", total, len(there))
	}
	var out bytes.Buffer
	if err := pack(&out, tree); err != nil {
		t.Fatal(err)
	}
	again, err := Unpack(&out, limits)
	if len(tree.Files)+len(tree.Others) > 0 && (err != nil || !slices.EqualFunc(again.Files, tree.Files, func(a, b File) bool { return a.Path == b.Path && a.Hash == b.Hash })) {
		t.Fatalf("packed and unpacked again: %v, %v", again, err)
	}
}

// FuzzDocument: a data document is what OPA reads in it, or a LoadError.
func FuzzDocument(f *testing.F) {
	for _, text := range []string{
		"senders:\n  alice: [alice@example.com, {address: ceo@example.com, as: on-behalf, until: 2026-12-31T00:00:00Z}]\n",
		`{"a": [1, 2.5, "x", null, true], "b": {"c": 1e3}}`, "a: &a {x: 1}\nb: {<<: *a, y: 0x1F}\n", "a: 1\na: 2\n", "? [a]\n: b\n",
		"a: !!binary aGVsbG8=\n", "- |\n  text\n- >\n  folded\n", "a: .nan\n", "\xef\xbb\xbfa: 1\n", "a: &a [*a]\n", "%YAML 1.1\n---\na: yes\n",
	} {
		f.Add(text, true)
		f.Add(text, false)
	}
	f.Fuzz(func(t *testing.T, text string, isJSON bool) {
		if len(text) > 4096 {
			return
		}
		name := "data.yaml"
		if isJSON {
			name = "data.json"
		}
		got, err := parseDocument(name, []byte(text), 32, false)
		var load *LoadError
		if err != nil {
			if !errors.As(err, &load) || load.Message == "" {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if _, err := json.Marshal(got); err != nil {
			t.Fatalf("not a JSON value: %v", err)
		}
		var want any
		if err := util.Unmarshal([]byte(text), &want); err != nil {
			return // OPA is stricter here; its own gate says so
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("read %#v, OPA reads %#v", got, want)
		}
		for large := 1; large < 4; large++ { // the same with tables in it
			got, err := readDocument(name, []byte(text), 32, large, false)
			if err != nil || !reflect.DeepEqual(table.Unpack(got), want) {
				t.Fatalf("from %d entries on in tables: %v %v, OPA reads %#v", large, got, err, want)
			}
		}
	})
}
