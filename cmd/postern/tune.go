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

// Of quiet: how long, how little is allocated meanwhile, and how much must be gained.
const (
	quietFor   = 10 * time.Second
	quietBelow = 16 << 20
	quietGain  = 64 << 20
)

// lean gives memory back to the system whenever little has happened for a while: collecting seldom leaves behind as much as four times
// what is in use, and after a storm of connections that is a lot. It ends with ctx.
func lean(ctx context.Context) {
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	tick := time.NewTicker(quietFor)
	defer tick.Stop()
	for before, lowest := ^uint64(0), uint64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(samples)
		allocated, live, held := samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64()-samples[3].Value.Uint64()
		needed := max(live+samples[4].Value.Uint64(), lowest)
		if allocated > before && allocated-before < quietBelow && held > needed+quietGain {
			runtime.GC() // each collection halves the stacks that have become too large
			debug.FreeOSMemory()
			metrics.Read(samples)
			lowest = samples[2].Value.Uint64() - samples[3].Value.Uint64() // less than this is not to be had
		} else if allocated > before && allocated-before >= quietBelow {
			lowest = 0
		}
		before = allocated
	}
}
