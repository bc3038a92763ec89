package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Of the garbage collector. While little is in use it is collected when four times as much has been made again, which is what pays
// for evaluation and its short-lived garbage (docs/explanation/performance.md). Where much is in use (a directory of a million senders, ten
// thousand connections) that would be gigabytes: then when collectRoom has been made, or half of what is in use.
const (
	collectAt    = 400 // per cent
	collectRead  = 100 // until what there is at the start has been read, which may be much and is garbage once
	collectHaste = 800 // before that, while no more than hasteRoom has been made
	hasteRoom    = 48 << 20
	hasteEvery   = 5 * time.Millisecond
	collectRoom  = 192 << 20
	collectMost  = 50 // per cent, and so how often at most
	memoryLimit  = 2 << 30
)

// tune sets the garbage collector as measured, unless the environment says otherwise. started is to be called when what there is at
// the start has been read; lean goes on from there.
func tune() (started func()) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	debug.SetGCPercent(collectHaste)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		defer debug.SetGCPercent(collectRead)
		hasten(stop)
	}()
	return func() { close(stop); <-stopped }
}

// hasten returns when there is much to read, or when it is told to.
func hasten(stop <-chan struct{}) {
	tick := time.NewTicker(hasteEvery)
	defer tick.Stop()
	made := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	for made[0].Value.Kind() == metrics.KindBad || made[0].Value.Uint64() < hasteRoom {
		select {
		case <-stop:
			return
		case <-tick.C:
			metrics.Read(made)
		}
	}
}

// collectAtPercent is when to collect where live octets are in use.
func collectAtPercent(live uint64) int {
	return int(min(max(collectRoom*100/max(live, 1), collectMost), collectAt))
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
// happened for a while it gives memory back to the system. Unless the environment says when to collect, it says so by how much is
// in use. It ends with ctx.
func lean(ctx context.Context) {
	tick := time.NewTicker(leanEvery)
	defer tick.Stop()
	var q quiet
	var j jump
	given, now := os.Getenv("GOGC") != "", collectRead
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
		// A change stops the world for a moment: not for little.
		if p := collectAtPercent(j.look(live, runtime.GC)); !given && (p < now*9/10 || p > now*10/9) {
			debug.SetGCPercent(p)
			now = p
		}
		if looks%quietFor == 0 {
			q.look()
		}
	}
}

// Of jump: from where on it minds, and how often it looks again.
const (
	jumpFrom  = 48 << 20
	jumpLooks = 5
)

// jump doubts a collection that found more than twice what was in use before: it may have come while a password's hash held its
// 64 MiB for a tenth of a second, and the next would wait for four times as much.
type jump struct {
	settled uint64
	looks   int
}

// look gives what is in use, and collects once more where that is in doubt.
func (j *jump) look(live func() uint64, collect func()) uint64 {
	doubtful := max(2*j.settled, jumpFrom)
	now := live()
	if now > doubtful && j.looks < jumpLooks {
		j.looks++
		collect()
		now = live()
	}
	if now <= doubtful || j.looks == jumpLooks {
		j.settled, j.looks = now, 0
	}
	return now
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

// live is what the last collection found in use.
func live() uint64 {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64()
}

// held is the memory that the system has given and not got back.
func held() uint64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64() - samples[1].Value.Uint64()
}
