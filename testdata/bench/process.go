package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a server under measurement; it is stopped by its pid.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   bytes.Buffer
	ready time.Duration // from its start to its first answer
}

// start runs a program and waits until addr (host:port or unix:/path) accepts connections.
func start(name, addr, dir string, arg ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(arg[0], arg[1:]...)}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begin := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if err := await(addr); err != nil {
		p.stop()
		return nil, fmt.Errorf("%s: %w\n%s", name, err, p.log.String())
	}
	p.ready = time.Since(begin)
	return p, nil
}

func await(addr string) error {
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

func (p *process) stop() {
	if p == nil || p.cmd.Process == nil {
		return
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { p.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		p.cmd.Process.Kill()
		<-done
	}
}

// cpu is user and system time of a process and all that descend from it, reaped children included; 0 of no process.
func (p *process) cpu() time.Duration {
	if p == nil {
		return 0
	}
	return treeCPU(p.cmd.Process.Pid)
}

// resetPeak forgets the peak of the resident memory.
func (p *process) resetPeak() {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte("5"), 0)
}

// rss is the peak resident memory in MiB.
func (p *process) rss() float64 {
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

// freeAddr is a loopback address that was free a moment ago.
func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// sinkCommand is Postfix's smtp-sink at addr, which does not want to be root.
func sinkCommand(addr string) []string {
	if os.Getuid() == 0 {
		return []string{tool("smtp-sink"), "-u", "postfix", "-c", addr, "1000"}
	}
	return []string{tool("smtp-sink"), "-c", addr, "1000"}
}
