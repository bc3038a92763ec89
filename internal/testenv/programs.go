package testenv

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Program returns the path of the first of names that is installed. If none is, the test fails and names the Debian package.
func Program(t testing.TB, debianPackage string, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatalf("%s is missing: apt-get install %s", names[0], debianPackage)
	return ""
}

// StockOPA returns the path of Open Policy Agent's own program, in the version that go.mod names.
var StockOPA = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "tool", "-n", "opa").Output()
	if err != nil {
		return "", fmt.Errorf("go tool -n opa: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
})

// Output runs a program, which is also the name of its Debian package, for at most a minute. It returns what the program wrote to
// standard output and standard error, and an error if the program did not end with 0.
func Output(t testing.TB, stdin, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(Program(t, name, name), args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	cmd.WaitDelay = 5 * time.Second
	kill := time.AfterFunc(time.Minute, func() {
		if cmd.Process != nil {
			_ = cmd.Process.Kill()
		}
	})
	defer kill.Stop()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// OutputBuffer collects what a process writes, and may be read meanwhile.
type OutputBuffer struct {
	mu   sync.Mutex
	text []byte
}

// Write appends p.
func (b *OutputBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	return len(p), nil
}

// String returns what was written so far.
func (b *OutputBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

// Server is a process that Background started.
type Server struct {
	cmd   *exec.Cmd
	out   OutputBuffer
	ended chan struct{}
}

// Start starts a server in a process group of its own. When the test ends, or when this process dies, the server ends as well, and
// if the test failed, what the server wrote is in the test's log.
func Start(t testing.TB, cmd *exec.Cmd) *Server {
	t.Helper()
	s := &Server{cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &s.out, &s.out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGTERM
	cmd.WaitDelay = 5 * time.Second
	Must(t, cmd.Start())
	go func() { _ = cmd.Wait(); close(s.ended) }()
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("%s wrote:\n%s", cmd.Path, s.Output())
		}
	})
	return s
}

// Output returns what the server has written so far.
func (s *Server) Output() string { return s.out.String() }

// Signal sends sig to the server and to the processes that it started.
func (s *Server) Signal(sig syscall.Signal) { _ = syscall.Kill(-s.cmd.Process.Pid, sig) }

// Stop ends the server and the processes that it started: by SIGTERM, and after ten seconds by SIGKILL.
func (s *Server) Stop() {
	s.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(10 * time.Second):
		s.Signal(syscall.SIGKILL)
		<-s.ended
	}
	s.Signal(syscall.SIGKILL) // to what is left of its group
}

// Await calls ready until it returns true, for at most half a minute. If the server ends before, the test fails.
func (s *Server) Await(t testing.TB, ready func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if ready() {
			return
		}
		select {
		case <-s.ended:
			t.Fatalf("%s ended before it was ready:\n%s", s.cmd.Path, s.Output())
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatalf("%s is not ready after half a minute:\n%s", s.cmd.Path, s.Output())
}

// Answers returns a function, for Await, that reports whether a connection to addr can be made.
func Answers(network, addr string) func() bool {
	return func() bool {
		c, err := net.DialTimeout(network, addr, time.Second)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	}
}

// Background starts a server that runs until the test ends, and waits until it answers at addr.
func Background(t testing.TB, cmd *exec.Cmd, network, addr string) *Server {
	t.Helper()
	s := Start(t, cmd)
	s.Await(t, Answers(network, addr))
	return s
}
