package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// tune sets the garbage collector as measured (docs/performance.md), unless the environment says otherwise: policy
// evaluation makes much short-lived garbage and the live heap is small, so collecting less often is what pays.
func tune() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(2 << 30)
	}
}

// Of lean: how often it looks, how many goroutines more are a storm of connections; how long is quiet, how little is allocated
// meanwhile, and how much must be gained.
const (
	leanEvery  = time.Second
	stormOf    = 500
	quietFor   = 10 // looks
	quietBelow = 16 << 20
	quietGain  = 64 << 20
)

// lean keeps memory small for many connections, where collecting seldom would leave behind as much as four times what is in use.
// While they come it collects what their handshakes have left, before what stays lies scattered between it; whenever little has
// happened for a while it gives memory back to the system. It ends with ctx.
func lean(ctx context.Context) {
	tick := time.NewTicker(leanEvery)
	defer tick.Stop()
	var q quiet
	for looks, most := 0, runtime.NumGoroutine(); ; looks++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n := runtime.NumGoroutine()
		if n > most+stormOf {
			runtime.GC()
			most = n
		}
		most = min(most, n)
		if looks%quietFor == 0 {
			q.look()
		}
	}
}

// quiet knows what was seen last.
type quiet struct {
	allocated uint64 // since the start
	lowest    uint64 // what was held when all that could be given back was
}

func (q *quiet) look() {
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	allocated, needed := samples[0].Value.Uint64(), samples[1].Value.Uint64()+samples[2].Value.Uint64()
	busy := allocated-q.allocated > quietBelow
	q.allocated = allocated
	switch {
	case busy:
		q.lowest = 0
	case held() > max(needed, q.lowest)+quietGain:
		runtime.GC() // each collection halves the stacks that have become too large
		debug.FreeOSMemory()
		q.lowest = held()
	}
}

// held is the memory that the system has given and not got back.
func held() uint64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64() - samples[1].Value.Uint64()
}
