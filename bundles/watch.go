package bundles

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/safefile"
)

// Gate decides whether a candidate becomes active, and makes it so: it compiles, tests, and swaps. An error means that
// the candidate is not active and that the one before still is; a *Refusal says at which stage it failed.
type Gate func(ctx context.Context, c *Candidate) error

// Watcher keeps the active policy in step with its source. Set the fields before the first call; the zero value of every
// field but Source and Activate is useful.
type Watcher struct {
	Source Source
	// Data names extra data documents, merged over the bundle's data and watched too. See [Loader].
	Data   []string
	Limits Limits
	// Verify says whose signature a bundle must have; nil: none.
	Verify *Verification
	// Activate is called with every new candidate, never twice at once.
	Activate Gate
	// Keep is the directory of the copy of what was active last, with which Start helps itself; "": none is kept.
	Keep string
	// Settle is how long the source must be quiet before it is read, so that a half-written file is not; 0: 300 ms.
	// A source that is never quiet is read after ten times as long.
	Settle time.Duration
	// Poll is how often the source is looked at: one that is not on this machine for anything new, any other in case a
	// change was not reported. It varies by a tenth, so that many watchers of one server spread. 0: 30 s, negative: never.
	Poll time.Duration
	// Log receives one record an outcome; nil: none.
	Log *slog.Logger
	// Metrics is where the metrics postern_policy_* are registered; nil: nowhere.
	Metrics prometheus.Registerer
	// Subsystem stands for "policy" in their names, for a second watcher in one registry; "": policy.
	Subsystem string
	// Now is the clock of the time stamps in metrics; nil: time.Now.
	Now func() time.Time

	once    sync.Once
	loader  *Loader
	metrics *metrics
	trigger chan struct{}

	looking sync.Mutex // held over one look at the source; guards the loader, seen and wait
	seen    string     // what the last look found: content hash, or error text
	wait    time.Duration

	mu      sync.Mutex // guards what follows, never held over a call outside
	active  *Candidate
	refused *Refused
	retry   time.Time // when what was refused is tried once more; zero: not by itself
	changed bool      // the source changed while it was read, so nothing is known of it
}

func (w *Watcher) init() {
	w.once.Do(func() {
		w.loader = &Loader{Source: w.Source, Data: w.Data, Limits: w.Limits, Verify: w.Verify}
		w.trigger = make(chan struct{}, 1)
		if w.Settle <= 0 {
			w.Settle = 300 * time.Millisecond
		}
		if w.Poll == 0 {
			w.Poll = 30 * time.Second
		}
		if w.Log == nil {
			w.Log = slog.New(slog.DiscardHandler)
		}
		if w.Now == nil {
			w.Now = time.Now
		}
		var err error
		if w.metrics, err = newMetrics(w.Metrics, cmp.Or(w.Subsystem, "policy")); err != nil {
			w.Log.Error("metrics of the policy cannot be registered", "error", err)
		}
	})
}

// Start loads and activates the first candidate; where that fails, the last good copy; where there is none, it fails. It
// is optional: Run does the same without the copy, and goes on whatever the outcome.
func (w *Watcher) Start(ctx context.Context) error {
	err := w.look(ctx, true)
	if err == nil || w.Keep == "" || ctx.Err() != nil {
		return err
	}
	return w.fallBack(ctx, err)
}

// Active is the candidate that was activated last; nil before the first.
func (w *Watcher) Active() *Candidate {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.active
}

// LastError is why the source as it is now is not active, a *Refusal; nil when it is.
func (w *Watcher) LastError() error {
	if r := w.Refused(); r != nil {
		return &r.Refusal
	}
	return nil
}

// Refused says what of the source is not active; nil when all of it is.
func (w *Watcher) Refused() *Refused {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refused
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
	w.watch().Run(ctx)
	return nil
}

// watch is the watcher of the paths, with what Run needs to know of w.
func (w *Watcher) watch() *safefile.Watcher {
	return &safefile.Watcher{
		Paths: w.paths, Changed: func(ctx context.Context, asked bool) { w.look(ctx, asked) },
		Settle: w.Settle, Poll: w.Poll, Ask: w.trigger, Due: w.due, Dotfiles: []string{".manifest", ".signatures.json"}, Log: w.Log,
	}
}

