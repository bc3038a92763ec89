package bundles

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
)

// Gate decides whether a candidate becomes active, and makes it so: it compiles, tests, and swaps. An error means that
// the candidate is not active and that the one before still is.
type Gate func(ctx context.Context, c *Candidate) error

// Watcher keeps the active policy in step with its source. Set the fields before the first call; the zero value of every
// field but Source and Activate is useful.
type Watcher struct {
	Source Source
	// Data names extra data documents, merged over the bundle's data and watched too. See [Loader].
	Data   []string
	Limits Limits
	// Verify judges a bundle's bytes before they are parsed; nil: nothing does.
	Verify func(*Tree) error
	// Activate is called with every new candidate, never twice at once.
	Activate Gate
	// Settle is how long the source must be quiet before it is read, so that a half-written file is not; 0: 300 ms.
	// A source that is never quiet is read after ten times as long.
	Settle time.Duration
	// Poll is how often the source is looked at in case a change was not reported; 0: 15 s, negative: never.
	Poll time.Duration
	// Log receives one record an outcome; nil: none.
	Log *slog.Logger
	// Metrics is where the postern_policy_* metrics are registered; nil: nowhere.
	Metrics prometheus.Registerer
	// Now is the clock of the time stamps in metrics; nil: time.Now.
	Now func() time.Time

	once    sync.Once
	loader  *Loader
	metrics *metrics
	trigger chan struct{}

	looking sync.Mutex // held over one look at the source; guards the loader and seen
	seen    string     // what the last look found: content hash, or error text

	mu      sync.Mutex // guards what follows, never held over a call outside
	active  *Candidate
	seenErr error
	stamp   string // cheap fingerprint of the paths when they were last looked at
}

func (w *Watcher) init() {
	w.once.Do(func() {
		w.loader = &Loader{Source: w.Source, Data: w.Data, Limits: w.Limits, Verify: w.Verify}
		w.trigger = make(chan struct{}, 1)
		if w.Settle <= 0 {
			w.Settle = 300 * time.Millisecond
		}
		if w.Poll == 0 {
			w.Poll = 15 * time.Second
		}
		if w.Log == nil {
			w.Log = slog.New(slog.DiscardHandler)
		}
		if w.Now == nil {
			w.Now = time.Now
		}
		var err error
		if w.metrics, err = newMetrics(w.Metrics); err != nil {
			w.Log.Error("metrics of the policy cannot be registered", "error", err)
		}
	})
}

// Start loads and activates the first candidate, so that a program can refuse to start, or fall back on a copy, where
// that fails. It is optional: Run does the same and goes on whatever the outcome.
func (w *Watcher) Start(ctx context.Context) error { return w.look(ctx, true) }

// Adopt tells the watcher that c, from another place such as [LoadLastGood], is what is active at present. What is
// wrong with the source stays wrong.
func (w *Watcher) Adopt(c *Candidate) {
	w.init()
	w.mu.Lock()
	w.active = c
	w.mu.Unlock()
	w.metrics.revision(c.Revision)
}

// Active is the candidate that was activated last; nil before the first.
func (w *Watcher) Active() *Candidate {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.active
}

// LastError is why the source as it is now is not active; nil when it is. It is a *LoadError or what the gate said.
func (w *Watcher) LastError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seenErr
}

// Trigger asks Run to look at the source now, and to try it again even if it is what failed before. It does not wait.
func (w *Watcher) Trigger() {
	w.init()
	select {
	case w.trigger <- struct{}{}:
	default: // one is under way already
	}
}

// Run looks at the source whenever it changes, until ctx ends; then it returns nil. Call it once, on a goroutine of its
// own.
func (w *Watcher) Run(ctx context.Context) error {
	w.init()
	r := &run{watcher: w, settle: newStopped(), events: newWatchSet(w.paths(), w.Log)}
	defer func() { r.events.Close() }()
	if w.Poll > 0 {
		ticker := time.NewTicker(w.Poll)
		defer ticker.Stop()
		r.poll = ticker.C
	}
	w.look(ctx, false) // what changed before the watches were there
	for ctx.Err() == nil {
		r.step(ctx)
	}
	return nil
}

// run is the state of Run.
type run struct {
	watcher *Watcher
	events  *watchSet
	poll    <-chan time.Time
	settle  *time.Timer
	since   time.Time // the first change that has not been looked at; zero: none
}

func newStopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// step waits for one thing to happen and deals with it.
func (r *run) step(ctx context.Context) {
	select {
	case <-ctx.Done():
	case event := <-r.events.Events():
		if r.events.relevant(event) {
			r.arm()
		}
	case err := <-r.events.Errors():
		if err != nil && !errors.Is(err, fsnotify.ErrClosed) {
			r.arm() // reports may have been lost
		}
	case <-r.poll:
		if r.watcher.changed() {
			r.arm()
		}
	case <-r.settle.C:
		r.look(ctx, false)
	case <-r.watcher.trigger:
		r.look(ctx, true)
	}
}

// arm puts the look off until the source has been quiet, but not for ever.
func (r *run) arm() {
	now := time.Now()
	if r.since.IsZero() {
		r.since = now
	}
	latest := r.since.Add(10 * r.watcher.Settle)
	r.settle.Reset(max(0, min(r.watcher.Settle, latest.Sub(now))))
}

// look renews the watches first and reads after, so that no change can fall between. All watches are made anew: a
// directory that was removed and made again can have its old name and its old inode.
func (r *run) look(ctx context.Context, force bool) {
	r.since = time.Time{}
	r.settle.Stop()
	old := r.events
	r.events = newWatchSet(r.watcher.paths(), r.watcher.Log)
	old.Close()
	r.watcher.look(ctx, force)
}

// paths are all files and directories whose change matters.
func (w *Watcher) paths() []string {
	return append(append([]string(nil), w.Source.Paths()...), w.Data...)
}

// changed reports whether the paths look different from when they were last read. A source without paths always does.
func (w *Watcher) changed() bool {
	paths := w.paths()
	if len(w.Source.Paths()) == 0 {
		return true
	}
	now := stamp(paths, w.Limits)
	w.mu.Lock()
	defer w.mu.Unlock()
	return now != w.stamp
}

// look reads the source, and activates what it holds if that is new. With force it tries again what failed before.
func (w *Watcher) look(ctx context.Context, force bool) error {
	w.init()
	w.looking.Lock()
	defer w.looking.Unlock()
	w.stamped(stamp(w.paths(), w.Limits))
	raw, err := w.loader.read(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, errChanged) {
		w.stamped("") // no verdict yet: look again at the next event or poll
		return err
	}
	found := ""
	if err != nil {
		found = err.Error()
	} else {
		found = raw.hash
	}
	if found == w.seen && !force {
		return w.LastError()
	}
	w.seen = found
	if active := w.Active(); err == nil && active != nil && active.ContentHash == raw.hash {
		w.back(active)
		return nil
	}
	began := time.Now()
	c, err := w.try(ctx, raw, err)
	if ctx.Err() != nil && err != nil {
		w.seen = "" // stopped half-way: no verdict about the candidate
		return err
	}
	if err != nil {
		w.failed(err)
		return err
	}
	w.activated(c, time.Since(began))
	return nil
}

// try parses what was read and hands it to the gate.
func (w *Watcher) try(ctx context.Context, raw *content, err error) (*Candidate, error) {
	if err != nil {
		return nil, err
	}
	c, err := w.loader.parse(ctx, raw)
	if err != nil {
		return nil, err
	}
	return c, w.Activate(ctx, c)
}

func (w *Watcher) stamped(stamp string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stamp = stamp
}

// outcome keeps what a look came to, and returns the candidate that was active before.
func (w *Watcher) outcome(c *Candidate, err error) (before *Candidate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before = w.active
	if w.seenErr = err; err == nil {
		w.active = c
	}
	return before
}

// activated notes a success.
func (w *Watcher) activated(c *Candidate, took time.Duration) {
	before := w.outcome(c, nil)
	w.metrics.succeeded(c.Revision, w.Now())
	w.Log.Info("policy activated", "source", c.Source, "revision", c.Revision, "modules", len(c.Bundle.Modules),
		"data_only", before != nil && before.ModulesHash == c.ModulesHash, "took", took)
}

// back notes that the source holds what is active already.
func (w *Watcher) back(active *Candidate) {
	if w.LastError() == nil {
		return
	}
	w.outcome(active, nil)
	w.metrics.succeeded(active.Revision, w.Now())
	w.Log.Info("policy is the active one again", "source", w.Source.String(), "revision", active.Revision)
}

// failed notes a failure, once a candidate.
func (w *Watcher) failed(err error) {
	active := w.outcome(nil, err)
	w.metrics.failed()
	attrs := []any{"source", w.Source.String(), "error", err}
	var load *LoadError
	if errors.As(err, &load) {
		attrs = append(attrs, "place", load.Place(), "line", load.Text)
		for _, more := range load.More {
			attrs = append(attrs, "also", more.Error())
		}
	}
	if active != nil {
		attrs = append(attrs, "active", active.Revision)
	}
	w.Log.Error("policy not activated, nothing changes", attrs...)
}
