package engine

import (
	"context"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/netaddr"
)

// DefaultMaxWait bounds the wait of a decision for its turn where Engine.MaxWait is zero. With DefaultTimeout it stays well below the
// 30 s that Postfix waits for a milter by default.
const DefaultMaxWait = 10 * time.Second

const (
	// slotsPerProcessor is the number of decisions that are made at once on each processor. They do nothing but compute, so more
	// of them at once make none earlier: BenchmarkAdmission has the figures for 1, 2 and 4.
	slotsPerProcessor = 1
	// maxWaiting and maxWaitingEach bound the decisions that wait, in total and of one client.
	maxWaiting     = 4096
	maxWaitingEach = 1024
	// maxAbandoned is the number of evaluations past their deadline that give their slot back, because each can hold much memory.
	// One more keeps its slot until it ends.
	maxAbandoned = 8
)

// admission bounds how many decisions an Engine makes at once, and lets the others wait. The slots serve clients in turn, and the
// decisions of one client in the order in which they came. One client has at most half of the slots, so that the others find a
// processor. The zero value is ready for use.
type admission struct {
	mu        sync.Mutex
	slots     int // decisions at once; 0: set on the first use
	each      int // slots of one client
	live      int // decisions that have a slot
	abandoned int // evaluations that run on after their decision was given up
	waiting   int // decisions that wait

	clients map[clientKey]*clientShare // that decide, wait, or have an abandoned evaluation
	turns   []*clientShare             // that have decisions waiting; the first is served next
	spare   []*clientShare             // not in use, so that a decision allocates none
}

// clientKey is who takes turns: a login, or the client's network without one.
type clientKey struct {
	login   string
	network netip.Prefix
}

// keyOf returns the client of a transaction. Transactions without login and address, as of a local submission, are one client.
func keyOf(t *Transaction) clientKey {
	if t.Auth != nil && t.Auth.Login != "" {
		return clientKey{login: t.Auth.Login}
	}
	return clientKey{network: netaddr.ClientNetwork(t.Client.IP)}
}

// clientShare is what one client has of an admission.
type clientShare struct {
	admission *admission
	key       clientKey
	running   int // decisions that have a slot, and abandoned evaluations
	waiters   []*waiter
}

// waiter is one decision that waits. settled is closed once it has a slot or was turned away.
type waiter struct {
	settled  chan struct{}
	admitted bool
}

// ticket is the right to make one decision. A nil ticket is that of a decision outside an Engine.
type ticket struct{ client *clientShare } // nil: given back

// enter waits for a slot, at most maxWait, and returns how long that took.
func (a *admission) enter(ctx context.Context, key clientKey, maxWait time.Duration) (ticket, time.Duration, *EvalError) {
	if err := ctx.Err(); err != nil {
		return ticket{}, 0, &EvalError{Kind: kindTimeout, Err: err}
	}
	c, w := a.join(key)
	switch {
	case c == nil:
		return ticket{}, 0, failf(kindBusy, "too many decisions wait for their turn, and this client has the most of them")
	case w == nil:
		return ticket{c}, 0, nil
	}
	began := time.Now()
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	var fail *EvalError
	select {
	case <-w.settled:
	case <-timer.C:
		fail = failf(kindBusy, "it waited %v for its turn (policy.max_wait), because other decisions came first", maxWait)
	case <-ctx.Done():
		fail = failf(kindBusy, "the caller gave up before its turn came: %w", context.Cause(ctx))
	}
	waited := time.Since(began)
	if fail != nil {
		a.withdraw(c, w)
		return ticket{}, waited, fail
	}
	if !w.admitted {
		return ticket{}, waited, failf(kindBusy, "too many decisions wait for their turn, and this client has the most of them")
	}
	return ticket{c}, waited, nil
}

// join gives a client's decision a slot (no waiter), a place among those that wait, or neither (no client).
func (a *admission) join(key clientKey) (*clientShare, *waiter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.setup()
	c := a.client(key)
	if a.free() > 0 && c.running < a.each { // nobody waits who could have the slot: grant has seen to that
		a.live++
		c.running++
		return c, nil
	}
	if len(c.waiters) >= maxWaitingEach || a.waiting >= maxWaiting && !a.makeRoom(c) {
		a.drop(c)
		return nil, nil
	}
	w := &waiter{settled: make(chan struct{})}
	if c.waiters = append(c.waiters, w); len(c.waiters) == 1 {
		a.turns = append(a.turns, c)
	}
	a.waiting++
	return c, w
}

