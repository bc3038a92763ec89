package bundles

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func rule(text string) string { return fmt.Sprintf("package a\n\nnote contains %q if true\n", text) }

func TestWatchScenarios(t *testing.T) {
	cases := []struct {
		name   string
		change func(t *testing.T, o *observed, dir string)
	}{
		{"write in place", func(t *testing.T, o *observed, dir string) {
			write(t, dir, map[string]string{"a.rego": rule("two")})
		}},
		{"vim rename and save", func(t *testing.T, o *observed, dir string) {
			write(t, dir, map[string]string{".a.rego.swp": "swap", "4913": ""})
			remove(t, filepath.Join(dir, "4913"))
			rename(t, filepath.Join(dir, "a.rego"), filepath.Join(dir, "a.rego~"))
			write(t, dir, map[string]string{"a.rego": rule("two")})
			remove(t, filepath.Join(dir, "a.rego~"))
		}},
		{"emacs backup and lock", func(t *testing.T, o *observed, dir string) {
			link(t, "user@host.1:2", filepath.Join(dir, ".#a.rego"))
			write(t, dir, map[string]string{"#a.rego#": "package broken {"})
			rename(t, filepath.Join(dir, "a.rego"), filepath.Join(dir, "a.rego~"))
			write(t, dir, map[string]string{"a.rego": rule("two")})
			remove(t, filepath.Join(dir, ".#a.rego"))
		}},
		{"atomic replace", func(t *testing.T, o *observed, dir string) {
			write(t, dir, map[string]string{".new": rule("two")})
			rename(t, filepath.Join(dir, ".new"), filepath.Join(dir, "a.rego"))
		}},
		{"nested directory made later", func(t *testing.T, o *observed, dir string) {
			write(t, dir, map[string]string{"x/y/z/b.rego": "package b\n"})
			o.until("the nested module", func() bool { return len(o.w.Active().Bundle.Modules) == 2 })
			write(t, dir, map[string]string{"x/y/z/b.rego": "package b\n\nx := \"two\"\n"})
		}},
		{"directory moved in", func(t *testing.T, o *observed, dir string) {
			other := tempDir(t, map[string]string{"m/b.rego": "package b\n"})
			rename(t, filepath.Join(other, "m"), filepath.Join(dir, "m"))
			o.until("the moved module", func() bool { return len(o.w.Active().Bundle.Modules) == 2 })
			write(t, dir, map[string]string{"m/b.rego": "package b\n\nx := \"two\"\n"})
		}},
		{"root removed and re-created", func(t *testing.T, o *observed, dir string) {
			for round := range 3 {
				remove(t, dir)
				o.until("the failure", func() bool { return o.w.LastError() != nil })
				text := fmt.Sprint("round ", round)
				write(t, dir, map[string]string{"a.rego": rule(text)})
				o.untilRule(text)
			}
			write(t, dir, map[string]string{"a.rego": rule("two")})
		}},
		{"root replaced by rename", func(t *testing.T, o *observed, dir string) {
			write(t, dir+".new", map[string]string{"a.rego": rule("next")})
			rename(t, dir, dir+".old")
			rename(t, dir+".new", dir)
			o.untilRule("next")
			write(t, dir, map[string]string{"a.rego": rule("two")})
		}},
		{"parent removed and re-created", func(t *testing.T, o *observed, dir string) {
			remove(t, filepath.Dir(dir))
			o.until("the failure", func() bool { return o.w.LastError() != nil })
			write(t, dir, map[string]string{"a.rego": rule("two")})
		}},
		{"half-written, then whole", func(t *testing.T, o *observed, dir string) {
			whole := rule("two")
			write(t, dir, map[string]string{"a.rego": whole[:len(whole)-12]})
			o.until("the failure", func() bool { return o.w.LastError() != nil })
			if !mentions(o.w.Active(), "one") {
				t.Error("the last good policy is gone")
			}
			write(t, dir, map[string]string{"a.rego": whole})
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "etc", "policies")
			write(t, dir, map[string]string{"a.rego": rule("one")})
			o := watch(t, Dir(dir), nil)
			o.untilRule("one")
			c.change(t, o, dir)
			o.untilRule("two")
			o.until("the metric", func() bool { return o.metric("postern_policy_last_reload_successful") == 1 })
		})
	}
}

