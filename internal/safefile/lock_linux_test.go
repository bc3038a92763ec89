package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLock: one process at a time, whose number the error of the others has; the kernel releases the lock of one that was killed.
func TestLock(t *testing.T) {
	if name := os.Getenv("SAFEFILE_LOCKED"); name != "" {
		if _, err := AcquireLock(name); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("locked")
		select {}
	}
	self, err := os.Executable()
	must(t, err)
	name := filepath.Join(t.TempDir(), "lock")
	start := func() (*exec.Cmd, string) {
		t.Helper()
		cmd := exec.Command(self, "-test.run=^TestLock$")
		cmd.Env = append(os.Environ(), "SAFEFILE_LOCKED="+name)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		text := make([]byte, 200)
		n, err := out.Read(text)
		must(t, err)
		return cmd, strings.TrimSpace(strings.SplitN(string(text[:n]), "\n", 2)[0])
	}
	first, said := start()
	if said != "locked" {
		t.Fatal(said)
	}
	if _, said := start(); said != fmt.Sprintf("%s is locked by process %d", name, first.Process.Pid) {
		t.Errorf("the second process says %q", said)
	}
	var held *LockedError
	if _, err := AcquireLock(name); !errors.As(err, &held) || held.Pid != first.Process.Pid {
		t.Errorf("got %v", err)
	}
	holds(t, name, fmt.Sprintf("%d\n", first.Process.Pid), 0o600, "lock")
	must(t, first.Process.Kill())
	first.Wait()
	l, err := AcquireLock(name)
	must(t, err)
	holds(t, name, fmt.Sprintf("%d\n", os.Getpid()), 0o600, "lock")
	// Within one process, too.
	if _, err := AcquireLock(name); !errors.As(err, &held) || held.Pid != os.Getpid() {
		t.Errorf("got %v", err)
	}
	l.Release()
	holds(t, name, "", 0o600, "lock")
	l, err = AcquireLock(name)
	must(t, err)
	l.Release()
	(*Lock)(nil).Release()
}

// TestLockElsewhere: what is in the file is read with care, a link is not followed, and a missing directory is an error.
func TestLockElsewhere(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Symlink("target", filepath.Join(dir, "link")))
	if _, err := AcquireLock(filepath.Join(dir, "link")); err == nil {
		t.Error("a link was followed")
	}
	if _, err := AcquireLock(filepath.Join(dir, "none", "lock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	for text, want := range map[string]int{"": 0, "12": 12, "12\n": 12, "-3\n": 0, "x": 0, strings.Repeat("1", 100): 0} {
		f, err := os.Open(put(t, filepath.Join(dir, "pid"), text))
		must(t, err)
		if got := readPid(f); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
		f.Close()
	}
	if text := (&LockedError{Name: "f"}).Error(); text != "f is locked by another process" {
		t.Error(text)
	}
}
