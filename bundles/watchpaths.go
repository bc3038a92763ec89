package bundles

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"
)

// PathWatcher calls Changed when files change on disk, for tools that look at more than a bundle. Set the fields before
// Run; the zero value of all but Paths and Changed is useful.
type PathWatcher struct {
	// Paths are the files and directories in question at present; what is not there yet is waited for. It is asked again
	// after every change.
	Paths func() []string
	// Changed is called on Run's goroutine, once for changes that come together. What changes meanwhile is another call.
	Changed func(ctx context.Context)
	// Settle is how long all must be quiet before Changed is called; 0: 200 ms. Where it never is quiet, it is called after
	// ten times as long.
	Settle time.Duration
	// Poll is how often to look in case a change was not reported; 0: 5 s.
	Poll time.Duration
	// Log is told where changes can be found by polling only; nil: nobody is.
	Log *slog.Logger
}

// Run watches until ctx ends. Changes after ready is called are noticed; nil: nobody waits for that.
func (w *PathWatcher) Run(ctx context.Context, ready func()) {
	settle, every, log := w.Settle, w.Poll, w.Log
	if settle <= 0 {
		settle = 200 * time.Millisecond
	}
	if every <= 0 {
		every = 5 * time.Second
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	set := newWatchSet(w.Paths(), log)
	defer func() { set.Close() }()
	seen := stamp(w.Paths(), Limits{})
	if ready != nil {
		ready()
	}
	poll := time.NewTicker(every)
	defer poll.Stop()
	timer := newStopped()
	defer timer.Stop()
	var since time.Time // the first change that has not been looked at; zero: none
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-set.Events():
			if !set.relevant(event) {
				continue
			}
		case err := <-set.Errors():
			if err == nil || errors.Is(err, fsnotify.ErrClosed) {
				continue
			}
		case <-poll.C:
			if stamp(w.Paths(), Limits{}) == seen {
				continue
			}
		case <-timer.C:
			since = time.Time{}
			// The watches are made anew before the look, so that no change can fall between.
			old := set
			set = newWatchSet(w.Paths(), log)
			old.Close()
			if now := stamp(w.Paths(), Limits{}); now != seen {
				seen = now
				w.Changed(ctx)
			}
			continue
		}
		if since.IsZero() {
			since = time.Now()
		}
		timer.Reset(max(0, min(settle, time.Until(since.Add(10*settle)))))
	}
}