func TestWatchKubernetesSwap(t *testing.T) {
	t.Parallel()
	dir := kubernetesVolume(t, "1", map[string]string{"a.rego": rule("one"), "senders.yaml": "senders: {a: [one]}"})
	o := watch(t, Dir(dir), func(w *Watcher) { w.Data = []string{filepath.Join(dir, "senders.yaml")} })
	o.untilRule("one")
	for i := 2; i < 5; i++ {
		text := fmt.Sprint("revision", i)
		swap(t, dir, fmt.Sprint(i), map[string]string{"a.rego": rule(text), "senders.yaml": "senders: {a: [" + text + "]}"})
		remove(t, filepath.Join(dir, fmt.Sprint("..2026_", i-1)))
		c := o.untilRule(text)
		if len(c.Bundle.Modules) != 1 || !mentions(c, "[revision") {
			t.Errorf("modules %v, data %v", c.Files, c.Bundle.Data)
		}
	}
}

func TestWatchSymlinkedRelease(t *testing.T) {
	t.Parallel()
	dir := tempDir(t, map[string]string{"r1/p/a.rego": rule("one"), "r2/p/a.rego": rule("two")})
	link(t, "r1", filepath.Join(dir, "current"))
	o := watch(t, Dir(filepath.Join(dir, "current", "p")), nil)
	o.untilRule("one")
	link(t, "r2", filepath.Join(dir, "next"))
	rename(t, filepath.Join(dir, "next"), filepath.Join(dir, "current"))
	o.untilRule("two")
	write(t, dir, map[string]string{"r2/p/a.rego": rule("three")})
	o.untilRule("three")
}

func TestWatchWhatDoesNotExistYet(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := watch(t, Dir(filepath.Join(dir, "a", "b", "c")), nil)
	o.until("the failure", func() bool { return o.w.LastError() != nil })
	write(t, dir, map[string]string{"a/other": ""})
	write(t, dir, map[string]string{"a/b/c/a.rego": rule("one")})
	o.untilRule("one")
}

func TestWatchTarballSwapped(t *testing.T) {
	t.Parallel()
	name := buildTarball(t, regular("/a.rego", rule("one")))
	o := watch(t, Tarball(name), nil)
	o.untilRule("one")
	rename(t, buildTarball(t, regular("/a.rego", rule("two"))), name)
	o.untilRule("two")
	whole := packed(t, regular("/a.rego", rule("three")))
	for _, part := range [][]byte{whole[:len(whole)/2], whole} { // copied in place, with a pause
		if err := os.WriteFile(name, part, 0o644); err != nil {
			t.Fatal(err)
		}
		if len(part) < len(whole) {
			o.until("the failure", func() bool { return o.w.LastError() != nil })
		}
	}
	o.untilRule("three")
	remove(t, name)
	o.until("the failure", func() bool { return o.w.LastError() != nil })
	if err := os.WriteFile(name, packed(t, regular("/a.rego", rule("four"))), 0o644); err != nil {
		t.Fatal(err)
	}
	o.untilRule("four")
}

func TestWatchDataOnlyChange(t *testing.T) {
	t.Parallel()
	dir := tempDir(t, map[string]string{"p/a.rego": rule("one"), "senders.yaml": "senders: {a: [first]}"})
	o := watch(t, Dir(filepath.Join(dir, "p")), func(w *Watcher) { w.Data = []string{filepath.Join(dir, "senders.yaml")} })
	first := o.untilRule("first")
	write(t, dir, map[string]string{"senders.yaml": "senders: {a: [second]}"})
	second := o.untilRule("second")
	if first.ModulesHash != second.ModulesHash || first.DataHash == second.DataHash {
		t.Error("the change is not told to be one of data")
	}
	o.until("the log", func() bool { return o.logged("data_only=true") == 1 })
}

