package daemon

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watched is a set of files that are read again together when one of them changes.
type watched struct {
	name   string
	paths  []string
	reload func() error // keeps what was there when it fails, and says why
}

// watchFiles reloads what changes until ctx ends; all asks for everything at once (SIGHUP). Directories are watched, not
// files, so that rename-and-save and symlink swaps are seen; a poll every 30 seconds finds what was not reported.
// Its caller owns the goroutine it runs on.
func watchFiles(ctx context.Context, sets []watched, all <-chan struct{}, log *slog.Logger) {
	events := make(<-chan fsnotify.Event)
	if w, err := fsnotify.NewWatcher(); err != nil {
		log.Warn("files are polled, not watched", "error", err)
	} else {
		defer w.Close()
		events = w.Events
		for _, s := range sets {
			for _, p := range s.paths {
				if err := w.Add(filepath.Dir(p)); err != nil {
					log.Warn("directory is polled, not watched", "directory", filepath.Dir(p), "error", err)
				}
			}
		}
	}
	look := newLook(sets, log)
	poll := time.NewTicker(30 * time.Second)
	defer poll.Stop()
	settle := time.NewTimer(time.Hour)
	defer settle.Stop()
	for {
		force := false
		select {
		case <-ctx.Done():
			return
		case <-events:
			settle.Reset(300 * time.Millisecond) // a certificate and its key are two files
			continue
		case <-all:
			force = true
		case <-settle.C:
		case <-poll.C:
		}
		look.again(force)
	}
}

// look remembers what was seen of each set.
type look struct {
	sets   []watched
	stamps []string // "": to be read again, whatever it looks like
	said   []string // the error that was logged last
	log    *slog.Logger
}

func newLook(sets []watched, log *slog.Logger) *look {
	l := &look{sets, make([]string, len(sets)), make([]string, len(sets)), log}
	for i, s := range sets {
		l.stamps[i] = stamp(s.paths)
	}
	return l
}

// again reads what has changed, or everything. What failed is tried again the next time, although it looks the same: it may
// have failed for want of file descriptors. An error is logged once, and again when it was asked for.
func (l *look) again(force bool) {
	for i, s := range l.sets {
		now := stamp(s.paths)
		if now == l.stamps[i] && !force {
			continue
		}
		err := s.reload()
		if err == nil {
			l.stamps[i], l.said[i] = now, ""
			continue
		}
		if l.stamps[i] = ""; l.said[i] != err.Error() || force {
			l.log.Error("reload failed; what was there stays", "what", s.name, "error", err)
		}
		l.said[i] = err.Error()
	}
}

// stamp changes when one of the files does.
func stamp(paths []string) string {
	var b []byte
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			b = append(b, "gone;"...)
			continue
		}
		b = info.ModTime().AppendFormat(b, time.RFC3339Nano)
		b = append(b, byte(info.Size()), byte(info.Size()>>8), byte(info.Size()>>16), byte(info.Size()>>24), ';')
	}
	return string(b)
}
