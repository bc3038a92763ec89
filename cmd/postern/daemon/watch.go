package daemon

import (
	"context"
	"log/slog"

	"github.com/postern-mail/postern/internal/safefile"
)

// fileSet is a set of files that are read again together when one of them changes.
type fileSet struct {
	name   string
	paths  []string
	reload func() error // on an error it keeps what it read before
}

// watchFiles reloads the sets whose files change, until ctx ends. A value in ask reloads all of them (SIGHUP). It runs on the goroutine of
// its caller.
func watchFiles(ctx context.Context, sets []fileSet, ask <-chan struct{}, log *slog.Logger) {
	r := newReloads(sets, log)
	w := &safefile.Watcher{
		Paths: r.paths, Changed: func(_ context.Context, asked bool) { r.changed(asked) },
		Ask: ask, Due: r.due, Log: log,
	}
	w.Run(ctx)
}

// reloads records what was read of each set.
type reloads struct {
	sets   []fileSet
	seen   []string // fingerprints before the last reload; "" after an error, so that the reload is done again
	logged []string // the last error of each set in the log
	log    *slog.Logger
}

func newReloads(sets []fileSet, log *slog.Logger) *reloads {
	r := &reloads{sets, make([]string, len(sets)), make([]string, len(sets)), log}
	for i, s := range sets {
		r.seen[i] = safefile.Fingerprint(s.paths...)
	}
	return r
}

func (r *reloads) paths() []string {
	var paths []string
	for _, s := range r.sets {
		paths = append(paths, s.paths...)
	}
	return paths
}

// due reports whether a reload has failed. It is tried again at the next poll although the files look the same, because the reason may have
// been a lack of file descriptors.
func (r *reloads) due() bool {
	for _, s := range r.seen {
		if s == "" {
			return true
		}
	}
	return false
}

// changed reloads the sets that have changed, or all of them if that was asked for. It logs an error once, and again when asked.
func (r *reloads) changed(asked bool) {
	for i, s := range r.sets {
		now := safefile.Fingerprint(s.paths...)
		if now == r.seen[i] && !asked {
			continue
		}
		err := s.reload()
		if err == nil {
			r.seen[i], r.logged[i] = now, ""
			continue
		}
		r.seen[i] = ""
		if r.logged[i] != err.Error() || asked {
			r.log.Error("reload failed; what was read before stays in use", "what", s.name, "error", err)
		}
		r.logged[i] = err.Error()
	}
}
