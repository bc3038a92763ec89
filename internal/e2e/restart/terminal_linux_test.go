package restart

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
)

// onTerminal starts the program with a terminal of its own, by the command before it, if there is one. hangUp closes the terminal.
func onTerminal(t *testing.T, before ...string) (s *e2e.Site, hangUp func()) {
	t.Helper()
	s = e2e.NewSite(t, "maildir:outbox", "log: {format: json}\n")
	person, terminal := testenv.Terminal(t)
	p := s.Launch(t, "serve.log", func(cmd *exec.Cmd) {
		cmd.Args = append(before, append([]string{cmd.Path}, cmd.Args[1:]...)...)
		path, err := exec.LookPath(cmd.Args[0])
		testenv.Must(t, err)
		cmd.Path, cmd.Stdin = path, terminal
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	})
	t.Cleanup(func() { p.Stop(syscall.SIGKILL) })
	s.Await(t, p)
	terminal.Close()
	return s, func() { person.Close() }
}

// logged waits until the log of the site has text in it.
func logged(t *testing.T, s *e2e.Site, text string) {
	t.Helper()
	log := filepath.Join(s.Dir, "serve.log")
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if strings.Contains(testenv.Read(t, log), text) {
			return
		}
	}
	t.Fatalf("%q was never logged:\n%s", text, testenv.Read(t, log))
}

// gone waits until a process has ended.
func gone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if state, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err != nil || strings.Contains(string(state), ") Z ") {
			return
		}
	}
	t.Fatalf("process %d still runs", pid)
}

// server returns the process in the lock file of the site's state directory.
func server(t *testing.T, s *e2e.Site) int {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(testenv.Read(t, filepath.Join(s.Dir, "state/postern.pid"))))
	testenv.Must(t, err)
	return pid
}

// TestTerminalClosed: a server in the foreground reloads at SIGHUP as long as its terminal is there, and ends cleanly when it is closed.
func TestTerminalClosed(t *testing.T) {
	t.Parallel()
	s, hangUp := onTerminal(t)
	testenv.Must(t, s.Process.Signal(syscall.SIGHUP))
	logged(t, s, `"reloading"`)
	e2e.Get(t, "http://"+s.Admin+"/healthz")
	hangUp()
	if err := s.Process.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	logged(t, s, `"the terminal was closed"`)
	logged(t, s, `"msg":"stopped"`)
}

// TestTerminalOfShellClosed: the same where a shell owns the terminal, in the foreground and in the background.
func TestTerminalOfShellClosed(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{"foreground": `"$0" "$@"; exit 3`, "background": `set -m; "$0" "$@" & wait`} {
		t.Run(name, func(t *testing.T) {
			s, hangUp := onTerminal(t, "bash", "-i", "-c", script)
			pid := server(t, s)
			hangUp()
			gone(t, pid)
			logged(t, s, `"msg":"stopped"`)
		})
	}
}

// TestTerminalOfNohupClosed: under nohup, and in a session of its own, the server outlives the terminal, and SIGHUP is a reload.
func TestTerminalOfNohupClosed(t *testing.T) {
	t.Parallel()
	for name, before := range map[string][]string{"nohup": {"nohup"}, "setsid": {"setsid", "--wait"}} {
		t.Run(name, func(t *testing.T) {
			s, hangUp := onTerminal(t, before...)
			pid := server(t, s)
			hangUp()
			time.Sleep(200 * time.Millisecond) // until the hang-up's own SIGHUP has come, where there is one
			testenv.Must(t, syscall.Kill(pid, syscall.SIGHUP))
			logged(t, s, `"reloading"`)
			e2e.Get(t, "http://"+s.Admin+"/healthz")
			testenv.Must(t, syscall.Kill(pid, syscall.SIGTERM))
			gone(t, pid)
			logged(t, s, `"asked to stop"`)
		})
	}
}
