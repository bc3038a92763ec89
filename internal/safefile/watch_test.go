package safefile

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// watched is a Watcher that runs, and how often it has called.
type watched struct {
	t     *testing.T
	calls chan bool // asked
}

// watch runs w until the test ends. It polls only if the test says so, so that a poll cannot hide a lost event.
func watch(t *testing.T, w *Watcher, paths ...string) *watched {
	t.Helper()
	o := &watched{t, make(chan bool, 1000)}
	w.Paths = func() []string { return paths }
	w.Changed = func(_ context.Context, asked bool) { o.calls <- asked }
	w.Settle = max(w.Settle, 20*time.Millisecond)
	if w.Poll == 0 {
		w.Poll = -1
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			t.Fatal("Run does not end")
		}
	})
	select {
	case <-o.calls:
	case <-time.After(30 * time.Second):
		t.Fatal("not called at first")
	}
	return o
}

// called checks that change leads to a call.
func (o *watched) called(what string, change func()) (asked bool) {
	o.t.Helper()
	o.drain()
	change()
	select {
	case asked = <-o.calls:
	case <-time.After(30 * time.Second):
		o.t.Fatalf("%s: not noticed", what)
	}
	return asked
}

// quiet checks that change does not lead to a call.
func (o *watched) quiet(what string, change func()) {
	o.t.Helper()
	time.Sleep(100 * time.Millisecond)
	o.drain()
	change()
	time.Sleep(200 * time.Millisecond)
	if n := len(o.calls); n > 0 {
		o.t.Errorf("%s: %d calls", what, n)
	}
}

func (o *watched) drain() {
	for len(o.calls) > 0 {
		<-o.calls
	}
}

// TestWatcher goes through the ways in which files change.
func TestWatcher(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir+"/cases/a.txtar", "one")
	put(t, dir+"/b.yaml", "one")
	later := dir + "/later"
	o := watch(t, &Watcher{Dotfiles: []string{".manifest"}}, dir+"/cases", dir+"/b.yaml", later)
	o.called("written", func() { put(t, dir+"/cases/a.txtar", "another") })
	o.called("renamed into place", func() {
		must(t, os.Rename(put(t, dir+"/cases/.a.tmp", "a third"), dir+"/cases/a.txtar"))
	})
	o.called("a single file renamed into place", func() { must(t, os.Rename(put(t, dir+"/b.new", "two"), dir+"/b.yaml")) })
	o.called("the same again", func() { must(t, os.Rename(put(t, dir+"/b.new", "three"), dir+"/b.yaml")) })
	o.called("vim", func() {
		must(t, os.Rename(dir+"/b.yaml", dir+"/b.yaml~"))
		put(t, dir+"/b.yaml", "four")
		must(t, os.Remove(dir+"/b.yaml~"))
	})
	o.called("made later", func() { put(t, later+"/sub/c.txtar", "x") })
	o.called("in a new directory", func() { put(t, later+"/sub/c.txtar", "longer") })
	o.called("removed", func() { must(t, os.RemoveAll(dir+"/cases")) })
	o.called("made again", func() { put(t, dir+"/cases/new.txtar", "x") })
	o.called("written there", func() { put(t, dir+"/cases/new.txtar", "xy") })
	o.called("a dotfile that counts", func() { put(t, dir+"/cases/.manifest", "x") })
	o.quiet("other dotfiles and files beside", func() {
		put(t, dir+"/cases/.new.txtar.swp", "x")
		put(t, dir+"/other", "x")
	})
	o.quiet("touched, not changed", func() {
		now := time.Now().Add(time.Hour)
		must(t, os.Chtimes(dir+"/b.yaml", now, now))
		put(t, dir+"/cases/new.txtar", "xy")
	})
}

// TestWatcherEqualSizeAndTime: a file that is replaced by another of the same size and modification time, as rsync, cp -p
// and tar do it, is noticed, by the event and by the poll.
func TestWatcherEqualSizeAndTime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := put(t, dir+"/users.yaml", "one")
	at := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(name, at, at))
	before := Fingerprint(name)
	o := watch(t, &Watcher{}, name)
	o.called("replaced", func() {
		other := put(t, dir+"/new", "two")
		must(t, os.Chtimes(other, at, at))
		must(t, os.Rename(other, name))
	})
	if Fingerprint(name) == before {
		t.Error("the fingerprint is the same")
	}
	before = Fingerprint(name)
	o.called("written in place", func() {
		put(t, name, "six")
		must(t, os.Chtimes(name, at, at))
	})
	if Fingerprint(name) == before {
		t.Error("the fingerprint is the same")
	}
}

