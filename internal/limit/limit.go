// Package limit says which limit was met, and waits out a shortage of file descriptors. It has no goroutines.
package limit

import (
	"log/slog"
	"sync"
	"time"
)

// Reporter counts the limits that are met, and logs them: at most one line a second for each, so that somebody who runs
// against one again and again does not fill the log. Its zero value is ready.
type Reporter struct {
	Count func(limit string) // nil: nothing is counted

	mu   sync.Mutex
	said map[string]*said
}

// said is what the log knows of one limit.
type said struct {
	at   time.Time
	more int // since then
}

// every is how often the log says the same.
const every = time.Second

// Met counts that limit, with the value it has, was met, and says so. What attrs tell of whoever met it are his alone; the
// next line has the number of others in between.
func (r *Reporter) Met(log *slog.Logger, limit string, value any, attrs ...any) {
	if r.Count != nil {
		r.Count(limit)
	}
	more, say := r.due(limit)
	if !say {
		log.Debug("limit met", append([]any{"limit", limit, "value", value}, attrs...)...)
		return
	}
	attrs = append([]any{"limit", limit, "value", value}, attrs...)
	if more > 0 {
		attrs = append(attrs, "unsaid", more)
	}
	log.Info("limit met", attrs...)
}

func (r *Reporter) due(limit string) (more int, say bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.said[limit]
	if s == nil {
		s = &said{}
		if r.said == nil {
			r.said = map[string]*said{}
		}
		r.said[limit] = s
	}
	now := time.Now()
	if !s.at.IsZero() && now.Sub(s.at) < every {
		s.more++
		return 0, false
	}
	more = s.more
	*s = said{at: now}
	return more, true
}
