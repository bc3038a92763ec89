package bundles

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path"
	"reflect"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/util"
)

// FuzzTarball: whatever the bytes are, there is a tree within its limits and within its root, or a LoadError; never a panic.
func FuzzTarball(f *testing.F) {
	f.Add(packed(f, regular("/a.rego", module), regular("/data.json", `{"a": 1}`), regular("/.manifest", `{"revision": "r"}`)))
	f.Add(packed(f, regular("../a.rego", module)))
	f.Add(packed(f, regular("a/data.yaml", "x: &a [1]\ny: *a\n"), regular("b.rego", "package b\n")))
	f.Fuzz(func(t *testing.T, data []byte) {
		limits := Limits{Files: 50, File: 1 << 16, Total: 1 << 17, Depth: 8}
		// Raw tar bytes are tried too: the mutations get past the compression that way.
		for _, in := range [][]byte{data, zipped(t, data)} {
			tree, err := Unpack(bytes.NewReader(in), limits)
			var load *LoadError
			if err != nil {
				if !errors.As(err, &load) {
					t.Fatalf("%T: %v", err, err)
				}
				continue
			}
			for _, file := range tree.Files {
				if path.IsAbs(file.Path) || strings.HasPrefix(file.Path, "..") || len(file.Data) > 1<<16 {
					t.Fatalf("%q, %d octets", file.Path, len(file.Data))
				}
			}
			l := &Loader{Source: FS(nil, "fuzz"), Limits: limits}
			if _, err := l.parse(context.Background(), &content{tree: tree, hash: strings.Repeat("0", 64)}); err != nil && !errors.As(err, &load) {
				t.Fatalf("%T: %v", err, err)
			}
		}
	})
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
		got, err := parseDocument(name, []byte(text), 32)
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
	})
}
