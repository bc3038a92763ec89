package safefile

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watcher calls Changed when files change. Set the fields before Run; all but Paths and Changed may be zero.
//
// It notices a file that is written in place, replaced by rename, removed and made again, or swapped by a symbolic link
// (also one of its directories, as Kubernetes does with ..data), and every file below a directory. Events of the system
// say that something may have changed; a fingerprint of the content decides. Where no event comes, because the file system
// has none or the system grants no more watches, the poll finds the change.
type Watcher struct {
	// Paths returns the files and directories to watch. One that does not exist yet is waited for. It is called again after
	// each change.
	Paths func() []string
	// Changed is called on Run's goroutine: at first when the watches are in place, for what changed before; then after
	// changes, once for those that come together; and when Ask asks. What changes while it runs leads to another call.
	Changed func(ctx context.Context, asked bool)
	// Settle is how long everything must be quiet before Changed is called, so that half-written files are not read;
	// 0: 300 ms. If it never is quiet, Changed is called after ten times as long.
	Settle time.Duration
	// Poll is how often to look for changes that no event reported, give or take a tenth, so that many programs do not look
	// at the same moment; 0: 30 s, negative: never.
	Poll time.Duration
	// Ask makes Run call Changed with asked at once; nil: never.
	Ask <-chan struct{}
	// Due is called at each poll, and after events. If it returns true, Changed is called although nothing has changed;
	// nil: never.
	Due func() bool
	// Dotfiles names files in watched directories that count although their names begin with a dot.
	Dotfiles []string
	// Log says where changes are found by polling only; nil: nothing is logged.
	Log *slog.Logger

	watches  *watchSet
	seen     string      // fingerprint before the last call of Changed
	since    time.Time   // the first event after the last look; zero: none
	settling *time.Timer // ends when the files have been quiet
	polling  *time.Timer // ends at the next poll
}

// Run watches until ctx ends. Call it once.
func (w *Watcher) Run(ctx context.Context) {
	w.setDefaults()
	defer w.settling.Stop()
	defer w.polling.Stop()
	defer func() { w.watches.Close() }()
	w.look(ctx, true, false)
	for ctx.Err() == nil {
		w.wait(ctx)
	}
}

func (w *Watcher) setDefaults() {
	if w.Settle <= 0 {
		w.Settle = 300 * time.Millisecond
	}
	if w.Poll == 0 {
		w.Poll = 30 * time.Second
	}
	if w.Log == nil {
		w.Log = slog.New(slog.DiscardHandler)
	}
	w.settling, w.polling = time.NewTimer(time.Hour), time.NewTimer(time.Hour)
	w.settling.Stop()
	w.polling.Stop()
	w.resetPoll()
}

// resetPoll starts the time to the next poll.
func (w *Watcher) resetPoll() {
	if w.Poll > 0 {
		w.polling.Reset(w.Poll - w.Poll/10 + rand.N(w.Poll/5+1))
	}
}

// wait waits for one thing to happen and deals with it.
func (w *Watcher) wait(ctx context.Context) {
	select {
	case <-ctx.Done():
	case event := <-w.watches.Events():
		if w.watches.relevant(event) {
			w.settle()
		}
	case err := <-w.watches.Errors():
		if err != nil && !errors.Is(err, fsnotify.ErrClosed) {
			w.settle() // events may have been lost
		}
	case <-w.polling.C:
		if w.due() || fingerprint(w.Paths(), w.Dotfiles) != w.seen {
			w.settle()
		}
		w.resetPoll()
	case <-w.settling.C:
		w.look(ctx, false, false)
	case <-w.Ask:
		w.look(ctx, true, true)
	}
}

// settle puts off the look until the files are quiet, but not for ever.
func (w *Watcher) settle() {
	now := time.Now()
	if w.since.IsZero() {
		w.since = now
	}
	// Once the time is up, the timer is left alone: events that come fast enough would reset it again and again.
	if left := w.since.Add(10 * w.Settle).Sub(now); left > 0 {
		w.settling.Reset(min(w.Settle, left))
	}
}

// look calls Changed, where force says so or something has changed. It renews the watches first and takes the fingerprint
// next, so that no later change is missed. All watches are made anew: a directory that was removed and made again can have
// its old name and its old inode.
func (w *Watcher) look(ctx context.Context, force, asked bool) {
	w.since = time.Time{}
	w.settling.Stop()
	paths, old := w.Paths(), w.watches
	w.watches = newWatchSet(paths, w.Dotfiles, w.Log)
	old.Close()
	now := fingerprint(paths, w.Dotfiles)
	if !force && now == w.seen && !w.due() {
		return
	}
	w.seen = now
	w.Changed(ctx, asked)
}

func (w *Watcher) due() bool { return w.Due != nil && w.Due() }