func (a *admission) setup() {
	if a.slots == 0 {
		a.slots = slotsPerProcessor * runtime.GOMAXPROCS(0)
	}
	if a.each == 0 {
		// With one slot a client with a runaway would hold up the others until its time-out, so there are two at least.
		a.slots = max(a.slots, 2)
		a.each = a.slots / 2
	}
	if a.clients == nil {
		a.clients = map[clientKey]*clientShare{}
	}
}

// free returns the number of free slots.
func (a *admission) free() int { return a.slots - a.live - max(0, a.abandoned-maxAbandoned) }

// client returns the share of a key.
func (a *admission) client(key clientKey) *clientShare {
	c := a.clients[key]
	if c == nil {
		if n := len(a.spare); n > 0 {
			c, a.spare = a.spare[n-1], a.spare[:n-1]
		} else {
			c = &clientShare{admission: a}
		}
		c.key = key
		a.clients[key] = c
	}
	return c
}

// drop forgets a client that has nothing here.
func (a *admission) drop(c *clientShare) {
	if c.running > 0 || len(c.waiters) > 0 {
		return
	}
	delete(a.clients, c.key)
	if c.key = (clientKey{}); len(a.spare) < a.slots && cap(c.waiters) <= maxAbandoned {
		a.spare = append(a.spare, c)
	}
}

// makeRoom turns away the newest decision of the client that has most of them waiting. It reports false if that would be the one of c
// that comes now.
func (a *admission) makeRoom(c *clientShare) bool {
	var most *clientShare
	longest := len(c.waiters) + 1
	for _, other := range a.turns {
		if len(other.waiters) > longest {
			most, longest = other, len(other.waiters)
		}
	}
	if most == nil {
		return false
	}
	w := most.waiters[longest-1]
	a.remove(most, w)
	close(w.settled)
	return true
}

// remove takes a decision out of those that wait. It reports false if the decision does not wait any more.
func (a *admission) remove(c *clientShare, w *waiter) bool {
	i := slices.Index(c.waiters, w)
	if i < 0 {
		return false
	}
	a.waiting--
	if c.waiters = slices.Delete(c.waiters, i, i+1); len(c.waiters) == 0 {
		i := slices.Index(a.turns, c)
		a.turns = slices.Delete(a.turns, i, i+1)
	}
	return true
}

// withdraw ends the wait of a decision that was given up, or gives back the slot that it got at the same moment.
func (a *admission) withdraw(c *clientShare, w *waiter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case w.admitted:
		a.live--
		c.running--
	case !a.remove(c, w): // it was turned away, and c can be that of another client by now
		return
	}
	a.drop(c)
	a.grant()
}

// grant gives the free slots to decisions that wait: to one of each client in turn. It passes over a client that has its share.
func (a *admission) grant() {
	for a.free() > 0 {
		i := slices.IndexFunc(a.turns, func(c *clientShare) bool { return c.running < a.each })
		if i < 0 {
			return
		}
		c := a.turns[i]
		w := c.waiters[0]
		if a.remove(c, w); len(c.waiters) > 0 { // then it is still in turns
			a.turns = append(slices.Delete(a.turns, i, i+1), c)
		}
		a.live++
		c.running++
		w.admitted = true
		close(w.settled)
	}
}

// leave gives the slot back, unless the evaluation was abandoned.
func (s *ticket) leave() {
	c := s.client
	if c == nil {
		return
	}
	s.client = nil
	a := c.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	a.live--
	c.running--
	a.drop(c)
	a.grant()
}

// abandon leaves the slot to an evaluation that runs on after its decision was given up. It returns the client, whose ended must be
// called once. The evaluation counts for its client until then, so that the runaways of one client take nothing of the others' share.
func (s *ticket) abandon() *clientShare {
	if s == nil || s.client == nil {
		return nil
	}
	c := s.client
	s.client = nil
	a := c.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	a.live--
	a.abandoned++
	a.grant()
	return c
}

// ended says that an abandoned evaluation of the client has ended.
func (c *clientShare) ended() {
	if c == nil {
		return
	}
	a := c.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	a.abandoned--
	c.running--
	a.drop(c)
	a.grant()
}
