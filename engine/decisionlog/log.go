package decisionlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/engine"
)

// Bounds of the queue and of one write.
const (
	defaultQueue  = 4096      // entries
	maxQueued     = 64 << 20  // octets of facts in the queue
	batch         = 256 << 10 // octets after which a write is due
	defaultWait   = 10 * time.Millisecond
	strictTimeout = 5 * time.Second
	gather        = 5 * time.Millisecond
)

// ErrClosed is what Record and Reopen return after Close.
var ErrClosed = errors.New("decision log is closed")

// Options of Open.
type Options struct {
	File string // appended to; created with mode 0600. Required
	// Strict makes Record return only when its line is written, and fail where it cannot be.
	Strict bool
	Queue  int           // entries that may wait; 0: 4096
	Wait   time.Duration // how long Record waits for room before it gives a line up, when not strict; 0: 10 ms

	Logger  *slog.Logger          // told when writing fails and when it works again; nil: nobody is
	Metrics prometheus.Registerer // nil: none
}

// Log is an engine.Recorder that appends to a file. It is safe for concurrent use.
type Log struct {
	o       Options
	queue   chan *Entry
	reopen  chan chan error
	ended   chan struct{} // closed when the writer has ended
	endErr  error         // of the last write, sync and close; read after ended
	queued  atomic.Int64  // octets
	lost    atomic.Uint64
	metrics prometheus.Counter

	mu     sync.RWMutex // held for reading while sending to queue
	closed bool
}

// Open opens the file and starts the writer. Errors name the file.
func Open(o Options) (*Log, error) {
	o.Queue = cmp.Or(max(o.Queue, 0), defaultQueue)
	o.Wait = cmp.Or(max(o.Wait, 0), defaultWait)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	f, err := openFile(o.File)
	if err != nil {
		return nil, err
	}
	l := &Log{
		o:      o,
		queue:  make(chan *Entry, o.Queue),
		reopen: make(chan chan error),
		ended:  make(chan struct{}),
		metrics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_decision_log_lost_total", Help: "Decisions that could not be written to the decision log.",
		}),
	}
	if o.Metrics != nil {
		if err := o.Metrics.Register(l.metrics); err != nil {
			return nil, errors.Join(fmt.Errorf("decision log: %w", err), f.Close())
		}
	}
	go (&writer{log: l, file: f}).run()
	return l, nil
}

// openFile for appending. Decisions hold addresses and subjects: nobody else may read them.
func openFile(name string) (*os.File, error) {
	if name == "" {
		return nil, errors.New("decision log: no file named")
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("decision log: %w", err)
	}
	return f, nil
}

// Lost is the number of decisions that could not be written.
func (l *Log) Lost() uint64 { return l.lost.Load() }

// lose counts n lines.
func (l *Log) lose(n int) {
	l.lost.Add(uint64(n))
	l.metrics.Add(float64(n))
}

// Record queues a decision; see Options.Strict for what it waits for and when it fails.
func (l *Log) Record(ctx context.Context, r engine.Record) error {
	e := NewEntry(r)
	if !l.o.Strict {
		if l.send(ctx, e, l.o.Wait) != nil {
			l.lose(1)
		}
		return nil
	}
	e.done = make(chan error, 1)
	if err := l.send(ctx, e, strictTimeout); err != nil {
		l.lose(1)
		return err
	}
	timer := time.NewTimer(strictTimeout)
	defer timer.Stop()
	select {
	case err := <-e.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("decision log: %w", ctx.Err())
	case <-timer.C:
		return fmt.Errorf("decision log: %s: not written within %v", l.o.File, strictTimeout)
	}
}

// send puts e into the queue, waiting for room at most wait.
func (l *Log) send(ctx context.Context, e *Entry, wait time.Duration) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return ErrClosed
	}
	if l.queued.Add(int64(e.octets)) <= maxQueued {
		select {
		case l.queue <- e:
			return nil
		default:
		}
	}
	if err := l.await(ctx, e, wait); err != nil {
		l.queued.Add(-int64(e.octets))
		return err
	}
	return nil
}

// await is send where there is no room: neither too many entries nor too many octets may wait.
func (l *Log) await(ctx context.Context, e *Entry, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		room := l.queue
		if l.queued.Load() > maxQueued {
			room = nil
		}
		select {
		case room <- e:
			return nil
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("decision log: queue is full: %w", ctx.Err())
		case <-timer.C:
			return fmt.Errorf("decision log: %s: queue is full", l.o.File)
		}
	}
}

// Reopen closes the file and opens its name anew, for after a rotation; where that fails, the old file stays in use.
func (l *Log) Reopen() error {
	answer := make(chan error, 1)
	select {
	case l.reopen <- answer:
		return <-answer
	case <-l.ended:
		return ErrClosed
	}
}

// Close writes what is queued, syncs and closes the file. Decisions recorded after it are lost. Calling it again is
// harmless.
func (l *Log) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.queue)
	}
	l.mu.Unlock()
	<-l.ended
	return l.endErr
}
