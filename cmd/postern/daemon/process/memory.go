// Package process sets the limits of the daemon's own process: the garbage collector, memory that is given back, file descriptors, and core
// files.
//
// It starts no goroutines; ReleaseMemory runs on the goroutine of its caller.
package process

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// gcPercent and memoryLimit configure the garbage collector unless GOGC and GOMEMLIMIT do. An evaluation allocates much that
// it needs only briefly, so collecting half as often as Go does by default makes decisions faster. Collecting still less often costs memory: with 400 per cent, ten
// thousand idle connections need 427 MiB instead of 382 (docs/explanation/performance.md).
const (
	gcPercent   = 200
	memoryLimit = 2 << 30
)

// A process that allocated less than idleAllocation in releaseEvery is idle, and gives memory back if that frees at least
// worthReleasing.
const (
	releaseEvery   = 10 * time.Second
	idleAllocation = 16 << 20
	worthReleasing = 64 << 20
)

// ConfigureGC sets the garbage collector, except for what the environment sets.
func ConfigureGC() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// ReleaseMemory gives memory back to the operating system whenever the process is idle, until ctx ends. A burst of
// connections or a start with many users leaves several times what remains in use.
func ReleaseMemory(ctx context.Context) {
	tick := time.NewTicker(releaseEvery)
	defer tick.Stop()
	var m memoryUse
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if m.update(); m.releasable() {
			runtime.GC() // each collection halves stacks that are too large: TLS handshakes need much more than an idle connection
			debug.FreeOSMemory()
			m.update()
			m.floor = m.resident
		}
	}
}

// memoryUse is what the Go runtime reports about memory, in bytes.
type memoryUse struct {
	allocated uint64 // since the program started
	recent    uint64 // allocated since the update before
	resident  uint64 // obtained from the operating system and not given back
	needed    uint64 // live objects, as of the last collection, and stacks
	floor     uint64 // resident after the last release
}

func (m *memoryUse) update() {
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	at := func(i int) uint64 { return samples[i].Value.Uint64() }
	m.recent, m.allocated = at(0)-m.allocated, at(0)
	m.needed = at(1) + at(2)
	m.resident = at(3) - at(4)
}

// releasable reports whether the process is idle and holds much more than it needs. What the last release could not free is
// not tried again until the process has been busy.
func (m *memoryUse) releasable() bool {
	if m.recent > idleAllocation {
		m.floor = 0
		return false
	}
	return m.resident > max(m.needed, m.floor)+worthReleasing
}