// paths are all files and directories whose change matters.
func (w *Watcher) paths() []string {
	return append(append([]string(nil), w.Source.Paths()...), w.Data...)
}

// look reads the source, and activates what it holds if that is new. With force it tries again what failed before.
func (w *Watcher) look(ctx context.Context, force bool) error {
	w.init()
	w.looking.Lock()
	defer w.looking.Unlock()
	raw, err := w.loader.read(ctx)
	if raw.octets() >= freeFrom {
		defer debug.FreeOSMemory()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.torn(errors.Is(err, errChanged))
	if errors.Is(err, errChanged) {
		return err // no verdict yet: look again at the next event or poll
	}
	found := foundBy(raw, err)
	if found == w.seen && !force && !w.again() {
		return w.LastError()
	}
	if found != w.seen {
		w.putOn()
	}
	w.seen = found
	if err != nil {
		return w.failed(refusal(err, StageRead))
	}
	if active := w.Active(); active != nil && active.ContentHash == raw.hash {
		return w.back(active, raw)
	}
	began := time.Now()
	c, refused := w.try(ctx, raw)
	if refused != nil && ctx.Err() != nil {
		w.seen = "" // stopped half-way: no verdict about the candidate
		return refused
	}
	w.metrics.took(time.Since(began))
	if refused != nil {
		w.putOff()
		return w.failed(refused)
	}
	w.activated(c, raw, time.Since(began))
	if raw.stale != nil {
		return w.failed(refusal(raw.stale, StageRead))
	}
	return nil
}

// freeFrom is the size of content, in octets, from which the memory that looking at it took is given back at once: the text of
// a million users and what the parser made on the way are several times what is kept, and the next collection may be far off.
const freeFrom = 16 << 20

// foundBy names what a look found, to tell it from what the next one finds.
func foundBy(raw *content, err error) string {
	switch {
	case err != nil:
		return err.Error()
	case raw.stale != nil:
		return raw.hash + " " + raw.stale.Error()
	}
	return raw.hash
}

// try parses what was read and hands it to the gate.
func (w *Watcher) try(ctx context.Context, raw *content) (*Candidate, *Refusal) {
	c, err := w.loader.parse(ctx, raw)
	if err != nil {
		return nil, refusal(err, StageLoad)
	}
	if err := w.Activate(ctx, c); err != nil {
		return nil, refusal(err, StageCompile)
	}
	return c, nil
}

// Refused says what is at the source and not active, and why not.
type Refused struct {
	Refusal
	Since time.Time // when it was first refused for this reason
}

// What was refused is tried again after a while, then after twice as long, and so on: time may have run out because the
// machine was busy, or a key may have been renewed. Compiling it over and over would cost more than it is worth.
const maxWait = 10 * time.Minute

func (w *Watcher) putOff() {
	if w.Poll < 0 {
		return
	}
	w.wait = min(max(2*w.wait, w.Poll), maxWait)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.retry = time.Now().Add(w.wait)
}

// putOn forgets what was put off.
func (w *Watcher) putOn() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wait, w.retry = 0, time.Time{}
}

// again reports whether it is time to try again what was refused.
func (w *Watcher) again() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.retry.IsZero() && !time.Now().Before(w.retry)
}

