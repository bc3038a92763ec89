package security

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
)

// TestNoCore: a crash with everything set up for a core file leaves none, and another process of the same user cannot read the
// program's memory.
func TestNoCore(t *testing.T) {
	t.Parallel()
	s := e2e.NewSite(t, "maildir:state/outbox", "")
	for _, name := range []string{"users.yaml", "senders.yaml", "postern.yaml"} {
		if err := os.Chmod(filepath.Join(s.Dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	state := filepath.Join(s.Dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(state, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(testenv.ShortDir(t), "postern")
	s.Start(t, func(cmd *exec.Cmd) {
		if err := exec.Command("cp", cmd.Path, program).Run(); err != nil { // the user nobody cannot read the directory of the built program
			t.Fatal(err)
		}
		cmd.Path, cmd.Dir = program, state
		cmd.Env = append(cmd.Environ(), "GOTRACEBACK=crash")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	})
	pid := s.Process.Pid()
	limits := testenv.Read(t, fmt.Sprintf("/proc/%d/limits", pid))
	if !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).MatchString(limits) {
		t.Errorf("limits:\n%s", limits)
	}
	peer := exec.Command("cat", fmt.Sprintf("/proc/%d/maps", pid))
	peer.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := peer.CombinedOutput(); err == nil || !strings.Contains(string(out), "Permission denied") {
		t.Errorf("another process of the user reads our memory's map: %v\n%.200s", err, out)
	}
	// The same question about a process that does not hide itself, or the answer proves nothing.
	sleep := exec.Command("sleep", "60")
	sleep.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { sleep.Process.Kill(); sleep.Wait() }()
	control := exec.Command("cat", fmt.Sprintf("/proc/%d/maps", sleep.Process.Pid))
	control.SysProcAttr = peer.SysProcAttr
	if out, err := control.CombinedOutput(); err != nil {
		t.Errorf("control: %v\n%s", err, out)
	}
	s.Process.Signal(syscall.SIGABRT)
	s.Process.Wait()
	status, ok := s.Process.Cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.CoreDump() {
		t.Errorf("ended with %v", s.Process.Cmd.ProcessState)
	}
	if got := serveLog(t, s); !strings.Contains(got, "SIGABRT") || strings.Contains(got, e2e.Password) {
		t.Errorf("log: %s", got)
	}
}

func serveLog(t *testing.T, s *e2e.Site) string { return testenv.Read(t, s.Process.Log) }
