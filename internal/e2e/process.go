package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Process is a `postern serve` that a test has started.
type Process struct {
	Cmd *exec.Cmd
	Log string // the file that the process writes its log to

	ended  chan struct{} // closed once the process has ended
	err    error         // of Cmd.Wait; read it once ended is closed
	waited bool          // the test has called Wait, and so knows how the process ended
}

// StartProcess starts cmd with its output appended to the file log, and waits for nothing.
func StartProcess(cmd *exec.Cmd, log string) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{Cmd: cmd, Log: log, ended: make(chan struct{})}
	go func() { p.err = cmd.Wait(); close(p.ended) }()
	return p, nil
}

// Addresses are the addresses at which a process serves, as its log says. Those of Milter begin with tcp: or unix:.
type Addresses struct {
	Submission []string `json:"submission"`
	Milter     []string `json:"milter"`
	Admin      string   `json:"admin"`
}

// Ready waits until the process logs that it is ready, for at most a minute.
func (p *Process) Ready() (Addresses, error) {
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(p.Log)
		if err != nil {
			return Addresses{}, err
		}
		for line := range bytes.Lines(text) {
			var l struct {
				Msg string `json:"msg"`
				Addresses
			}
			if json.Unmarshal(line, &l) == nil && l.Msg == "ready" {
				return l.Addresses, nil
			}
		}
		select {
		case <-p.ended:
			return Addresses{}, fmt.Errorf("serve ended before it was ready: %v", p.err)
		default:
		}
	}
	return Addresses{}, fmt.Errorf("serve was not ready after a minute")
}

// Pid returns the process's number.
func (p *Process) Pid() int { return p.Cmd.Process.Pid }

// Signal sends sig to the process.
func (p *Process) Signal(sig syscall.Signal) error { return p.Cmd.Process.Signal(sig) }

// Wait waits until the process has ended and returns how, as exec.Cmd.Wait does.
func (p *Process) Wait() error {
	<-p.ended
	p.waited = true
	return p.err
}

// Stop sends sig and waits until the process has ended. After 30 seconds it kills the process, which is an error.
func (p *Process) Stop(sig syscall.Signal) error {
	_ = p.Signal(sig)
	select {
	case <-p.ended:
		return p.err
	case <-time.After(30 * time.Second):
		_ = p.Cmd.Process.Kill()
		return fmt.Errorf("serve did not end within 30 seconds of %v: %w", sig, p.Wait())
	}
}

// Kill ends the process by SIGKILL. If it has ended before, the test fails.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	_ = p.Cmd.Process.Kill()
	if err := p.Wait(); err == nil || err.Error() != "signal: killed" {
		text, _ := os.ReadFile(p.Log)
		t.Fatalf("serve ended with %v before it was killed:\n%s", err, text)
	}
}

// Resident returns the memory of the process that is in RAM, in bytes.
func (p *Process) Resident(t testing.TB) int { t.Helper(); return p.memory(t, "VmRSS") }

// PeakResident returns the most memory that the process has had in RAM, in bytes.
func (p *Process) PeakResident(t testing.TB) int { t.Helper(); return p.memory(t, "VmHWM") }

func (p *Process) memory(t testing.TB, key string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	m := regexp.MustCompile(key + `:\s+(\d+) kB`).FindSubmatch(text)
	if err != nil || m == nil {
		t.Fatalf("no %s in the status of the process: %v\n%s", key, err, text)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}
