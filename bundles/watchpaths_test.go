package bundles

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestPathWatcher: a save by writing, one by renaming, a new directory, a removed and re-made one; each is noticed, and what
// is only looked at, is not.
func TestPathWatcher(t *testing.T) {
	dir := tempDir(t, map[string]string{"cases/a.txtar": "one", "b.yaml": "one"})
	later := filepath.Join(dir, "later")
	calls, ready := make(chan struct{}, 100), make(chan struct{})
	w := &PathWatcher{
		Paths:   func() []string { return []string{filepath.Join(dir, "cases"), filepath.Join(dir, "b.yaml"), later} },
		Changed: func(context.Context) { calls <- struct{}{} },
		Settle:  20 * time.Millisecond, Poll: time.Hour,
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { w.Run(ctx, func() { close(ready) }); close(done) }()
	<-ready
	called := func(what string, change func()) {
		t.Helper()
		for len(calls) > 0 {
			<-calls
		}
		change()
		select {
		case <-calls:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: not noticed", what)
		}
	}
	called("written", func() { write(t, dir, map[string]string{"cases/a.txtar": "another"}) })
	called("renamed into place", func() {
		write(t, dir, map[string]string{"cases/.a.tmp": "a third"})
		rename(t, filepath.Join(dir, "cases/.a.tmp"), filepath.Join(dir, "cases/a.txtar"))
	})
	called("a single file renamed into place", func() {
		write(t, dir, map[string]string{"b.new": "two and more"})
		rename(t, filepath.Join(dir, "b.new"), filepath.Join(dir, "b.yaml"))
	})
	called("made later", func() { write(t, later, map[string]string{"sub/c.txtar": "x"}) })
	called("in a new directory", func() { write(t, later, map[string]string{"sub/c.txtar": "longer"}) })
	called("removed", func() { remove(t, filepath.Join(dir, "cases")) })
	called("made again", func() { write(t, dir, map[string]string{"cases/new.txtar": "x"}) })
	if _, err := os.ReadFile(filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
}
