package daemon

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// TestReloadIsTriedAgain: a file that could not be read when it changed, for a reason that passes, is read at the next poll. Each failure
// is logged once.
func TestReloadIsTriedAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	var log bytes.Buffer
	var fails error
	reads := 0
	l := newReloads([]fileSet{{"things", []string{file}, func() error { reads++; return fails }}}, slog.New(slog.NewTextHandler(&log, nil)))
	step := func(what string, force bool, wantReads, wantSaid int) {
		t.Helper()
		reads = 0
		l.changed(force)
		if said := bytes.Count(log.Bytes(), []byte("reload failed")); reads != wantReads || said != wantSaid {
			t.Errorf("%s: read %d times, want %d; %d failures logged, want %d", what, reads, wantReads, said, wantSaid)
		}
	}
	step("nothing has changed", false, 0, 0)
	write("three")
	fails = errors.New("too many open files")
	step("it changes, and cannot be read", false, 1, 1)
	step("it still cannot", false, 1, 1)
	fails = errors.New("permission denied")
	step("for another reason", false, 1, 2)
	step("somebody asks", true, 1, 3)
	fails = nil
	step("it can be read", false, 1, 3)
	step("nothing has changed", false, 0, 3)
	step("somebody asks", true, 1, 3)
}
