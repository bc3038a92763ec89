package main

import (
	"context"
	"os"
	"runtime"
	"time"
)

// Of processors. Shares are of one processor's time.
const (
	lookEvery   = 20 * time.Millisecond
	restEvery   = 200 * time.Millisecond // while the share is below nothing; each look costs up to 0.3 ms, in a virtual machine
	nothing     = 0.02
	much        = 0.9 // all are needed where it was so much muchLooks times in a row
	muchLooks   = 2
	little      = 0.85 // one will do where it was less for littleFor, or longer where that soon proved wrong
	littleFor   = time.Second
	littleAtMax = time.Minute
)

// processors lets one processor run Go code while that is enough, and all of them when it is not. With more than one, each
// hand-over between two goroutines wakes a thread that finds nothing to do: where a connection is used alone that is a quarter of
// what a message costs (docs/explanation/performance.md).
//
// Looking so often is also what Go's monitor wakes for, which is asleep when all else is (package socket): it interrupts an
// evaluation or a hash that would hold up the rest.
type processors struct {
	set func(one bool) // it stops the world for some tens of microseconds

	one   bool          // one alone runs Go code now
	wait  time.Duration // how long it must have been little
	since time.Time     // begin of what is measured now
	used  time.Duration // processor time of the process then
	looks int           // with much, in a row
	alone time.Time     // when one was tried last
}

// spare runs until ctx ends. Where the environment says how many processors there are (GOMAXPROCS), it does nothing.
func spare(ctx context.Context) {
	if _, ok := processorTime(); !ok || runtime.GOMAXPROCS(0) == 1 || os.Getenv("GOMAXPROCS") != "" {
		return
	}
	p := processors{wait: littleFor, set: func(one bool) {
		if one {
			runtime.GOMAXPROCS(1)
		} else {
			runtime.SetDefaultGOMAXPROCS() // what is allowed may have changed meanwhile
		}
	}}
	next := time.NewTimer(lookEvery)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
			used, _ := processorTime()
			next.Reset(p.look(time.Now(), used))
		}
	}
}

// look takes the processor time that the process has used by now, and says when to look again.
func (p *processors) look(now time.Time, used time.Duration) time.Duration {
	took := now.Sub(p.since)
	if !p.since.IsZero() && (took <= 0 || !p.one && took < p.wait) {
		return lookEvery
	}
	share := float64(used-p.used) / float64(max(took, 1))
	first := p.since.IsZero()
	p.since, p.used = now, used
	switch {
	case first:
	case p.one && share >= much:
		if p.looks++; p.looks >= muchLooks {
			p.change(false, now)
		}
	case p.one:
		if p.looks = 0; share < nothing {
			return restEvery
		}
	case share < little:
		p.change(true, now)
	default:
		p.wait = littleFor
	}
	return lookEvery
}

// change goes over to one processor, or to all. The sooner one proved too few, the longer it is until it is tried again.
func (p *processors) change(one bool, now time.Time) {
	if one {
		p.alone = now
	} else if now.Sub(p.alone) < p.wait {
		p.wait = min(2*p.wait, littleAtMax)
	} else {
		p.wait = littleFor
	}
	p.one, p.looks = one, 0
	p.set(one)
}