// due reports whether to look at the source although none of its paths has changed.
func (w *Watcher) due() bool {
	if len(w.Source.Paths()) == 0 || w.again() {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// torn notes whether the source changed while it was read.
func (w *Watcher) torn(changed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed = changed
}

// activated notes a success, and keeps a copy of it.
func (w *Watcher) activated(c *Candidate, raw *content, took time.Duration) {
	w.loader.keep(raw.tree)
	w.mu.Lock()
	before := w.active
	w.active, w.refused, w.retry, w.wait = c, nil, time.Time{}, 0
	w.mu.Unlock()
	w.metrics.activated(c.Revision, c.Source, w.Now())
	w.Log.Info("policy activated", "source", c.Source, "revision", c.Revision, "modules", len(c.Bundle.Modules),
		"data_only", before != nil && before.ModulesHash == c.ModulesHash, "took", took)
	if w.Keep == "" {
		return
	}
	if err := saveLastGood(w.Keep, raw); err != nil {
		w.Log.Error("last good copy was not kept; the policy is active all the same", "error", err)
	}
}

// back notes that the source holds what is active already, or that it cannot be read and nothing else has changed.
func (w *Watcher) back(active *Candidate, raw *content) error {
	if raw.stale != nil {
		return w.failed(refusal(raw.stale, StageRead))
	}
	w.loader.keep(raw.tree) // the same content may have got another version
	w.mu.Lock()
	refused := w.refused
	w.refused, w.retry, w.wait = nil, time.Time{}, 0
	w.mu.Unlock()
	if refused == nil {
		return nil
	}
	w.metrics.recovered()
	w.Log.Info("policy is the active one again", "source", w.Source.String(), "revision", active.Revision)
	return nil
}

// failed notes a failure, and logs it unless that was said already. It returns the reason.
func (w *Watcher) failed(r *Refusal) error {
	w.mu.Lock()
	active, before := w.active, w.refused
	now := &Refused{*r, w.Now()}
	same := before != nil && before.Stage == r.Stage && before.Error() == r.Error()
	if same {
		now.Since = before.Since
	}
	w.refused = now
	w.mu.Unlock()
	w.metrics.failed(r.Stage)
	attrs := []any{"source", w.Source.String(), "stage", string(r.Stage), "error", r.Err}
	var load *LoadError
	if errors.As(r.Err, &load) {
		attrs = append(attrs, "place", load.Place(), "line", load.Text)
		for _, more := range load.More {
			attrs = append(attrs, "also", more.Error())
		}
	}
	if active != nil {
		attrs = append(attrs, "active", active.Revision)
	}
	level := slog.LevelError
	if same {
		level = slog.LevelDebug
	}
	w.Log.Log(context.Background(), level, "policy not activated, nothing changes", attrs...)
	return r
}

// fallBack activates the copy: with the operator's documents as they are now, or, where those are broken, as they were.
func (w *Watcher) fallBack(ctx context.Context, broken error) error {
	w.looking.Lock()
	defer w.looking.Unlock()
	saved, err := w.loader.readLastGood(ctx, w.Keep)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the policy cannot be activated, and there is no last good copy in %s to start with:\n%w", w.Keep, broken)
	}
	if err == nil {
		err = w.adoptCopy(ctx, saved)
	}
	if err != nil {
		return fmt.Errorf("the policy cannot be activated:\n%w\nand the last good copy does not help:\n%w", broken, err)
	}
	w.Log.Error("policy is broken; started with the last good copy", "source", w.Source.String(), "revision", w.Active().Revision)
	return nil
}

func (w *Watcher) adoptCopy(ctx context.Context, saved *content) error {
	documents, err := readDocuments(ctx, w.Data, w.Limits)
	if err == nil {
		if err = w.adopt(ctx, newContent(saved.tree, documents)); err == nil {
			return nil
		}
	}
	same := func(name string, f File) bool { return name == f.Path }
	if !slices.EqualFunc(w.Data, saved.documents, same) {
		return err // the copy was made with other documents
	}
	if w.adopt(ctx, saved) == nil {
		return nil
	}
	return err
}

// adopt makes a copy the active candidate. What is wrong with the source stays wrong.
func (w *Watcher) adopt(ctx context.Context, saved *content) error {
	c, err := w.loader.parse(ctx, saved)
	if err != nil {
		return err
	}
	c.LastGood = true
	if err := w.Activate(ctx, c); err != nil {
		return err
	}
	w.loader.keep(&Tree{Files: saved.tree.Files, Others: saved.tree.Others, Ignored: saved.tree.Ignored})
	w.mu.Lock()
	w.active = c
	w.mu.Unlock()
	w.metrics.revision(c.Revision, c.Source)
	return nil
}
