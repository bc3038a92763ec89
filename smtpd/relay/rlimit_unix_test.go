//go:build unix

package relay

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
)

const limitedDir = "POSTERN_TEST_LIMITED_MAILDIR" // set in the child process

// TestMaildirFileLimit makes a real write fail in the middle of a message, in a child process with a limit of 50,000 octets for files.
// As on a full disk, no file is left.
func TestMaildirFileLimit(t *testing.T) {
	if dir := os.Getenv(limitedDir); dir != "" {
		deliverLimited(t, dir)
		return
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMaildirFileLimit$", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), limitedDir+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n, tmp := len(filesIn(t, dir, "new")), len(filesIn(t, dir, "tmp")); n != 1 || tmp != 0 {
		t.Errorf("%d files in new, %d in tmp; want the small message alone", n, tmp)
	}
}

func deliverLimited(t *testing.T, dir string) {
	signal.Ignore(syscall.SIGXFSZ)
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &lim); err != nil {
		t.Fatal(err)
	}
	lim.Cur = 50_000
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &lim); err != nil {
		t.Fatal(err)
	}
	h := openHop(t, Options{}, "maildir:"+dir)
	err := send(h, "X1", large)
	if e := wantError(t, err, stageData, "451 4.3.0 Temporary failure, try again later"); !errors.Is(e, syscall.EFBIG) {
		t.Errorf("cause %v", e.Cause)
	}
	if err := send(h, "X2", small); err != nil {
		t.Errorf("the next one: %v", err)
	}
}
