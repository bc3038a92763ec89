package testload

import (
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
	dir := filepath.Join(root, fmt.Sprintf("postern-load-%d-%d", os.Getpid(), groups.Add(1)))
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

// KillAll ends everything that this process has started and not stopped, where there are control groups.
func KillAll() {
	for range 100 { // something may be about to be started
		left, _ := filepath.Glob(filepath.Join(unifiedRoot(), fmt.Sprintf("postern-load-%d-*", os.Getpid())))
		if len(left) == 0 {
			return
		}
		for _, dir := range left {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
			_ = os.Remove(dir)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
