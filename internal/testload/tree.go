package testload

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

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

// Peak watches what a server holds from here on, until done is called, which gives the peak in MiB. Of a single process
// the kernel knows it exactly; of several the sum of their proportional shares is taken every 150 ms, so that what they share
// counts once.
func (p *Process) Peak() (done func() float64) {
	stop, result := make(chan struct{}), make(chan float64)
	pids := p.PIDs()
	for _, pid := range pids {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
	}
	go func() {
		alone, sum := len(pids) == 1, 0.0
		for {
			select {
			case <-stop:
				now := p.PIDs()
				if alone && len(now) == 1 {
					result <- statusMiB(now[0], "VmHWM:")
				} else {
					result <- max(sum, shares(now))
				}
				return
			case <-time.After(150 * time.Millisecond):
				now := p.PIDs()
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

// Resident is the memory that the process itself holds now, in MiB.
func (p *Process) Resident() float64 { return statusMiB(p.PID(), "VmRSS:") }

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
