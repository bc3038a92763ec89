package daemon

import (
	"context"
	"log/slog"

	"github.com/postern-mail/postern/internal/safefile"
)

// watched is a set of files that are read again together when one of them changes.
type watched struct {
	name   string
	paths  []string
	reload func() error // on failure it keeps what was there, and says why
}

// watchFiles reloads sets whose files change, until ctx ends. ask asks for all of them at once (SIGHUP). The caller owns the
// goroutine that it runs on.
func watchFiles(ctx context.Context, sets []watched, ask <-chan struct{}, log *slog.Logger) {
	r := newReloads(sets, log)
	w := &safefile.Watcher{
		Paths: r.paths, Changed: func(_ context.Context, asked bool) { r.changed(asked) },
		Ask: ask, Due: r.due, Log: log,
	}
	w.Run(ctx)
}

// reloads remembers what was read of each set.
type reloads struct {
	sets   []watched
	seen   []string // fingerprint before the last reload; "": the reload failed, so it is done again
	logged []string // the last error that was logged
	log    *slog.Logger
}

func newReloads(sets []watched, log *slog.Logger) *reloads {
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

// due reports whether a reload has failed. It is tried again at the next poll although the files look the same: it may have
// failed for want of file descriptors.
func (r *reloads) due() bool {
	for _, s := range r.seen {
		if s == "" {
			return true
		}
	}
	return false
}

// changed reloads the sets that have changed, and all of them if somebody asked. An error is logged once, and again when
// somebody asked.
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
			r.log.Error("reload failed; what was there stays", "what", s.name, "error", err)
		}
		r.logged[i] = err.Error()
	}
}
