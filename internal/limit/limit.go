// Package limit counts and logs the limits that clients hit, and keeps a listener going through a shortage of file
// descriptors. It starts no goroutines.
package limit

import (
	"log/slog"
	"sync"
	"time"
)

// Reporter counts and logs each limit that is hit. A limit is logged at most once a second, so that a client cannot fill the
// log by hitting it repeatedly. The zero value is ready to use, and any goroutine may use it.
type Reporter struct {
	Count func(limit string) // nil: nothing is counted

	mu   sync.Mutex
	last map[string]*entry // by limit
}

// entry is the last log line about one limit.
type entry struct {
	at         time.Time
	suppressed int // lines left out since then
}

// logInterval is the least time between two log lines about the same limit.
const logInterval = time.Second

// Met counts and logs that limit, which is set to value, was hit. attrs describe the client that hit it. A log line has the
// number of lines that were left out before it as "unsaid".
func (r *Reporter) Met(log *slog.Logger, limit string, value any, attrs ...any) {
	if r.Count != nil {
		r.Count(limit)
	}
	suppressed, due := r.due(limit)
	if !due {
		log.Debug("limit met", append([]any{"limit", limit, "value", value}, attrs...)...)
		return
	}
	attrs = append([]any{"limit", limit, "value", value}, attrs...)
	if suppressed > 0 {
		attrs = append(attrs, "unsaid", suppressed)
	}
	log.Info("limit met", attrs...)
}

// due reports whether limit is to be logged now, and how many lines were left out before.
func (r *Reporter) due(limit string) (suppressed int, due bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.last[limit]
	if e == nil {
		e = &entry{}
		if r.last == nil {
			r.last = map[string]*entry{}
		}
		r.last[limit] = e
	}
	now := time.Now()
	if !e.at.IsZero() && now.Sub(e.at) < logInterval {
		e.suppressed++
		return 0, false
	}
	suppressed = e.suppressed
	*e = entry{at: now}
	return suppressed, true
}
