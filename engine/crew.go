package engine

import (
	"context"
	"hash/maphash"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// grace is how long a cancelled evaluation has to notice before it is abandoned. The evaluator looks between two steps;
// only a builtin at work on something huge takes longer.
const grace = 25 * time.Millisecond

// maxAbandoned bounds the evaluations that may run on after their decision was given up: each can hold much memory.
const maxAbandoned = 8

// crew are the workers of a Policy.
type workerPool struct {
	seed      maphash.Seed // of the hashes in the workers' caches
	idle      sync.Pool    // of *worker
	abandoned atomic.Int32 // evaluations that run on after their decision was given up
}

// worker is the handle of one goroutine that evaluates. The goroutine does not refer to it, so that it is collected when
// nobody needs it, and then ends the goroutine.
type worker struct {
	jobs  chan job
	done  chan result
	watch *watch
	timer *time.Timer // calls watch.stop
}

// job is one evaluation.
type job struct {
	p     *Policy
	ctx   context.Context
	st    *stage
	input ast.Value
	watch *watch
}

// result of a job.
type result struct {
	out  answer
	fail *EvalError
}

// hire takes an idle worker or starts one. Its timer is stopped.
func (c *workerPool) get() *worker {
	if w, ok := c.idle.Get().(*worker); ok {
		return w
	}
	w := &worker{jobs: make(chan job), done: make(chan result, 1), watch: &watch{over: make(chan struct{})}}
	w.timer = time.AfterFunc(time.Hour, w.watch.stop)
	w.timer.Stop()
	runtime.AddCleanup(w, func(jobs chan job) { close(jobs) }, w.jobs)
	go work(c, w.jobs, w.done)
	return w
}

// work until there are no jobs any more.
func work(c *workerPool, jobs <-chan job, done chan<- result) {
	caches := newCaches(c.seed)
	for j := range jobs {
		out, fail := j.p.run(j.ctx, j.st, j.input, j.watch, caches)
		caches.reset(nil)
		if j.watch.state.Swap(finished) == abandoned {
			c.abandoned.Add(-1)
		}
		done <- result{out, fail}
	}
}

// abandon counts a worker whose evaluation does not stop.
func (c *workerPool) abandon(w *watch) {
	c.abandoned.Add(1)
	if w.state.Swap(abandoned) == finished { // it did, just now
		c.abandoned.Add(-1)
	}
}

// States of an evaluation. Whoever comes second, the one who waits or the one who works, takes it off the count.
const (
	running = iota
	finished
	abandoned
)

// watch is the end of an evaluation's time; it is the evaluation's topdown.Cancel.
type watch struct {
	cancelled atomic.Bool
	state     atomic.Int32
	over      chan struct{}
	once      sync.Once
}

// Cancel and Cancelled are for topdown.
func (w *watch) Cancel()         { w.stop() }
func (w *watch) Cancelled() bool { return w.cancelled.Load() }

// stop the evaluation: its deadline has passed or its caller has left. A watch that was stopped is not used again.
func (w *watch) stop() {
	w.once.Do(func() {
		w.cancelled.Store(true)
		time.AfterFunc(grace, func() { close(w.over) })
	})
}
