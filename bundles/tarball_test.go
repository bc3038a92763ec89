package bundles

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tarEntry is a member of an archive under test.
type tarEntry struct {
	header tar.Header
	data   string
}

func regular(name, data string) tarEntry {
	return tarEntry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))}, data}
}

func tarOf(files map[string]string) []tarEntry {
	var entries []tarEntry
	for _, name := range slices.Sorted(maps.Keys(files)) {
		entries = append(entries, regular("/"+name, files[name]))
	}
	return entries
}

func packed(t testing.TB, entries ...tarEntry) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	for _, e := range entries {
		if err := archive.WriteHeader(&e.header); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(e.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func buildTarball(t testing.TB, entries ...tarEntry) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "bundle.tar.gz")
	if err := os.WriteFile(name, packed(t, entries...), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func zipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	if _, err := zip.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// hostileTarball is an archive that must be refused, and what the error says.
type hostileTarball struct {
	name, want string
	data       []byte
}

func hostileTarballs(t testing.TB) []hostileTarball {
	good := packed(t, regular("a.rego", module))
	flipped := bytes.Clone(good)
	flipped[len(flipped)-6] ^= 1 // within gzip's sum
	raw := tarBytes(t, regular("a.rego", module))
	return []hostileTarball{
		{"zip-slip", "leads out", packed(t, regular("../x.rego", module))},
		{"zip-slip inside", "leads out", packed(t, regular("a/../../x.rego", module))},
		{"not plain", "plain form", packed(t, regular("a//x.rego", module))},
		{"two slashes", "plain form", packed(t, regular("//x.rego", module))},
		{"backslash", "not allowed", packed(t, regular(`..\x.rego`, module))},
		{"escape sequence", "not allowed", packed(t, regular("\x1b[2Jx.rego", module))},
		{"symlink", "a link", packed(t, tarEntry{header: tar.Header{Name: "x.rego", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}})},
		{"hard link", "a link", packed(t, tarEntry{header: tar.Header{Name: "x.rego", Typeflag: tar.TypeLink, Linkname: "y.rego"}})},
		{"device", "special file", packed(t, tarEntry{header: tar.Header{Name: "x.rego", Typeflag: tar.TypeChar}})},
		{"duplicate", "there twice", packed(t, regular("a.rego", module), regular("a.rego", "package b\n"))},
		{"duplicate spelled otherwise", "there twice", packed(t, regular("/a.rego", module), regular("./a.rego", "package b\n"))},
		{"bomb", "at most", packed(t, regular("data.json", strings.Repeat(" ", 2<<20)))},
		{"bomb of files that do not count", "larger than", packed(t, regular("1", strings.Repeat("x", 900<<10)), regular("2", strings.Repeat("x", 900<<10)))},
		{"bomb of members", "more than 100 files", packed(t, many(200)...)},
		{"bomb after the end", "data after the end of the archive", zipped(t, append(bytes.Clone(raw), bytes.Repeat([]byte("x"), 1<<20)...))},
		{"endless zeros", "unpacks to more", zipped(t, append(bytes.Clone(raw), make([]byte, 8<<20)...))},
		{"claims more than it has", "truncated", zipped(t, raw[:530])},
		{"truncated", "truncated", good[:len(good)/2]},
		{"bad sum", "damaged", flipped},
		{"not gzip", "not a gzip", raw},
		{"not tar", "damaged", zipped(t, bytes.Repeat([]byte("no archive"), 100))},
		{"empty", "not a gzip", nil},
		{"empty archive", "empty", packed(t)},
	}
}

func TestHostileTarballs(t *testing.T) {
	for _, c := range hostileTarballs(t) {
		t.Run(c.name, func(t *testing.T) {
			_, err := Unpack(bytes.NewReader(c.data), Limits{Files: 100, File: 1 << 20, Total: 1536 << 10})
			var load *LoadError
			if !errors.As(err, &load) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func many(n int) []tarEntry {
	var entries []tarEntry
	for i := range n {
		entries = append(entries, regular(fmt.Sprintf("f%d", i), ""))
	}
	return entries
}

func tarBytes(t testing.TB, entries ...tarEntry) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(packed(t, entries...)))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := out.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestTarballAsTarMakesIt(t *testing.T) {
	name := buildTarball(t, tarEntry{header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}},
		tarEntry{header: tar.Header{Name: "./a/", Typeflag: tar.TypeDir, Mode: 0o755}}, regular("./a/x.rego", module))
	if c := mustLoad(t, Tarball(name)); c.Bundle.Modules[0].Path != "a/x.rego" {
		t.Errorf("modules %v", c.Files)
	}
}

func TestErrorInTarballNamesBoth(t *testing.T) {
	name := buildTarball(t, regular("/a/x.rego", "package a\nx { true }\n"))
	_, err := Load(context.Background(), Tarball(name))
	if err == nil || !strings.HasPrefix(err.Error(), name+"/a/x.rego:2:1: ") {
		t.Errorf("got %v", err)
	}
}
