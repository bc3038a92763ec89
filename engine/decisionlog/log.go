package decisionlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
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

// ErrClosed is returned by Record and Reopen after Close.
var ErrClosed = errors.New("decision log is closed")

// Sync says when the file is synced to disk. It always is when it is closed.
type Sync uint8

// The choices.
const (
	SyncNever    Sync = iota // when the operating system decides
	SyncInterval             // once a second
	SyncEach                 // with every write, and before a strict Record returns
)

// Options of Open.
type Options struct {
	File string // appended to; created with mode 0600; "": Upload alone
	// Strict makes Record return only when its line is in File, and fail where it cannot be.
	Strict bool
	Sync   Sync
	Rotate Rotate
	Mask   Mask
	Upload *Upload // nil: none
	// Labels are in every line, beside the label "id", which is new at each start and so distinguishes instances.
	Labels map[string]string
	// MaxLine bounds a line, in octets. What does not fit is left out, and the member "shortened" of the line counts it. 0: DefaultLine;
	// at least MinLine, at most LongestLine.
	MaxLine int

	Queue int           // entries that may wait; 0: 4096
	Wait  time.Duration // how long Record waits for a free place before the line is lost, without Strict; 0: 10 ms

	Logger  *slog.Logger          // receives failures and the end of a series of failures; nil: no log
	Metrics prometheus.Registerer // nil: none
	Now     func() time.Time      // the clock of rotation; nil: time.Now
}

// Log is an engine.Recorder that appends to a file and uploads. It is safe for concurrent use.
type Log struct {
	o       Options
	queue   chan *Entry
	reopen  chan chan error
	ended   chan struct{} // closed when the writer has ended
	endErr  error         // of the last write, sync and close; read after ended
	number  atomic.Uint64 // req_id of the last line
	queued  atomic.Int64  // octets
	losses  *losses
	archive *archive  // nil: no rotation
	upload  *uploader // nil: none

	mu     sync.RWMutex // held for reading while sending to queue
	closed bool
}

// Open opens the file and starts the goroutines. Errors name what could not be opened.
func Open(o Options) (*Log, error) {
	o.Queue = cmp.Or(max(o.Queue, 0), defaultQueue)
	o.Wait = cmp.Or(max(o.Wait, 0), defaultWait)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxLine > LongestLine {
		return nil, fmt.Errorf("decision log: a line of %d octets is too long; the most is %d", o.MaxLine, LongestLine)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.File == "" && (o.Upload == nil || o.Strict) {
		return nil, errors.New("decision log: no file is named")
	}
	labels := map[string]string{"id": newUUID()}
	maps.Copy(labels, o.Labels)
	enc, err := newEncoder(o.Mask, labels, o.MaxLine)
	if err != nil {
		return nil, err
	}
	l := &Log{o: o, queue: make(chan *Entry, o.Queue), reopen: make(chan chan error), ended: make(chan struct{})}
	if l.losses, err = newLosses(o.Metrics); err != nil {
		return nil, err
	}
	if o.Upload != nil {
		if l.upload, err = newUploader(*o.Upload, o.Logger, l.losses); err != nil {
			return nil, err
		}
	}
	w := &writer{log: l, encoder: enc}
	if o.File != "" {
		if w.file, err = openFile(o.File); err != nil {
			return nil, err
		}
		if o.Rotate.on() {
			// It is the file that is renamed, not a link to it.
			if real, err := filepath.EvalSymlinks(o.File); err == nil {
				o.File, l.o.File, w.file.name = real, real, real
			}
			l.archive = newArchive(o.File, o.Rotate, o.Logger)
			go l.archive.run()
		}
	}
	if l.upload != nil {
		go l.upload.run()
	}
	go w.run()
	return l, nil
}

// Lost is the number of decisions that are not in the file, or where there is no file, were not uploaded.
func (l *Log) Lost() uint64 { return l.losses.total(l.o.File == "") }

// Record queues a decision; see Options.Strict for what it waits for and when it fails.
func (l *Log) Record(ctx context.Context, r engine.Record) error {
	e := NewEntry(r)
	e.number = l.number.Add(1)
	if !l.o.Strict {
		if err := l.send(ctx, e, l.o.Wait); errors.Is(err, ErrClosed) {
			l.losses.add(lostClosed, 1)
		} else if err != nil {
			l.losses.add(lostQueue, 1)
		}
		return nil
	}
	e.done = make(chan error, 1)
	if err := l.send(ctx, e, strictTimeout); err != nil {
		l.losses.add(lostQueue, 1)
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

// send puts e into the queue. It waits at most wait for a free place.
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

// await is send where the queue is full, by entries or by octets.
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

// Reopen closes the file and opens its name again, for use after a rotation by another program. Where that fails, the old file
// stays in use.
func (l *Log) Reopen() error {
	answer := make(chan error, 1)
	select {
	case l.reopen <- answer:
		return <-answer
	case <-l.ended:
		return ErrClosed
	}
}

// Close writes what is queued, syncs and closes the file, and uploads what it can within Upload.Drain. Decisions recorded
// afterwards are lost. It may be called again.
func (l *Log) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.queue)
	}
	l.mu.Unlock()
	<-l.ended
	if l.archive != nil {
		l.archive.close()
	}
	if l.upload != nil {
		l.upload.close()
	}
	return l.endErr
}

// loss is the reason why a line was lost, a value of the label reason.
type loss int

const (
	lostQueue    loss = iota // the writer did not keep up
	lostWrite                // the file could not be written
	lostEncode               // a line could not be made
	lostClosed               // recorded after Close
	lostBuffer               // not uploaded: the service did not keep up
	lostRefused              // not uploaded: the service does not want it
	lostShutdown             // not uploaded before the program ended
	lossCount
)

var lossNames = [lossCount]string{"queue", "write", "encode", "closed", "upload_buffer", "upload_refused", "upload_shutdown"}

// losses counts lost lines by reason.
type losses struct {
	counts  [lossCount]atomic.Uint64
	metrics [lossCount]prometheus.Counter
}

// newLosses registers the counters. All reasons start at zero, so that a rate includes the first loss.
func newLosses(reg prometheus.Registerer) (*losses, error) {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postern_decision_log_lost_total",
		Help: "Decisions that are missing in the decision log, or with an upload_ reason were not uploaded.",
	}, []string{"reason"})
	if reg != nil {
		if err := reg.Register(vec); err != nil {
			return nil, fmt.Errorf("decision log: %w", err)
		}
	}
	l := &losses{}
	for i, name := range lossNames {
		l.metrics[i] = vec.WithLabelValues(name)
	}
	return l, nil
}

func (l *losses) add(why loss, n int) {
	l.counts[why].Add(uint64(n))
	l.metrics[why].Add(float64(n))
}

// total returns how many lines the file lacks; with uploads, lines that were not uploaded count as well.
func (l *losses) total(uploads bool) (n uint64) {
	for i := range l.counts {
		if uploads || loss(i) < lostBuffer {
			n += l.counts[i].Load()
		}
	}
	return n
}
