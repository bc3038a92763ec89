// Package testload is what the programs that load Postern share: processes under measurement, a certificate, an SMTP client.
// They are internal/tools/bench and internal/tools/soak.
//
// A Process has one goroutine, which waits for it to end, and while Peak watches another, which ends with that.
package testload

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a server under measurement, with what it needs beside it; it is stopped by its pid.
type Process struct {
	Name  string
	Ready time.Duration // from its start to its first answer
	Log   Said          // what it said; empty where StartTo was given a place for it
	Also  []*Process    // started before it, stopped after it, and measured with it

	cmd   *exec.Cmd
	group *group        // nil: no control groups here, and the tree of processes is walked
	ended chan struct{} // closed when it has ended
	err   error         // how; read once ended is closed
}

// Said is what a server wrote to its standard output and error; just the last of it is kept.
type Said struct {
	mu   sync.Mutex
	text []byte
}

func (s *Said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	const most = 64 << 10
	if s.text = append(s.text, p...); len(s.text) > 2*most {
		s.text = append([]byte(nil), s.text[len(s.text)-most:]...)
	}
	return len(p), nil
}

// String is the end of it.
func (s *Said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Tail(string(bytes.ToValidUTF8(s.text, nil)))
}

// Tail is the last five lines of a text.
func Tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
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
	p.cmd, p.group = exec.Command(arg[0], arg[1:]...), newGroup()
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = dir, log, log, append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if p.group != nil {
		p.cmd.SysProcAttr.UseCgroupFD, p.cmd.SysProcAttr.CgroupFD = true, int(p.group.fd.Fd())
	}
	begin := time.Now()
	if err := p.cmd.Start(); err != nil {
		p.group.remove()
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	ended := make(chan struct{})
	p.ended = ended
	go func() { p.err = p.cmd.Wait(); close(ended) }()
	if err := p.await(addr); err != nil {
		_ = p.Stop()
		return fmt.Errorf("%s: %w\n%s", p.Name, err, &p.Log)
	}
	p.Ready = time.Since(begin)
	return nil
}

// await waits until addr accepts connections, two minutes at most: a large data document takes its time.
func (p *Process) await(addr string) error {
	network, path, ok := strings.Cut(addr, ":")
	if !ok || network != "unix" {
		network, path = "tcp", addr
	}
	var err error
	for limit := time.Now().Add(2 * time.Minute); time.Now().Before(limit); {
		var c net.Conn
		if c, err = net.Dial(network, path); err == nil {
			return c.Close()
		}
		select {
		case <-p.ended:
			return fmt.Errorf("it ended: %v", p.cmd.ProcessState)
		case <-time.After(2 * time.Millisecond):
		}
	}
	return err
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends it a signal.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Stop ends it by SIGTERM, or after 40 s by SIGKILL, takes away what it left running and what was beside it, and says how it
// ended. A nil Process is none.
func (p *Process) Stop() error {
	if p == nil || p.ended == nil {
		return nil
	}
	_ = p.Signal(syscall.SIGTERM)
	err := error(nil)
	select {
	case <-p.ended:
		err = p.err
	case <-time.After(40 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
		err = errors.New("it did not end within 40 s of SIGTERM and was killed")
	}
	p.group.remove()
	for _, q := range p.Also {
		_ = q.Stop()
	}
	return err
}

// CPU is user and system time of everything that the server ran, processes that have ended included; 0 of no process.
func (p *Process) CPU() time.Duration {
	if p == nil {
		return 0
	}
	total := time.Duration(0)
	for _, q := range append([]*Process{p}, p.Also...) {
		if used, ok := q.group.cpu(); ok {
			total += used
		} else {
			total += treeCPU(q.PID())
		}
	}
	return total
}

// PIDs are the processes that the server runs now.
func (p *Process) PIDs() []int {
	var list []int
	for _, q := range append([]*Process{p}, p.Also...) {
		if in, ok := q.group.pids(); ok {
			list = append(list, in...)
		} else {
			list = append(list, treePIDs(q.PID())...)
		}
	}
	return list
}

// FreeAddr is a loopback address that was free a moment ago.
func FreeAddr() string { return FreeAddrs(1)[0] }

// FreeAddrs are n different ones.
func FreeAddrs(n int) (list []string) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		defer l.Close() // after the last one was found
		list = append(list, l.Addr().String())
	}
	return list
}
