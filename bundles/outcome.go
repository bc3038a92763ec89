package bundles

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

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