// TestFingerprint: what changes it, and what does not. The files are larger and smaller than what is hashed.
func TestFingerprint(t *testing.T) {
	dir := t.TempDir()
	small, large := put(t, dir+"/small", "x"), put(t, dir+"/d/large", string(make([]byte, maxHashed+1)))
	last := Fingerprint(small, dir+"/d", dir+"/none")
	changes := func(what string, want bool, change func()) {
		t.Helper()
		change()
		now := Fingerprint(small, dir+"/d", dir+"/none")
		if (now != last) != want {
			t.Errorf("%s: changed %v, want %v", what, now != last, want)
		}
		last = now
	}
	at := time.Now().Add(-time.Hour)
	changes("nothing", false, func() {})
	changes("a small file's time", false, func() { must(t, os.Chtimes(small, at, at)) })
	changes("a small file's content", true, func() { put(t, small, "y"); must(t, os.Chtimes(small, at, at)) })
	changes("a large file's time", true, func() { must(t, os.Chtimes(large, at, at)) })
	changes("a large file's content", true, func() {
		put(t, large, string(bytes.Repeat([]byte{'x'}, maxHashed+1)))
		must(t, os.Chtimes(large, at, at))
	})
	changes("a new file", true, func() { put(t, dir+"/d/more", "") })
	changes("a hidden directory", false, func() { put(t, dir+"/d/.git/x", "") })
	changes("made", true, func() { put(t, dir+"/none", "") })
	changes("removed", true, func() { must(t, os.Remove(dir+"/none")) })
	changes("a dangling link", true, func() { must(t, os.Symlink("nowhere", dir+"/d/link")) })
	changes("a link to a directory", true, func() {
		must(t, os.Remove(dir+"/d/link"))
		must(t, os.Symlink(".", dir+"/d/link"))
	})
}

// TestWatcherKubernetes: the link ..data is swapped, and the file is watched by its own name or with its directory.
func TestWatcherKubernetes(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"", "/users.yaml"} {
		dir := t.TempDir()
		swap := func(revision, text string) {
			put(t, dir+"/.."+revision+"/users.yaml", text)
			must(t, os.Symlink(".."+revision, dir+"/..data_tmp"))
			must(t, os.Rename(dir+"/..data_tmp", dir+"/..data"))
		}
		swap("1", "one")
		must(t, os.Symlink("..data/users.yaml", dir+"/users.yaml"))
		o := watch(t, &Watcher{}, dir+path)
		for _, revision := range []string{"2", "3", "4"} {
			o.called("swap "+revision, func() { swap(revision, revision+revision+revision) })
		}
	}
}

// TestWatcherLinkedRelease: a link on the way to the file is swapped.
func TestWatcherLinkedRelease(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir+"/r1/p/f", "one")
	put(t, dir+"/r2/p/f", "two")
	must(t, os.Symlink("r1", dir+"/current"))
	o := watch(t, &Watcher{}, dir+"/current/p/f")
	o.called("swapped", func() {
		must(t, os.Symlink("r2", dir+"/next"))
		must(t, os.Rename(dir+"/next", dir+"/current"))
	})
	o.called("written there", func() { put(t, dir+"/r2/p/f", "three") })
	o.quiet("written where it led before", func() { put(t, dir+"/r1/p/f", "four") })
}

// TestWatcherSettles: many writes are one call or few, and a file that is never quiet is read all the same.
func TestWatcherSettles(t *testing.T) {
	t.Parallel()
	name := put(t, filepath.Join(t.TempDir(), "f"), "")
	o := watch(t, &Watcher{Settle: 100 * time.Millisecond}, name)
	o.drain()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer f.Close()
	writes := 0
	for begin := time.Now(); time.Since(begin) < 3*time.Second; time.Sleep(5 * time.Millisecond) {
		writes++
		_, err := f.WriteString("x") // never cut: an empty file would look as it did at first
		must(t, err)
	}
	if n := len(o.calls); n < 1 || n > max(5, writes/4) {
		t.Errorf("%d calls for %d writes in three seconds, want about three", n, writes)
	}
}

