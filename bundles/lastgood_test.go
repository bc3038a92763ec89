package bundles

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"
)

// starting is a watcher that has been started once, as after a restart of the program.
func starting(t *testing.T, source Source, keep string, change func(*Watcher)) (*Watcher, error) {
	t.Helper()
	w := &Watcher{Source: source, Keep: keep, Activate: func(_ context.Context, c *Candidate) error { return nil }}
	if change != nil {
		change(w)
	}
	return w, w.Start(context.Background())
}

func TestLastGood(t *testing.T) {
	dir := tempDir(t, map[string]string{"b/a.rego": module, "b/.manifest": `{"revision": "r7", "roots": ["postern"]}`, "b/README": "read\n",
		"s.yaml": "senders: {a: [1, 2.5]}\n"})
	source, state, data := Dir(filepath.Join(dir, "b")), filepath.Join(dir, "state", "policy"), []string{filepath.Join(dir, "s.yaml")}
	with := func(w *Watcher) { w.Data = data }
	first, err := starting(t, source, state, with)
	if err != nil {
		t.Fatal(err)
	}
	want := first.Active()
	write(t, dir, map[string]string{"b/a.rego": "package broken {"})
	again, err := starting(t, source, state, with)
	if err != nil {
		t.Fatal(err)
	}
	got := again.Active()
	if got.Revision != want.Revision || got.ContentHash != want.ContentHash || !reflect.DeepEqual(got.Bundle.Data, want.Bundle.Data) || !got.LastGood || want.LastGood {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if again.Refused() == nil || again.Refused().Stage != StageLoad || !strings.Contains(again.LastError().Error(), "a.rego:1") {
		t.Errorf("what is wrong with the source is forgotten: %v", again.Refused())
	}
	// The operator's documents are read as they are now, and as they were where they are broken now.
	write(t, dir, map[string]string{"s.yaml": "senders: {b: [3]}\n"})
	if again, err = starting(t, source, state, with); err != nil || !mentions(again.Active(), "b:[3]") {
		t.Errorf("documents of today: %v", err)
	}
	write(t, dir, map[string]string{"s.yaml": "senders: {"})
	if again, err = starting(t, source, state, with); err != nil || !mentions(again.Active(), "a:[1 2.5]") {
		t.Errorf("documents of yesterday: %v", err)
	}
	if _, err = starting(t, source, state, nil); err != nil {
		t.Errorf("without documents: %v", err)
	}
	copyIsSound(t, state)
}

// copyIsSound checks that stock OPA reads the copy, that other users cannot read it, and that a truncated one is not activated.
func copyIsSound(t *testing.T, state string) {
	t.Helper()
	name := filepath.Join(state, lastGood)
	for _, file := range []string{lastGood, lastGoodDocuments} {
		if info, err := os.Stat(filepath.Join(state, file)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v %v", info, err)
		}
	}
	if entries, _ := os.ReadDir(state); len(entries) != 2 {
		t.Errorf("leftovers: %v", entries)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := bundle.NewReader(bytes.NewReader(text)).Read(); err != nil || b.Manifest.Revision != "r7" {
		t.Errorf("stock OPA cannot read it: %v", err)
	}
	nowhere := Dir(filepath.Join(state, "nowhere"))
	for _, cut := range []int{0, 10, len(text) / 2, len(text) - 4} {
		if err := os.WriteFile(name, text[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := starting(t, nowhere, state, nil)
		if err == nil || !strings.Contains(err.Error(), "nowhere: no such file") || !strings.Contains(err.Error(), "the last good copy cannot be activated") {
			t.Errorf("cut to %d bytes: %v", cut, err)
		}
	}
}

func TestWithoutLastGood(t *testing.T) {
	dir := tempDir(t, map[string]string{"file": "", "b/a.rego": module})
	_, err := starting(t, Dir(filepath.Join(dir, "none")), filepath.Join(dir, "state"), nil)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "there is no last good copy in "+filepath.Join(dir, "state")) {
		t.Errorf("got %v", err)
	}
	if err := saveLastGood(filepath.Join(dir, "file"), newContent(&Tree{}, nil)); err == nil || !strings.Contains(err.Error(), "last good") {
		t.Errorf("got %v", err)
	}
	w, err := starting(t, Dir(filepath.Join(dir, "b")), filepath.Join(dir, "file"), nil)
	if err != nil || w.Active() == nil {
		t.Errorf("a copy that cannot be written stops the policy: %v", err)
	}
}

// TestLastGoodIsRefusedToo: the copy goes through the gate, and its signature is verified with the keys of today.
func TestLastGoodIsRefusedToo(t *testing.T) {
	key, other := newSigner(t), newSigner(t)
	files := map[string]string{"a.rego": module, "README.md": "about\n"}
	key.sign(t, files, nil)
	dir, state := tempDir(t, files), filepath.Join(t.TempDir(), "state")
	if _, err := starting(t, Dir(dir), state, func(w *Watcher) { w.Verify = key.trusted() }); err != nil {
		t.Fatal(err)
	}
	gone := Dir(filepath.Join(dir, "gone"))
	if w, err := starting(t, gone, state, func(w *Watcher) { w.Verify = key.trusted() }); err != nil || !w.Active().LastGood {
		t.Errorf("with the same key: %v", err)
	}
	if _, err := starting(t, gone, state, func(w *Watcher) { w.Verify = other.trusted() }); err == nil || !strings.Contains(err.Error(), "no trusted key verifies the signature") {
		t.Errorf("with another key: %v", err)
	}
	if _, err := starting(t, gone, state, func(w *Watcher) {
		w.Activate = func(context.Context, *Candidate) error { return errors.New("not through this gate") }
	}); err == nil || !strings.Contains(err.Error(), "not through this gate") {
		t.Errorf("past the gate: %v", err)
	}
	// A copy of an unsigned bundle is worth nothing once there are keys.
	plain := tempDir(t, map[string]string{"a.rego": module})
	if _, err := starting(t, Dir(plain), state, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := starting(t, gone, state, func(w *Watcher) { w.Verify = key.trusted() }); err == nil || !strings.Contains(err.Error(), "is not signed") {
		t.Errorf("an unsigned copy: %v", err)
	}
}

// TestKilledWhileKeeping: a copy that was half written when the program was killed does not count; the one before does. The half is
// removed with the next copy, unless another process may still be writing it.
func TestKilledWhileKeeping(t *testing.T) {
	dir := tempDir(t, map[string]string{"b/a.rego": module})
	source, state := Dir(filepath.Join(dir, "b")), filepath.Join(dir, "state")
	if _, err := starting(t, source, state, nil); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(state, lastGood))
	if err != nil {
		t.Fatal(err)
	}
	old, half := time.Now().Add(-2*time.Hour), "."+lastGood+"323456789012345678"
	for name, at := range map[string]time.Time{"." + lastGood + "123456789012345678": old, "." + lastGoodDocuments + "223456789012345678": old, half: time.Now()} {
		if err := errors.Join(os.WriteFile(filepath.Join(state, name), whole[:len(whole)/2], 0o600), os.Chtimes(filepath.Join(state, name), at, at)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, map[string]string{"b/a.rego": "package broken {"})
	w, err := starting(t, source, state, nil)
	if err != nil || !w.Active().LastGood {
		t.Errorf("the copy is not activated: %v", err)
	}
	write(t, dir, map[string]string{"b/a.rego": module + "\n# changed\n"})
	if _, err := starting(t, source, state, nil); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(state, ".last-good*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != half {
		t.Errorf("left: %q, %v", left, err)
	}
}

// TestTestsAreRemembered: the next start is told that the tests passed where the bundle and the tester are the same, and only there.
func TestTestsAreRemembered(t *testing.T) {
	dir := tempDir(t, map[string]string{"b/a.rego": module, "b/data.json": `{"own": 1}`, "s.yaml": "senders: {a: [1]}\n"})
	source, state := Dir(filepath.Join(dir, "b")), filepath.Join(dir, "state")
	start := func(tester string, refuse error) *Candidate {
		t.Helper()
		var seen *Candidate
		starting(t, source, state, func(w *Watcher) {
			w.Tester, w.Data = tester, []string{filepath.Join(dir, "s.yaml")}
			w.Activate = func(_ context.Context, c *Candidate) error {
				if seen == nil { // the copy may follow
					seen = c
				}
				return refuse
			}
		})
		return seen
	}
	record := filepath.Join(state, lastGoodTests)
	if start("", nil).Tested {
		t.Error("told at the first start")
	}
	if _, err := os.Stat(record); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remembered without a tester: %v", err)
	}
	if start("one", errors.New("a test fails")).Tested || start("one", nil).Tested {
		t.Error("told although its tests failed")
	}
	if info, err := os.Stat(record); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info, err)
	}
	whole, err := os.ReadFile(record)
	if err != nil || !strings.Contains(string(whole), `"outcome":"passed"`) {
		t.Fatalf("%s, %v", whole, err)
	}
	if !start("one", nil).Tested || start("", nil).Tested {
		t.Error("not told at the second start, or told without a tester")
	}
	write(t, dir, map[string]string{"s.yaml": "senders: {b: [2]}\n"})
	if !start("one", nil).Tested {
		t.Error("the operator's documents are no part of the tests")
	}
	if start("two", nil).Tested || start("one", nil).Tested {
		t.Error("told for another tester")
	}
	for name, text := range map[string]string{"b/a.rego": module + "\n# changed\n", "b/data.json": `{"own": 2}`} {
		write(t, dir, map[string]string{name: text})
		if start("one", nil).Tested {
			t.Errorf("told although %s has changed", name)
		}
	}
	if whole, err = os.ReadFile(record); err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"empty": "", "half": string(whole[:len(whole)/2]), "more": string(whole) + " ",
		"another outcome": strings.Replace(string(whole), "passed", "failed", 1), "long": string(whole) + strings.Repeat(" ", 2*maxPassed)} {
		if err := os.WriteFile(record, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if start("one", errors.New("refused")).Tested {
			t.Errorf("a record that is %s is believed", what)
		}
	}
	if err := os.WriteFile(record, []byte(strings.Replace(string(whole), `"tester":"one"`, `"tester":""`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if start("", nil).Tested {
		t.Error("a record without a tester is believed")
	}
}

// TestStartIsPatient: a source that takes too long does not keep clients waiting where there is a copy to start with. Without a sound copy
// they have to wait.
func TestStartIsPatient(t *testing.T) {
	dir := tempDir(t, map[string]string{"b/a.rego": module})
	source, state := Dir(filepath.Join(dir, "b")), filepath.Join(dir, "state")
	calls := 0
	slow := func(w *Watcher) {
		w.Patience = 50 * time.Millisecond
		w.Activate = func(ctx context.Context, c *Candidate) error {
			calls++
			if c.LastGood {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(500 * time.Millisecond):
				return nil
			}
		}
	}
	if w, err := starting(t, source, state, slow); err != nil || w.Active().LastGood || calls != 1 {
		t.Fatalf("without a copy: %v, %d tries", err, calls)
	}
	write(t, dir, map[string]string{"b/a.rego": module + "\n# changed\n"})
	w, err := starting(t, source, state, slow)
	if err != nil || !w.Active().LastGood {
		t.Fatalf("with a copy: %v", err)
	}
	if r := w.Refused(); r == nil || r.Stage != StageTest || !strings.Contains(r.Error(), "was not ready within 50ms") {
		t.Errorf("refused: %+v", r)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	for deadline := time.Now().Add(20 * time.Second); w.LastError() != nil && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	<-done
	if w.LastError() != nil || !mentions(w.Active(), "# changed") {
		t.Errorf("what took too long is never tried again: %v", w.LastError())
	}
	if err := os.WriteFile(filepath.Join(state, lastGood), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if w, err := starting(t, source, state, slow); err != nil || w.Active().LastGood {
		t.Errorf("with a broken copy: %v", err)
	}
	gone, stop := context.WithCancel(context.Background())
	stop()
	if err := w.Start(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
}
