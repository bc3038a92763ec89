package main

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a server under measurement, with what it needs beside it; it is stopped by its pid.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   said
	ready time.Duration // from its start to its first answer
	group *group        // nil: no control groups here, and the tree of processes is walked
	also  []*process    // started before it, stopped after it, and measured with it
	ended chan struct{} // closed when it has ended
}

// said is what a server wrote to its standard output and error; just the last of it is kept.
type said struct {
	mu   sync.Mutex
	text []byte
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	const most = 64 << 10
	if s.text = append(s.text, p...); len(s.text) > 2*most {
		s.text = append([]byte(nil), s.text[len(s.text)-most:]...)
	}
	return len(p), nil
}

// String is the end of it.
func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return tail(string(bytes.ToValidUTF8(s.text, nil)))
}

// start runs a program and waits until addr (host:port or unix:/path) accepts connections.
func start(name, addr, dir string, arg ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(arg[0], arg[1:]...), group: newGroup()}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if p.group != nil {
		p.cmd.SysProcAttr.UseCgroupFD, p.cmd.SysProcAttr.CgroupFD = true, int(p.group.fd.Fd())
	}
	begin := time.Now()
	if err := p.cmd.Start(); err != nil {
		p.group.remove()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	ended := make(chan struct{})
	go func() { _ = p.cmd.Wait(); close(ended) }()
	p.ended = ended
	if err := p.await(addr); err != nil {
		p.stop()
		return nil, fmt.Errorf("%s: %w\n%s", name, err, &p.log)
	}
	p.ready = time.Since(begin)
	return p, nil
}

// await waits until addr accepts connections, two minutes at most: a large data document takes its time.
func (p *process) await(addr string) error {
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

// stop asks the process to end, makes it end ten seconds later, and takes away what it left running.
func (p *process) stop() {
	if p == nil || p.ended == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	p.group.remove()
	for _, q := range p.also {
		q.stop()
	}
}

// cpu is user and system time of everything that the server ran, processes that have ended included; 0 of no process.
func (p *process) cpu() time.Duration {
	if p == nil {
		return 0
	}
	total := time.Duration(0)
	for _, q := range append([]*process{p}, p.also...) {
		if used, ok := q.group.cpu(); ok {
			total += used
		} else {
			total += treeCPU(q.cmd.Process.Pid)
		}
	}
	return total
}

// pids are the processes that the server runs now.
func (p *process) pids() []int {
	var list []int
	for _, q := range append([]*process{p}, p.also...) {
		if in, ok := q.group.pids(); ok {
			list = append(list, in...)
		} else {
			list = append(list, treePIDs(q.cmd.Process.Pid)...)
		}
	}
	return list
}
