// Package testload is what the programs that load Postern share: processes under measurement, a certificate, an SMTP client.
// They are testdata/bench and internal/testsoak.
//
// It has no goroutines but the one that waits for a process to end.
package testload

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a server under measurement; it is stopped by its pid.
type Process struct {
	Name  string
	Ready time.Duration // from its start to its first answer
	Log   bytes.Buffer  // what it said; empty where StartTo was given a place for it

	cmd *exec.Cmd
}

// Start runs a program in dir and waits until addr (host:port or unix:/path) accepts connections.
func Start(name, addr, dir string, arg ...string) (*Process, error) {
	p := &Process{Name: name}
	return p, p.start(addr, dir, &p.Log, arg, nil)
}

// StartTo is like Start. What the program says goes to log, and env is added to its environment.
func StartTo(log io.Writer, env []string, name, addr, dir string, arg ...string) (*Process, error) {
	p := &Process{Name: name}
	return p, p.start(addr, dir, log, arg, env)
}

func (p *Process) start(addr, dir string, log io.Writer, arg, env []string) error {
	p.cmd = exec.Command(arg[0], arg[1:]...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = dir, log, log, append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begin := time.Now()
	if err := p.cmd.Start(); err != nil {
		return err
	}
	if err := Await(addr); err != nil {
		p.Stop()
		return fmt.Errorf("%s: %w\n%s", p.Name, err, p.Log.String())
	}
	p.Ready = time.Since(begin)
	return nil
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends it a signal.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Await waits, for half a minute, until addr (host:port or unix:/path) accepts connections.
func Await(addr string) error {
	network, path, ok := strings.Cut(addr, ":")
	if !ok || network != "unix" {
		network, path = "tcp", addr
	}
	var err error
	for range 6000 {
		var c net.Conn
		if c, err = net.Dial(network, path); err == nil {
			c.Close()
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return err
}

// Stop ends it by SIGTERM, or after 40 s by SIGKILL, and says how it ended. A nil Process is none.
func (p *Process) Stop() error {
	if p == nil || p.cmd == nil || p.cmd.Process == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- p.cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(40 * time.Second):
		_ = p.cmd.Process.Kill()
		<-done
		return errors.New("it did not end within 40 s of SIGTERM and was killed")
	}
}

// CPU is user and system time of a process and all that descend from it, reaped children included; 0 of no process.
func (p *Process) CPU() time.Duration {
	if p == nil {
		return 0
	}
	return treeCPU(p.cmd.Process.Pid)
}

// ResetPeak forgets the peak of the resident memory.
func (p *Process) ResetPeak() {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte("5"), 0)
}

// PeakMiB is the peak resident memory in MiB.
func (p *Process) PeakMiB() float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			kb, _ := strconv.ParseFloat(f[1], 64)
			return kb / 1024
		}
	}
	return 0
}

const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on

func treeCPU(root int) time.Duration {
	type stat struct {
		parent int
		ticks  int64
	}
	all := map[int]stat{}
	dirs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range dirs {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		// The command name may hold spaces; the fields that matter come after its closing bracket.
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		s := stat{}
		s.parent, _ = strconv.Atoi(fields[1])
		for _, i := range []int{11, 12, 13, 14} {
			n, _ := strconv.ParseInt(fields[i], 10, 64)
			s.ticks += n
		}
		all[pid] = s
	}
	var total int64
	for pid, s := range all {
		for at := pid; at > 1; at = all[at].parent {
			if at == root {
				total += s.ticks
				break
			}
		}
	}
	return time.Duration(total) * tick
}

// FreeAddr is a loopback address that was free a moment ago.
func FreeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}
