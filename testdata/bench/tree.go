package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// group is a control group (cgroup v2) that a server and all its children live in. Linux counts CPU time in it to the
// microsecond, that of processes which have come and gone included, and needs no controller for it.
type group struct {
	dir string
	fd  *os.File
}

var groups atomic.Int64

// newGroup makes one below our own; nil where we may not.
func newGroup() *group {
	root := unifiedRoot()
	if root == "" {
		return nil
	}
	dir := filepath.Join(root, fmt.Sprintf("postern-bench-%d-%d", os.Getpid(), groups.Add(1)))
	if os.Mkdir(dir, 0o755) != nil {
		return nil
	}
	fd, err := os.Open(dir)
	if err != nil {
		_ = os.Remove(dir)
		return nil
	}
	return &group{dir, fd}
}

// unifiedRoot is our own group's directory in the unified hierarchy, wherever that is mounted; "" where it is not.
func unifiedRoot() string {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	own, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(own)) {
		below, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		for m := range strings.Lines(string(mounts)) {
			if before, after, ok := strings.Cut(m, " - "); ok && strings.HasPrefix(after, "cgroup2 ") {
				if f := strings.Fields(before); len(f) > 4 {
					return filepath.Join(f[4], below)
				}
			}
		}
	}
	return ""
}

func (g *group) cpu() (used time.Duration, ok bool) {
	if g == nil {
		return 0, false
	}
	b, _ := os.ReadFile(filepath.Join(g.dir, "cpu.stat"))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "usage_usec" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return time.Duration(n) * time.Microsecond, err == nil
		}
	}
	return 0, false
}

func (g *group) pids() (list []int, ok bool) {
	if g == nil {
		return nil, false
	}
	b, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
	for _, f := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil {
			list = append(list, pid)
		}
	}
	return list, err == nil
}

// remove ends what is left in the group, which only our own servers' children can be, and takes the group away.
func (g *group) remove() {
	if g == nil {
		return
	}
	_ = g.fd.Close()
	_ = os.WriteFile(filepath.Join(g.dir, "cgroup.kill"), []byte("1"), 0)
	for range 200 {
		if os.Remove(g.dir) == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on

type stat struct {
	parent int
	ticks  int64 // its own and those of the children that it has waited for
}

func processes() map[int]stat {
	all := map[int]stat{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range files {
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
	return all
}

// tree calls each for root and all that descend from it.
func tree(root int, each func(pid int, s stat)) {
	all := processes()
	for pid, s := range all {
		for at := pid; at > 1; at = all[at].parent {
			if at == root {
				each(pid, s)
				break
			}
		}
	}
}

func treeCPU(root int) time.Duration {
	total := int64(0)
	tree(root, func(_ int, s stat) { total += s.ticks })
	return time.Duration(total) * tick
}

func treePIDs(root int) (list []int) {
	tree(root, func(pid int, _ stat) { list = append(list, pid) })
	return list
}

// memory watches what a server holds from here on, until done is called, which gives the peak in MiB. Of a single process
// the kernel knows it exactly; of several the sum of their proportional shares is taken every 150 ms, so that what they share
// counts once.
func memory(p *process) (done func() float64) {
	stop, result := make(chan struct{}), make(chan float64)
	pids := p.pids()
	for _, pid := range pids {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
	}
	go func() {
		alone, sum := len(pids) == 1, 0.0
		for {
			select {
			case <-stop:
				now := p.pids()
				if alone && len(now) == 1 {
					result <- statusMiB(now[0], "VmHWM:")
				} else {
					result <- max(sum, shares(now))
				}
				return
			case <-time.After(150 * time.Millisecond):
				now := p.pids()
				if alone = alone && len(now) == 1; !alone {
					sum = max(sum, shares(now))
				}
			}
		}
	}()
	return func() float64 { close(stop); return <-result }
}

// shares is the sum of the proportional set sizes.
func shares(pids []int) float64 {
	sum := 0.0
	for _, pid := range pids {
		sum += kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:") / 1024
	}
	return sum
}

func statusMiB(pid int, key string) float64 {
	return kilobytes(fmt.Sprintf("/proc/%d/status", pid), key) / 1024
}

func kilobytes(file, key string) float64 {
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == key {
			kb, _ := strconv.ParseFloat(f[1], 64)
			return kb
		}
	}
	return 0
}
