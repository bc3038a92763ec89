package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// traffic runs the good clients.
type traffic struct {
	site    *site
	ledger  *ledger
	writer  *writer // of submitted messages
	milters *milters

	kept      kept[*connection]
	slots     chan struct{}
	latencies latencies
	sent      atomic.Int64 // finished messages and milter transactions
	shed      atomic.Int64 // messages not sent, because too many were under way
	unplanned counts       // replies without an explanation
}

// most limits the messages under way. If the program falls behind, more of them would only queue up.
const most = 500

// closed lets each worker send as fast as it gets replies, and returns the rate in messages a second. The first third of the
// time is not counted.
func (t *traffic) closed(ctx context.Context, workers int, d time.Duration) float64 {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				t.one(time.Now())
			}
		})
	}
	wait(ctx, d/3)
	begin, sent := time.Now(), t.sent.Load()
	<-ctx.Done()
	rate := float64(t.sent.Load()-sent) / time.Since(begin).Seconds()
	wg.Wait()
	return rate
}

// paced starts rate messages a second at random times until ctx ends, regardless of how long each takes, and waits for all.
func (t *traffic) paced(ctx context.Context, rate float64) {
	var wg sync.WaitGroup
	next, tidied := time.Now(), time.Now()
	for {
		next = next.Add(time.Duration(rand.ExpFloat64() / rate * float64(time.Second)))
		if !wait(ctx, time.Until(next)) {
			break
		}
		if time.Since(tidied) > 5*time.Second {
			tidied = time.Now()
			wg.Go(func() { t.end(20 * time.Second) })
		}
		select {
		case t.slots <- struct{}{}:
			due := next
			wg.Go(func() {
				t.one(due)
				<-t.slots
			})
		default:
			t.shed.Add(1)
		}
	}
	wg.Wait()
	t.end(0)
}

// end quits connections that have been idle for that long.
func (t *traffic) end(idle time.Duration) {
	since := time.Now().Add(-idle)
	t.kept.end(since)
	t.milters.kept.end(since)
}

// one sends a message that was due at a time. A fifth of the messages go to the milter, as from a mail server.
func (t *traffic) one(due time.Time) {
	defer t.sent.Add(1)
	r := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	if r.IntN(5) == 0 {
		t.milters.one(r, due)
		return
	}
	c, ok := t.kept.get()
	if !ok {
		var err error
		if c, err = t.site.connect(net.IPv4(127, 0, 0, 1), fmt.Sprintf("user%d", r.IntN(logins))); err != nil {
			t.unplanned.add("no connection: "+plain(err.Error()), 1)
			return
		}
		if r.IntN(10) < 7 {
			c.left = 1 + r.IntN(100)
		}
	}
	l := t.writer.write(r, c.login, 10<<20)
	got, err := c.send(l)
	faulted := t.ledger.replied(l.id, got.code)
	took := time.Since(due)
	switch {
	case err != nil:
		t.unplanned.add("no reply: "+plain(err.Error()), 1)
	case !explained(l.plan, got):
		t.unplanned.add(fmt.Sprintf("%s: %d %s", l.plan, got.code, plain(got.text)), 1)
	case got.code == 250 && l.small && !faulted:
		t.latencies.add(took)
	}
	t.keep(c, got, err)
}

func (t *traffic) keep(c *connection, got answer, err error) {
	c.left--
	if err == nil && c.left > 0 && !c.dead && (got.code == 250 || c.Command("RSET", 250) == nil) {
		t.kept.put(c)
		return
	}
	c.dead = c.dead || err != nil
	c.quit()
}

// explained reports whether the plan or a fault of the next hop explains the reply.
func explained(plan fate, got answer) bool {
	switch {
	case strings.Contains(got.text, "soak: "), strings.HasPrefix(got.text, "4.4."):
		return true // the next hop's own text, or its connection failed
	case plan <= hold:
		return got.code == 250
	case plan == postpone:
		return got.code == 451 && strings.HasPrefix(got.text, "4.7.1")
	default:
		return got.code == 550 && strings.HasPrefix(got.text, "5.7.1")
	}
}

var number = regexp.MustCompile(`[0-9A-Za-z]*[0-9][0-9A-Za-z]{4,}|:[0-9]+`)

// plain replaces numbers and identifiers, so that equal errors have equal texts.
func plain(text string) string {
	text = number.ReplaceAllString(text, "#")
	return text[:min(len(text), 120)]
}

// latencies collects latencies until they are taken.
type latencies struct {
	mu   sync.Mutex
	list []time.Duration
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, d)
}

// take returns number, p50 and p99 of the collected latencies, and clears them.
func (l *latencies) take() (n int, p50, p99 time.Duration) {
	l.mu.Lock()
	list := l.list
	l.list = nil
	l.mu.Unlock()
	if n = len(list); n == 0 {
		return 0, 0, 0
	}
	slices.Sort(list)
	return n, list[n/2], list[n*99/100]
}

// keepable is a connection that can carry another message.
type keepable interface {
	used() time.Time // start of its last message
	quit()
}

// kept is a stack of idle connections.
type kept[T keepable] struct {
	mu   sync.Mutex
	list []T
}

// get removes and returns the connection that was used last; ok is false if there is none.
func (k *kept[T]) get() (c T, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.list)
	if n == 0 {
		return c, false
	}
	c = k.list[n-1]
	k.list = k.list[:n-1]
	return c, true
}

func (k *kept[T]) put(c T) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = append(k.list, c)
}

// end quits the connections that have not been used since then.
func (k *kept[T]) end(since time.Time) {
	k.mu.Lock()
	var old, stay []T
	for _, c := range k.list {
		if c.used().Before(since) {
			old = append(old, c)
		} else {
			stay = append(stay, c)
		}
	}
	k.list = stay
	k.mu.Unlock()
	for _, c := range old {
		c.quit()
	}
}
