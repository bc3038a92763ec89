package engine

import (
	"hash/maphash"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// grace is how long a cancelled evaluation may take to end before it is abandoned. The evaluator checks for cancellation between
// two steps, so only a builtin that works on something huge takes longer.
const grace = 25 * time.Millisecond

// workerPool runs the evaluations of a Policy. A worker keeps its goroutine, whose stack has grown, and its caches for the next
// evaluation.
type workerPool struct {
	seed      maphash.Seed // of the hashes in the workers' caches
	idle      sync.Pool    // of *worker
	abandoned atomic.Int32 // evaluations that run on after their decision was given up
}

// worker is the handle of one goroutine that evaluates. The goroutine does not refer to it, so that the collector frees an idle
// worker, and the cleanup then ends the goroutine.
type worker struct {
	jobs     chan job
	done     chan result
	deadline *deadline
	timer    *time.Timer // calls deadline.stop
}

// job is one evaluation.
type job struct {
	evaluate func(*deadline, *caches) (answer, *EvalError)
	deadline *deadline
	timer    *time.Timer   // of the worker
	limit    time.Duration // of the evaluation's time, which counts from when it begins
	client   *clientShare  // that makes the decision; nil outside an Engine
}

// result is the outcome of a job.
type result struct {
	out  answer
	fail *EvalError
}

// get returns an idle worker or starts one. Its timer is stopped.
func (p *workerPool) get() *worker {
	if w, ok := p.idle.Get().(*worker); ok {
		return w
	}
	w := &worker{jobs: make(chan job), done: make(chan result, 1), deadline: &deadline{over: make(chan struct{})}}
	w.timer = time.AfterFunc(time.Hour, w.deadline.stop)
	w.timer.Stop()
	runtime.AddCleanup(w, func(jobs chan job) { close(jobs) }, w.jobs)
	go p.work(w.jobs, w.done)
	return w
}

// put takes back a worker that is idle.
func (p *workerPool) put(w *worker) { p.idle.Put(w) }

// work runs jobs until the channel is closed. It forgets everything of an evaluation before it hands over the result.
func (p *workerPool) work(jobs <-chan job, done chan<- result) {
	caches := newCaches(p.seed)
	for j := range jobs {
		j.timer.Reset(j.limit)
		out, fail := j.evaluate(j.deadline, caches)
		caches.reset(nil)
		if j.deadline.state.Swap(finished) == abandoned {
			p.abandoned.Add(-1)
			j.client.ended()
		}
		done <- result{out, fail}
	}
}

// abandon gives up an evaluation that does not end. It counts as abandoned, and takes a part of its client's share, until it ends.
func (p *workerPool) abandon(d *deadline, s *ticket) {
	c := s.abandon()
	p.abandoned.Add(1)
	if d.state.Swap(abandoned) == finished { // it ended meanwhile
		p.abandoned.Add(-1)
		c.ended()
	}
}

// States of an evaluation. Both the waiting goroutine and the worker swap the state, and the second one corrects the count.
const (
	running = iota
	finished
	abandoned
)

// deadline ends an evaluation; it is the evaluation's topdown.Cancel. One that was stopped is not used again.
type deadline struct {
	cancelled atomic.Bool
	state     atomic.Int32
	over      chan struct{} // closed after grace
	once      sync.Once
}

// Cancel stops the evaluation.
func (d *deadline) Cancel() { d.stop() }

// Cancelled reports whether the evaluation was stopped.
func (d *deadline) Cancelled() bool { return d.cancelled.Load() }

// stop cancels the evaluation because its time is over or its caller has left.
func (d *deadline) stop() {
	d.once.Do(func() {
		d.cancelled.Store(true)
		time.AfterFunc(grace, func() { close(d.over) })
	})
}