// TestWatcherAsk: it calls at once, although nothing has changed, and says why.
func TestWatcherAsk(t *testing.T) {
	t.Parallel()
	name := put(t, filepath.Join(t.TempDir(), "f"), "")
	ask := make(chan struct{}, 1)
	o := watch(t, &Watcher{Ask: ask}, name)
	if !o.called("asked", func() { ask <- struct{}{} }) {
		t.Error("Changed is not told that somebody asked")
	}
	if o.called("changed", func() { put(t, name, "x") }) {
		t.Error("Changed is told that somebody asked")
	}
}

// TestWatcherDue: it calls at a poll although nothing has changed, as long as Due says so.
func TestWatcherDue(t *testing.T) {
	t.Parallel()
	var due atomic.Bool
	o := watch(t, &Watcher{Poll: 5 * time.Millisecond, Due: due.Load}, put(t, filepath.Join(t.TempDir(), "f"), ""))
	o.called("due", func() { due.Store(true) })
	due.Store(false)
	o.quiet("not due", func() {})
}

// TestWatcherPolls proves the fallback: there are no events at all.
func TestWatcherPolls(t *testing.T) {
	t.Parallel()
	name := put(t, filepath.Join(t.TempDir(), "f"), "one")
	calls := 0
	w := &Watcher{
		Paths: func() []string { return []string{name} }, Changed: func(context.Context, bool) { calls++ },
		Settle: time.Millisecond, Poll: 5 * time.Millisecond, watches: &watchSet{},
	}
	w.setDefaults()
	w.seen = Fingerprint(name)
	put(t, name, "two")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for calls == 0 && ctx.Err() == nil {
		w.wait(ctx)
	}
	w.watches.Close()
	if calls != 1 {
		t.Error("polling found nothing")
	}
}

// TestWatcherSaysWhatItCannot: where a path cannot be watched, the log says so and the others are watched.
func TestWatcherSaysWhatItCannot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.Symlink("loop", dir+"/loop"))
	name := put(t, dir+"/d/f", "one")
	var log bytes.Buffer
	o := watch(t, &Watcher{Log: slog.New(slog.NewTextHandler(&log, nil))}, dir+"/loop", name)
	o.called("written", func() { put(t, name, "two") })
	if !bytes.Contains(log.Bytes(), []byte(dir+"/loop")) {
		t.Errorf("the log says %q", log.String())
	}
}

// TestWatcherWaitsForQuiet: one call for a series of writes, once it is over for as long as Settle.
func TestWatcherWaitsForQuiet(t *testing.T) {
	t.Parallel()
	const settle = time.Second
	name := put(t, filepath.Join(t.TempDir(), "f"), "start")
	o := watch(t, &Watcher{Settle: settle}, name)
	for try := range 5 {
		last, pause := time.Now(), time.Duration(0)
		for i := range 6 {
			put(t, name, fmt.Sprint(try, i))
			time.Sleep(50 * time.Millisecond)
			pause, last = max(pause, time.Since(last)), time.Now()
		}
		early := len(o.calls)
		select {
		case <-o.calls:
		case <-time.After(30 * time.Second):
			t.Fatal("not noticed")
		}
		quiet := time.Since(last)
		time.Sleep(100 * time.Millisecond)
		if early == 0 && len(o.calls) == 0 && quiet > settle/2 && quiet < 5*settle {
			return
		} else if pause < settle/2 && quiet < 5*settle {
			t.Fatalf("%d calls while it was written, the first one %v after that, %d more", early, quiet, len(o.calls))
		} // the machine was too busy to write often enough, or to call in time
		o.drain()
	}
	t.Fatal("the machine was too busy, or the call comes late")
}

// TestWatcherIsNotPutOffForEver: a file that is never quiet is read after ten times Settle, and not much before.
func TestWatcherIsNotPutOffForEver(t *testing.T) {
	t.Parallel()
	w := &Watcher{Settle: time.Minute}
	w.setDefaults()
	w.settle()
	began := w.since
	if began.IsZero() || !w.settling.Stop() {
		t.Fatal("the first event starts no timer")
	}
	w.settle()
	if !w.since.Equal(began) || !w.settling.Stop() {
		t.Error("a further event moves the bound, or does not put off the look")
	}
	w.since = began.Add(-9 * time.Minute)
	w.settle()
	if !w.settling.Stop() {
		t.Error("an event before the bound does not put off the look")
	}
	w.since = began.Add(-10*time.Minute - time.Second)
	w.settle()
	if w.settling.Stop() {
		t.Error("an event after the bound puts off the look again")
	}
}