func TestWatchBrokenThenFixed(t *testing.T) {
	t.Parallel()
	dir := tempDir(t, map[string]string{"a.rego": rule("one")})
	o := watch(t, Dir(dir), func(w *Watcher) { w.Poll = 20 * time.Millisecond })
	o.untilRule("one")
	write(t, dir, map[string]string{"a.rego": "package a\n\nx { true }\n"})
	o.until("the failure", func() bool { return o.metric("postern_policy_last_reload_successful") == 0 })
	o.until("place and text in the log", func() bool { return o.logged(filepath.Join(dir, "a.rego")+":3:1") > 0 && o.logged("x { true }") > 0 })
	for range 3 { // touched, not changed
		now := time.Now()
		if err := os.Chtimes(filepath.Join(dir, "a.rego"), now, now); err != nil {
			t.Fatal(err)
		}
		time.Sleep(60 * time.Millisecond)
	}
	if n := o.logged("not activated"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	write(t, dir, map[string]string{"a.rego": rule("one")}) // what is active already
	o.until("the recovery", func() bool { return o.w.LastError() == nil })
	o.until("the metric", func() bool { return o.metric("postern_policy_last_reload_successful") == 1 })
	if n := o.activations(); n != 1 {
		t.Errorf("activated %d times", n)
	}
}

func TestWatchGateRefuses(t *testing.T) {
	t.Parallel()
	dir := tempDir(t, map[string]string{"a.rego": rule("one")})
	o := watch(t, Dir(dir), nil)
	o.untilRule("one")
	o.refusing(errors.New("undefined stage"))
	write(t, dir, map[string]string{"a.rego": rule("two")})
	o.until("the refusal", func() bool { return o.w.LastError() != nil })
	if !mentions(o.w.Active(), "one") {
		t.Error("the last good policy is gone")
	}
	o.refusing(nil)
	o.w.Trigger() // the same content, tried again on request
	o.untilRule("two")
	if n := o.logged("undefined stage"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	if s, f := o.metric("postern_policy_reloads_total", "success"), o.metric("postern_policy_reloads_total", "failure"); s != 2 || f != 1 {
		t.Errorf("%v successes, %v failures", s, f)
	}
	if n := o.metric("postern_policy_revision", o.w.Active().Revision); n != 1 {
		t.Errorf("revision %v", n)
	}
}

func TestWatchBurst(t *testing.T) {
	t.Parallel()
	dir := tempDir(t, map[string]string{"a.rego": rule("one")})
	o := watch(t, Dir(dir), func(w *Watcher) { w.Settle = 200 * time.Millisecond })
	o.untilRule("one")
	for i := range 100 {
		write(t, dir, map[string]string{fmt.Sprintf("f%d.rego", i%10): rule(fmt.Sprint("burst", i)), "a.rego": rule(fmt.Sprint("burst", i))})
	}
	o.untilRule(`"burst99"`)
	if n := o.activations(); n > 20 {
		t.Errorf("%d activations of 200 writes", n)
	}
}

// pathless is a source that does not say where it is, as one on the network.
type pathless struct{ Source }

func (pathless) Paths() []string { return nil }

// TestWatchPolling: a source without paths, for which there are no events, is looked at again at intervals.
func TestWatchPolling(t *testing.T) {
	t.Parallel()
	dir := tempDir(t, map[string]string{"p/a.rego": rule("one")})
	o := watch(t, pathless{Dir(filepath.Join(dir, "p"))}, func(w *Watcher) { w.Settle, w.Poll = time.Millisecond, 5*time.Millisecond })
	o.untilRule("one")
	write(t, dir, map[string]string{"p/a.rego": rule("two")})
	o.untilRule("two")
}

func TestStartReports(t *testing.T) {
	t.Parallel()
	dir := tempDir(t, map[string]string{"bad/a.rego": "package"})
	o := &observed{t: t}
	w := &Watcher{Source: Dir(filepath.Join(dir, "bad")), Activate: o.activate}
	var load *LoadError
	if err := w.Start(context.Background()); !errors.As(err, &load) || load.File != "a.rego" {
		t.Fatalf("got %v", err)
	}
	if r := w.Refused(); r == nil || r.Stage != StageLoad || r.Since.IsZero() {
		t.Errorf("refused: %+v", r)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.Start(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestWatchWaitsForQuiet: a bundle that is being written, file by file, is read when it has been quiet for as long as Settle, and not before.
func TestWatchWaitsForQuiet(t *testing.T) {
	t.Parallel()
	const settle = 2 * time.Second
	dir := tempDir(t, map[string]string{"a.rego": rule("start")})
	o := watch(t, Dir(dir), func(w *Watcher) { w.Settle = settle })
	o.untilRule("start")
	for try := range 5 {
		before, last, pause := o.activations(), time.Now(), time.Duration(0)
		for i := range 6 {
			write(t, dir, map[string]string{"a.rego": rule(fmt.Sprintf("try %d step %d", try, i))})
			time.Sleep(100 * time.Millisecond)
			pause, last = max(pause, time.Since(last)), time.Now()
		}
		o.untilRule(fmt.Sprintf("try %d step 5", try))
		if n := o.activations() - before; n == 1 {
			return
		} else if pause < settle/2 {
			t.Fatalf("%d activations of one series of writes, with pauses of %v at most", n, pause)
		} // the machine was too busy to write often enough
	}
	t.Fatal("the machine was too busy to write often enough")
}
