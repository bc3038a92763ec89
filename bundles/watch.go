package bundles

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/safefile"
)

// Gate compiles and tests a candidate and makes it the active policy. An error means that the candidate is not active and
// that the one before still is. A *Refusal says at which stage it failed.
type Gate func(ctx context.Context, c *Candidate) error

// Watcher loads a new candidate whenever its source changes, and hands it to a gate. Set the fields before the first call; all
// but Source and Activate may be zero.
type Watcher struct {
	Source Source
	// Data names extra data documents, which are merged over the bundle's data and watched, too. See [Loader].
	Data   []string
	Limits Limits
	// Verify says whose signature a bundle must have. nil: signatures are ignored.
	Verify *Verification
	// Activate is called with every new candidate, one call at a time.
	Activate Gate
	// Keep is the directory of the last good copy, which Start uses if the source is broken; "": no copy is kept.
	Keep string
	// Tester names the program and the settings with which Activate runs a candidate's tests. What is kept beside the copy
	// says that the tests passed, so that a start with the same bundle and the same Tester need not run them again (see
	// [Candidate.Tested]). "": nothing is remembered.
	Tester string
	// Patience is how long Start tries the source, because clients wait meanwhile. After that it starts with the last good
	// copy, and Run goes on trying. 0, or no copy: as long as it takes.
	Patience time.Duration
	// Settle is how long the source must be quiet before it is read, so that half-written files are not read; 0: 300 ms.
	// A source that is never quiet is read after ten times as long.
	Settle time.Duration
	// Poll is how often the source is read again if it is on another machine, or compared with what was read last if it is
	// not, in case a change was not reported. It varies by a tenth, so that many watchers do not ask one server at the same
	// moment. 0: 30 s, negative: never.
	Poll time.Duration
	// Log gets one record for each candidate's outcome; nil: nothing is logged.
	Log *slog.Logger
	// Metrics is the registry of the metrics postern_policy_*; nil: they are not registered.
	Metrics prometheus.Registerer
	// Subsystem replaces "policy" in the names of the metrics, for a second watcher in the same registry; "": policy.
	Subsystem string
	// Now is the clock for the times in metrics; nil: time.Now.
	Now func() time.Time

	once    sync.Once
	loader  *Loader
	metrics *metrics
	trigger chan struct{}

	looking sync.Mutex // held while the source is read and activated; guards loader, seen and wait
	seen    string     // what was found last: content hash, or error text
	wait    time.Duration

	mu      sync.Mutex // guards the fields below; never held while other code is called
	active  *Candidate
	refused *Refused
	retry   time.Time // when the refused candidate is tried again; zero: only when something changes
	changed bool      // the source changed while it was read, so its content is not known
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
			w.Log.Error("the metrics of the policy cannot be registered", "error", err)
		}
	})
}

// Start loads and activates the first candidate. If that fails, or takes longer than Patience, it activates the last good copy;
// if there is none, it returns an error. Start is optional: Run also loads the first candidate, does not use the copy, and goes
// on if that fails.
func (w *Watcher) Start(ctx context.Context) error {
	limited, cancel := w.patient(ctx)
	defer cancel()
	err := w.look(limited, true)
	if err == nil || w.Keep == "" || ctx.Err() != nil {
		return err
	}
	if limited.Err() == nil {
		return w.fallBack(ctx, err)
	}
	if w.fallBack(ctx, w.late(err)) == nil {
		return nil
	}
	return w.look(ctx, true) // the copy is no help, so the clients have to wait
}

// patient returns ctx with the bound of Patience, if there is a copy to start with.
func (w *Watcher) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	if w.Patience > 0 && w.Keep != "" {
		if _, err := os.Stat(filepath.Join(w.Keep, lastGood)); err == nil {
			return context.WithTimeout(ctx, w.Patience)
		}
	}
	return context.WithCancel(ctx)
}

// late records that the source took longer than Patience. It was being tested if its content had been read.
func (w *Watcher) late(err error) error {
	stage := StageRead
	if errors.As(err, new(*Refusal)) {
		stage = StageTest
	}
	return w.failed(&Refusal{stage, fmt.Errorf("it was not ready within %v; it is tried again while mail is served", w.Patience)})
}

// Active returns the candidate that was activated last; nil before the first.
func (w *Watcher) Active() *Candidate {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.active
}

// LastError returns a *Refusal that says why the present content of the source is not active; nil if it is active.
func (w *Watcher) LastError() error {
	if r := w.Refused(); r != nil {
		return &r.Refusal
	}
	return nil
}

// Refused returns why the present content of the source is not active, and since when; nil if it is active.
func (w *Watcher) Refused() *Refused {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.refused
}

// Trigger asks Run to read the source now, and to try it even if it failed before and has not changed. It does not wait.
func (w *Watcher) Trigger() {
	w.init()
	select {
	case w.trigger <- struct{}{}:
	default: // Run has been asked already
	}
}

// Run reads the source at first and whenever it changes, until ctx ends. Then it returns nil. Call it once, on a goroutine of
// its own.
func (w *Watcher) Run(ctx context.Context) error {
	w.init()
	w.watch().Run(ctx)
	return nil
}

