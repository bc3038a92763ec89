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

// traffic is what the good clients do.
type traffic struct {
	site    *site
	ledger  *ledger
	writer  *writer // of what is submitted
	milters *milters

	kept      kept[*connection]
	slots     chan struct{}
	latencies latencies
	sent      atomic.Int64 // messages and milter transactions that have ended
	shed      atomic.Int64 // not sent, because too many were under way
	unplanned counts       // replies that nothing explains
}

// most is how many messages may be under way: beyond that an open loop only makes a heap of them.
const most = 500

// closed sends with so many workers as fast as it is answered, and says how many messages a second that makes; the first
// third is not counted.
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

// paced begins rate messages a second at random times, however long they take, until ctx ends, and waits for their end.
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

// end quits connections that have waited for so long.
func (t *traffic) end(idle time.Duration) {
	since := time.Now().Add(-idle)
	t.kept.end(since)
	t.milters.kept.end(since)
}

// one sends a message that was due at a time: a fifth of them as a mail server asks a milter.
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

// explained says whether the plan, or a fault of the next hop, is why the client was told so.
func explained(plan fate, got answer) bool {
	switch {
	case strings.Contains(got.text, "soak: "), strings.HasPrefix(got.text, "4.4."):
		return true // the hop's own words; it is down, or was lost
	case plan <= hold:
		return got.code == 250
	case plan == postpone:
		return got.code == 451 && strings.HasPrefix(got.text, "4.7.1")
	default:
		return got.code == 550 && strings.HasPrefix(got.text, "5.7.1")
	}
}

var number = regexp.MustCompile(`[0-9A-Za-z]*[0-9][0-9A-Za-z]{4,}|:[0-9]+`)

// plain takes out what differs from one time to the next.
func plain(text string) string {
	text = number.ReplaceAllString(text, "#")
	return text[:min(len(text), 120)]
}

// latencies are those since they were last taken.
type latencies struct {
	mu   sync.Mutex
	list []time.Duration
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, d)
}

// take gives their number, p50 and p99, and begins anew.
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
