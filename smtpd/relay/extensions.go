package relay

import (
	"context"
	"sync"
	"time"
)

// Extensions are those extensions of a Hop that a server in front of it can promise to its own clients only if the Hop has them. The
// zero value has none.
type Extensions struct {
	EightBit bool  // 8BITMIME (RFC 6152)
	UTF8     bool  // SMTPUTF8 (RFC 6531), which requires 8BITMIME (§3.1)
	DSN      bool  // RFC 3461
	MaxSize  int64 // octets of the largest message, from SIZE (RFC 1870); 0: no limit is known
}

// and returns what both have.
func (e Extensions) and(f Extensions) Extensions {
	size := min(e.MaxSize, f.MaxSize)
	if size == 0 {
		size = max(e.MaxSize, f.MaxSize)
	}
	return Extensions{e.EightBit && f.EightBit, e.UTF8 && f.UTF8, e.DSN && f.DSN, size}
}

// probePause is the time between two attempts to ask a next hop that has never been reached.
const probePause = 30 * time.Second

// prober asks a next hop for its extensions while none of its connections has told them.
type prober struct {
	turn chan struct{} // who holds it may ask
	next time.Time     // not before; of the holder
}

// Extensions implements Hop. They are those of the last EHLO, STARTTLS considered.
func (h *SMTP) Extensions(ctx context.Context) (e Extensions, seen bool) {
	if h.seen.Load() == nil {
		h.probe(ctx)
	}
	c := h.seen.Load()
	if c == nil {
		return Extensions{}, false
	}
	return Extensions{c.eightBit, c.utf8 && c.eightBit, c.dsn, c.maxSize}, true
}

// probe opens a connection to learn the extensions, and keeps it for the first message. One probe goes on at a time; others wait for it.
func (h *SMTP) probe(ctx context.Context) {
	select {
	case h.prober.turn <- struct{}{}:
		defer func() { <-h.prober.turn }()
	case <-ctx.Done():
		return
	}
	if h.seen.Load() != nil || h.o.Now().Before(h.prober.next) || h.slot(ctx) != nil {
		return
	}
	defer h.leave()
	c, err := h.fresh(ctx)
	if err != nil {
		h.prober.next = h.o.Now().Add(probePause)
		h.o.Log.Warn("the next hop could not be asked for its extensions; they are not offered to clients", "hop", h.name, "error", err)
		return
	}
	h.pool.put(c)
}

// Extensions implements Hop: what all Hops have that were ever reached. One that was never reached gets no mail now, so it does not
// count. As soon as it is reached, it does.
func (f *Failover) Extensions(ctx context.Context) (all Extensions, seen bool) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, h := range f.Hops {
		wg.Go(func() {
			e, ok := h.Extensions(ctx)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case ok && seen:
				all = all.and(e)
			case ok:
				all, seen = e, true
			}
		})
	}
	wg.Wait()
	return all, seen
}

// Extensions implements Hop. A Maildir keeps every octet, and the parameters in fields on top. But nobody reports a success to the
// sender, which NOTIFY=SUCCESS asks for (RFC 3461 §4.1), so it has no DSN.
func (m *Maildir) Extensions(context.Context) (e Extensions, seen bool) {
	return Extensions{EightBit: true, UTF8: true}, true
}