// watch returns the watcher of the files on this machine.
func (w *Watcher) watch() *safefile.Watcher {
	return &safefile.Watcher{
		Paths: w.paths, Changed: func(ctx context.Context, asked bool) { w.look(ctx, asked) },
		Settle: w.Settle, Poll: w.Poll, Ask: w.trigger, Due: w.due, Dotfiles: []string{".manifest", ".signatures.json"}, Log: w.Log,
	}
}

// paths returns all files and directories that are watched.
func (w *Watcher) paths() []string {
	return append(append([]string(nil), w.Source.Paths()...), w.Data...)
}

// look reads the source, and activates its content if that is new. With force it also tries content that failed before.
func (w *Watcher) look(ctx context.Context, force bool) error {
	w.init()
	w.looking.Lock()
	defer w.looking.Unlock()
	raw, err := w.loader.read(ctx)
	if raw.size() >= freeFrom {
		defer debug.FreeOSMemory()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.torn(errors.Is(err, errChanged))
	if errors.Is(err, errChanged) {
		return err // the content is not known yet: the next event or poll reads it again
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
		w.seen = "" // stopped half-way: nothing is known about the candidate
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

// freeFrom is the size of content, in bytes, from which memory is given back to the system as soon as it has been loaded.
// Loading takes several times the memory that is kept, and the next garbage collection may be far off.
const freeFrom = 16 << 20

// foundBy returns a text for what was found, to compare with what is found the next time.
func foundBy(raw *content, err error) string {
	switch {
	case err != nil:
		return err.Error()
	case raw.stale != nil:
		return raw.hash + " " + raw.stale.Error()
	}
	return raw.hash
}

// try parses content and hands the candidate to the gate.
func (w *Watcher) try(ctx context.Context, raw *content) (*Candidate, *Refusal) {
	c, err := w.loader.parse(ctx, raw)
	if err != nil {
		return nil, refusal(err, StageLoad)
	}
	c.Tested = w.tested(c)
	if err := w.Activate(ctx, c); err != nil {
		return nil, refusal(err, StageCompile)
	}
	return c, nil
}

// Refused says why the content of the source is not active, and since when.
type Refused struct {
	Refusal
	Since time.Time // when it was first refused for this reason
}

// maxWait bounds the time until a refused candidate is tried again. It is tried because it may have been refused by a time-out
// on a busy machine, or a key may have been renewed. The time doubles with each refusal, because compiling is expensive.
const maxWait = 10 * time.Minute

// putOff sets the time at which the refused candidate is tried again.
func (w *Watcher) putOff() {
	if w.Poll < 0 {
		return
	}
	w.wait = min(max(2*w.wait, w.Poll), maxWait)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.retry = time.Now().Add(w.wait)
}

// putOn resets putOff, because the content has changed.
func (w *Watcher) putOn() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wait, w.retry = 0, time.Time{}
}

// again reports whether it is time to try the refused candidate again.
func (w *Watcher) again() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.retry.IsZero() && !time.Now().Before(w.retry)
}

// due reports whether to read the source although none of its paths has changed.
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

// activated records that c is active, and writes the last good copy.
func (w *Watcher) activated(c *Candidate, raw *content, took time.Duration) {
	w.loader.keep(raw.tree)
	w.mu.Lock()
	before := w.active
	w.active, w.refused, w.retry, w.wait = c, nil, time.Time{}, 0
	w.mu.Unlock()
	w.metrics.activated(c.Revision, c.Source, w.Now())
	w.Log.Info("policy activated", "source", c.Source, "revision", c.Revision, "modules", len(c.Bundle.Modules),
		"data_only", before != nil && before.ModulesHash == c.ModulesHash, "tested_before", c.Tested, "took", took)
	if w.Keep == "" {
		return
	}
	err := saveLastGood(w.Keep, raw)
	if err == nil {
		err = w.saveTested(c)
	}
	if err != nil {
		w.Log.Error("the policy is active, but its last good copy could not be written", "error", err)
	}
}

// back records that the source holds the active content, or that it cannot be read and nothing else has changed.
func (w *Watcher) back(active *Candidate, raw *content) error {
	if raw.stale != nil {
		return w.failed(refusal(raw.stale, StageRead))
	}
	w.loader.keep(raw.tree) // the same content may have another version now
	w.mu.Lock()
	refused := w.refused
	w.refused, w.retry, w.wait = nil, time.Time{}, 0
	w.mu.Unlock()
	if refused == nil {
		return nil
	}
	w.metrics.recovered()
	w.Log.Info("the source holds the active policy again", "source", w.Source.String(), "revision", active.Revision)
	return nil
}

// failed records a refusal, logs it unless the same one was logged before, and returns it.
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

// fallBack activates the last good copy, with the operator's documents as they are now or, if those are broken, with the saved
// ones.
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
		return fmt.Errorf("the policy cannot be activated:\n%w\nand the last good copy cannot be activated:\n%w", broken, err)
	}
	w.Log.Error("the policy is not active; started with the last good copy", "source", w.Source.String(), "revision", w.Active().Revision)
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

// adopt makes a copy the active candidate. The refusal of the source stays.
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
