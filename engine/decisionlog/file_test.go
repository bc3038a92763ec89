package decisionlog

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// until waits for ok, generously: the machine may be busy.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 seconds: %s", what)
		}
	}
}

// logged are the ids in all files of a log, full, compressed and current. Every line must be whole.
func logged(t *testing.T, name string) (ids []string) {
	t.Helper()
	files, err := filepath.Glob(name + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(f, compressed) {
			zip, err := gzip.NewReader(bytes.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			if text, err = io.ReadAll(zip); err != nil {
				t.Fatalf("%s: %v", f, err)
			}
		}
		for line := range bytes.Lines(text) {
			var l struct{ ID string }
			if err := json.Unmarshal(line, &l); err != nil || line[len(line)-1] != '\n' {
				t.Fatalf("%s: %v in %q", f, err, line)
			}
			ids = append(ids, l.ID)
		}
	}
	return ids
}

// TestRotate: many writers fill many files, and each line is in just one of them, whole.
func TestRotate(t *testing.T) {
	for _, o := range []Options{
		{Rotate: Rotate{Size: 20_000}},
		{Rotate: Rotate{Size: 20_000, Compress: true}},
		{Rotate: Rotate{Size: 20_000, Compress: true}, Strict: true, Sync: SyncEach},
		{Rotate: Rotate{Size: 20_000}, Sync: SyncInterval, Mask: Mask{Addresses: HashedAddresses, Key: testKey}},
	} {
		o.Wait = 30 * time.Second
		l := open(t, o)
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 50 {
					if err := l.Record(context.Background(), record(fmt.Sprintf("%d-%d", g, i))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		full := func(pattern string) []string {
			files, err := filepath.Glob(l.o.File + pattern)
			if err != nil {
				t.Fatal(err)
			}
			return files
		}
		if o.Rotate.Compress {
			until(t, "every full file is compressed", func() bool {
				return len(full(".*Z")) == 0 && len(full(".*.gz?*")) == 0 && len(full(".*.gz")) > 0
			})
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		ids := logged(t, l.o.File)
		slices.Sort(ids)
		if n := len(slices.Compact(slices.Clone(ids))); n != 400 || len(ids) != 400 || l.Lost() != 0 {
			t.Errorf("%+v: %d lines, %d different, %d lost", o.Rotate, len(ids), n, l.Lost())
		}
		files := full(".*Z*")
		if o.Strict && len(files) < 5 || len(files) < 1 {
			t.Errorf("%+v: only %v", o.Rotate, files)
		}
		for _, f := range append(files, l.o.File) {
			if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 || o.Strict && info.Size() > 20_000 {
				t.Errorf("%s: %v, %v", f, info, err)
			}
		}
	}
}

// TestKeep: the oldest files go, and nothing that is not ours.
func TestKeep(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "d.jsonl")
	bystanders := []string{"d.jsonl.1", "d.jsonl.old", "d.jsonl.20260101.gz", "other.20200101T000000.000000Z"}
	for _, b := range bystanders {
		if err := os.WriteFile(filepath.Join(dir, b), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Left there by a process that died, one of them while it was being compressed.
	for _, stamp := range []string{"20200101T000000.000000Z", "20200102T000000.000000Z.gz", "20200103T000000.000000Z"} {
		if err := os.WriteFile(name+"."+stamp, []byte("{}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	half, old := filepath.Join(dir, ".d.jsonl.20200103T000000.000000Z.gz123456789012345678"), time.Now().Add(-2*time.Hour)
	if err := errors.Join(os.WriteFile(half, []byte("{}\n"), 0o600), os.Chtimes(half, old, old)); err != nil {
		t.Fatal(err)
	}
	l := open(t, Options{File: name, Strict: true, Rotate: Rotate{Size: 1, Keep: 2, Compress: true}})
	until(t, "what was left is tidied at the start", func() bool {
		left, err := filepath.Glob(name + ".2020*")
		_, gone := os.Lstat(half)
		return err == nil && errors.Is(gone, fs.ErrNotExist) && slices.Equal(left, []string{name + ".20200102T000000.000000Z.gz", name + ".20200103T000000.000000Z.gz"})
	})
	for i := range 5 { // one line a file
		if err := l.Record(context.Background(), record(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "two full files are kept", func() bool {
		left, err := filepath.Glob(name + ".2*Z.gz")
		all, allErr := filepath.Glob(name + ".2*T*")
		return err == nil && allErr == nil && len(left) == 2 && len(all) == 2
	})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, b := range bystanders {
		if _, err := os.Stat(filepath.Join(dir, b)); err != nil {
			t.Errorf("%s is gone", b)
		}
		os.Remove(filepath.Join(dir, b))
	}
	if ids := logged(t, name); !slices.Equal(ids, []string{"4", "2", "3"}) {
		t.Errorf("kept %v", ids)
	}
}

// TestRotatedName: the clock may stand, or be set back.
func TestRotatedName(t *testing.T) {
	name, now := filepath.Join(t.TempDir(), "d"), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var names []string
	for range 3 {
		n, err := rotatedName(name, now)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(n+compressed, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		names = append(names, filepath.Base(n))
	}
	if want := []string{"d.20260102T030405.000000Z", "d.20260102T030405.000001Z", "d.20260102T030405.000002Z"}; !slices.Equal(names, want) {
		t.Errorf("%v", names)
	}
}

// TestRotationFails: no line is lost, not even strictly, and the log says so.
func TestRotationFails(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "d.jsonl")
	var told bytes.Buffer
	l, err := Open(Options{File: name, Strict: true, Rotate: Rotate{Size: 1}, Logger: slog.New(slog.NewTextHandler(&told, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Record(context.Background(), record("0")); err != nil {
		t.Fatal(err)
	}
	// The test may run as root, which no file mode stops. A directory with the name of the file does: it is not the log, and it
	// cannot be opened as one.
	if err := os.Rename(name, name+".aside"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(name, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"1", "2"} {
		if err := l.Record(context.Background(), record(id)); err != nil {
			t.Error(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var ids []any
	for _, m := range lines(t, name+".aside") {
		ids = append(ids, m["id"])
	}
	if !slices.Equal(ids, []any{"0", "1", "2"}) {
		t.Errorf("%v; log: %s", ids, told.String())
	}
	if n := strings.Count(told.String(), "cannot rotate"); n != 1 {
		t.Errorf("told %d times: %s", n, told.String())
	}
}

// TestMoved: another process renames or removes the file, or its directory, and says nothing.
func TestMoved(t *testing.T) {
	for _, rotate := range []int64{0, 1 << 20} {
		dir := filepath.Join(t.TempDir(), "log")
		name := filepath.Join(dir, "d.jsonl")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		reg := prometheus.NewRegistry()
		l := open(t, Options{File: name, Strict: true, Rotate: Rotate{Size: rotate}, Metrics: reg})
		put := func(id string) error { return l.Record(context.Background(), record(id)) }
		if err := put("a"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name, name+".1"); err != nil {
			t.Fatal(err)
		}
		if err := put("b"); err != nil {
			t.Errorf("after a rename: %v", err)
		}
		if ids := logged(t, name); !slices.Equal(ids, []string{"b", "a"}) {
			t.Errorf("after a rename: %v", ids)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := put("c"); err == nil {
			t.Error("a line went into a file without a name, and nobody was told")
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := put("d"); err != nil {
			t.Errorf("after the directory came back: %v", err)
		}
		if ids := logged(t, name); !slices.Equal(ids, []string{"d"}) || counted(t, reg)["write"] != 1 {
			t.Errorf("%v, lost %v", ids, counted(t, reg))
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestLink: it is the file that is rotated, not the link to it.
func TestLink(t *testing.T) {
	dir := t.TempDir()
	link, real := filepath.Join(dir, "link"), filepath.Join(dir, "real")
	if err := os.WriteFile(real, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", link); err != nil {
		t.Fatal(err)
	}
	l := open(t, Options{File: link, Strict: true, Rotate: Rotate{Size: 1}})
	for _, id := range []string{"a", "b"} {
		if err := l.Record(context.Background(), record(id)); err != nil {
			t.Fatal(err)
		}
	}
	if target, err := os.Readlink(link); err != nil || target != "real" {
		t.Errorf("the link: %q %v", target, err)
	}
	if ids := logged(t, real); !slices.Equal(ids, []string{"b", "a"}) {
		t.Errorf("%v", ids)
	}
}

// TestHalfLine: a process died while it wrote. Its line is lost, the next is not.
func TestHalfLine(t *testing.T) {
	name := written(t, `{"id":"whole"}`+"\n"+`{"id":"ha`)
	l := open(t, Options{File: name, Strict: true})
	if err := l.Record(context.Background(), record("next")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if parts := strings.Split(string(text), "\n"); len(parts) != 4 || parts[1] != `{"id":"ha` || !json.Valid([]byte(parts[2])) {
		t.Errorf("%q", text)
	}
}
