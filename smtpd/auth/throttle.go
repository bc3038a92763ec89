package auth

import (
	"cmp"
	"context"
	"hash/maphash"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/netaddr"
)

// Throttle counts failed logins by client address (IPv6: by /64) and by login. It says how long the next try must wait, and which
// tries are not checked at all. Counts halve with time.
//
// An address that has proved a login within a day is trusted with it: neither count holds up that login from there, so that guesses
// from elsewhere, or at other logins from the same address, cannot lock its user out. What fails there counts for the login and
// against bounds of the pair's own: a few wrong passwords at once, then one more every 15 seconds, each of them delayed. After 50
// wrong passwords without a success the trust ends, and the pair is treated like any other.
//
// The zero value is ready for use; nil never delays. It is safe for concurrent use, and its memory is bounded.
type Throttle struct {
	// HalfLife of a count; 0: 5 minutes.
	HalfLife time.Duration
	// Free is how many failures cause no delay; 0: 2.
	Free int
	// MaxDelay is the longest delay before a try; 0: 8 s. Delays begin at a sixteenth of it and double with each failure.
	MaxDelay time.Duration
	// Refuse is the count from which an address is refused without a check; 0: 30. A login is never refused, only delayed.
	Refuse int
	// Waiting is how many tries from one address may be under way, after more than Free have failed; 0: 4. Further ones are
	// refused, because guesses in parallel would wait in parallel and use up the connections.
	Waiting int
	// Entries bounds what is remembered: so many proofs of logins at addresses, twice as many counts and logins; 0: 65,536 (about
	// 30 MB in all).
	Entries int
	// Exempt addresses are not counted, such as a webmail server or a proxy that many users share. Logins from there are.
	Exempt []netip.Prefix
	// Now is the clock; nil: time.Now.
	Now func() time.Time

	mu     sync.Mutex
	seed   maphash.Seed
	seeded bool
	counts map[key]count
	trusts map[key]*trust    // by address and login
	proved map[key]time.Time // by login
	held   map[key]int       // tries under way that are not trusted, by address
}

// key is a keyed hash of an address, a login, or both. Its size is the same for every login.
type key uint64

type count struct {
	score float64
	at    time.Time
}

// Refusal is why a try is refused without a check, in the log and as the label of a metric; "": it is not refused.
type Refusal string

// The refusals.
const (
	// RefusedAddress means that too many tries from the address have failed.
	RefusedAddress Refusal = "address"
	// RefusedPair means that the address is trusted with the login, and too many tries of it from there have failed.
	RefusedPair Refusal = "login_at_address"
	// RefusedParallel means that too many tries are under way.
	RefusedParallel Refusal = "parallel"
)

// Try is one try to log in that may be checked, after Delay. It ends with Failed or Succeeded, or neither if the login could not be
// checked. End must be called after that.
type Try struct {
	// Delay is how long to wait before the check.
	Delay time.Duration
	// Trusted reports whether the address has proved the login within a day.
	Trusted bool

	throttle *Throttle // nil: nothing is counted
	addr     netip.Addr
	login    string
	pair     *trust // under which the try is counted; nil: it is not trusted, or has failed or succeeded
	held     key    // under which it is held
	isHeld   bool
}

// Begin begins a try of login from addr, or says why it is refused; a refused try is nil. It may wait until other tries of a
// trusted pair have ended, for ten seconds at most, or until ctx ends.
func (t *Throttle) Begin(ctx context.Context, addr netip.Addr, login string) (*Try, Refusal) {
	if t == nil {
		return &Try{}, ""
	}
	try, refusal, wait := t.begin(addr, login)
	if wait == nil {
		return try, refusal
	}
	ctx, cancel := context.WithTimeout(ctx, trustWait)
	defer cancel()
	for wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, RefusedParallel
		}
		try, refusal, wait = t.begin(addr, login)
	}
	return try, refusal
}

// begin is Begin without the wait. If wait is not nil, the caller must wait for it and ask again.
func (t *Throttle) begin(addr netip.Addr, login string) (try *Try, refusal Refusal, wait <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	try = &Try{throttle: t, addr: addr, login: login}
	if p := t.trusts[t.pair(addr, login)]; p != nil && p.holds(now) {
		switch {
		case p.room(now):
			p.checking++
			try.pair, try.Trusted, try.Delay = p, true, t.delay(float64(p.failed))
			return try, "", nil
		case p.checking > 0: // those may succeed
			return nil, "", p.wait()
		}
		return nil, RefusedPair, nil
	}
	score := t.score(t.login(login), now)
	if k, counted := t.addr(addr); counted {
		ofAddr := t.score(k, now)
		switch {
		case ofAddr >= float64(cmp.Or(t.Refuse, 30)):
			return nil, RefusedAddress, nil
		case t.held[k] >= cmp.Or(t.Waiting, 4) && ofAddr > t.free():
			return nil, RefusedParallel, nil
		}
		t.hold(k)
		try.held, try.isHeld = k, true
		score = max(score, ofAddr)
	}
	try.Delay = t.delay(score)
	return try, "", nil
}

func (t *Throttle) free() float64 { return float64(cmp.Or(t.Free, 2)) }

// delay is what a try must wait after so many failures.
func (t *Throttle) delay(failures float64) time.Duration {
	over := failures - t.free()
	if over <= 0 {
		return 0
	}
	longest := cmp.Or(t.MaxDelay, 8*time.Second)
	return min(longest, time.Duration(float64(longest)/16*math.Exp2(min(over-1, 8))))
}

func (t *Throttle) hold(k key) {
	if t.held == nil {
		t.held = map[key]int{}
	}
	t.held[k]++
}

// Failed counts the try as a failed one. It reports whether the address was trusted with the login until now. An error that wraps
// ErrUnavailable is not a failed try.
func (y *Try) Failed() (trustEnded bool) {
	t := y.throttle
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	t.add(t.login(y.login), now)
	if p := y.pair; p != nil {
		y.pair = nil
		trustEnded = p.fail(now)
		p.end()
		return trustEnded
	}
	if k, ok := t.addr(y.addr); ok {
		t.add(k, now)
	}
	return false
}

// Succeeded remembers that the address has proved the login that it claimed, and the login as the backend spells it. Counts stay,
// because a login with one's own account must not allow more guesses at others.
func (y *Try) Succeeded(login string) {
	t := y.throttle
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for _, l := range []string{y.login, login} {
		t.trust(t.pair(y.addr, l), now)
		t.prove(t.login(l), now)
	}
}

// End ends the try. It may be called again.
func (y *Try) End() {
	t := y.throttle
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if y.pair != nil {
		y.pair.end()
		y.pair = nil
	}
	if !y.isHeld {
		return
	}
	y.isHeld = false
	if t.held[y.held]--; t.held[y.held] == 0 {
		delete(t.held, y.held)
	}
}

// Failures returns the present counts of failures for the address and for the login, rounded. An exempt address has none.
func (t *Throttle) Failures(addr netip.Addr, login string) (ofAddr, ofLogin int) {
	if t == nil {
		return 0, 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if k, ok := t.addr(addr); ok {
		ofAddr = int(math.Round(t.score(k, now)))
	}
	return ofAddr, int(math.Round(t.score(t.login(login), now)))
}

// Proved reports whether any address has proved login within a day.
func (t *Throttle) Proved(login string) bool {
	if _, ok := Login(login); t == nil || !ok {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok := t.proved[t.login(login)]
	return ok && t.now().Sub(at) < trustLife
}

func (t *Throttle) prove(k key, now time.Time) {
	if t.proved == nil {
		t.proved = map[key]time.Time{}
	}
	if _, there := t.proved[k]; !there && len(t.proved) >= 2*cmp.Or(t.Entries, 1<<16) {
		for victim := range t.proved { // any
			delete(t.proved, victim)
			break
		}
	}
	t.proved[k] = now
}

// trust notes a success of a pair. What its bucket has spent stays.
func (t *Throttle) trust(k key, now time.Time) {
	if p := t.trusts[k]; p != nil {
		p.proved, p.failed = now, 0
		return
	}
	if t.trusts == nil {
		t.trusts = map[key]*trust{}
	}
	if len(t.trusts) >= cmp.Or(t.Entries, 1<<16) {
		t.dropTrust()
	}
	t.trusts[k] = &trust{proved: now, at: now}
}

// dropTrust drops the oldest of a few pairs. Its address is then treated like any other, which is safe.
func (t *Throttle) dropTrust() {
	const look = 16
	var victim key
	var oldest time.Time
	seen := 0
	for k, p := range t.trusts {
		if seen == 0 || p.proved.Before(oldest) {
			victim, oldest = k, p.proved
		}
		if seen++; seen == look {
			break
		}
	}
	delete(t.trusts, victim)
}

// score returns the count of k at the time now.
func (t *Throttle) score(k key, now time.Time) float64 {
	c, ok := t.counts[k]
	if !ok {
		return 0
	}
	return c.score * math.Exp2(-float64(max(0, now.Sub(c.at)))/float64(cmp.Or(t.HalfLife, 5*time.Minute)))
}

func (t *Throttle) add(k key, now time.Time) {
	if t.counts == nil {
		t.counts = map[key]count{}
	}
	if _, there := t.counts[k]; !there && len(t.counts) >= 2*cmp.Or(t.Entries, 1<<16) {
		t.makeRoom(now)
	}
	// A count beyond all thresholds only lasts longer. The bound makes it decay within hours.
	t.counts[k] = count{min(t.score(k, now)+1, 4*float64(cmp.Or(t.Refuse, 30))), now}
}

// makeRoom drops the lowest of a few counts, so that a flood of new names drives out the new names.
func (t *Throttle) makeRoom(now time.Time) {
	const look = 32
	var victim key
	lowest, seen := math.Inf(1), 0
	for k := range t.counts {
		s := t.score(k, now)
		if s < 0.25 {
			delete(t.counts, k)
		} else if s < lowest {
			victim, lowest = k, s
		}
		if seen++; seen == look {
			break
		}
	}
	if len(t.counts) >= 2*cmp.Or(t.Entries, 1<<16) {
		delete(t.counts, victim)
	}
}

func (t *Throttle) login(login string) key {
	if canonical, ok := Login(login); ok {
		login = canonical
	} else {
		login = "" // all invalid logins count as one
	}
	return t.hash("login\x00" + login)
}

// addr returns the key of an address, or false if the address is not counted.
func (t *Throttle) addr(a netip.Addr) (key, bool) {
	a = a.Unmap()
	if !a.IsValid() {
		return 0, false
	}
	for _, p := range t.Exempt {
		if p.Contains(a) {
			return 0, false
		}
	}
	return t.hash("addr\x00" + netaddr.ClientNetwork(a).String()), true
}

func (t *Throttle) pair(a netip.Addr, login string) key {
	if canonical, ok := Login(login); ok {
		login = canonical
	}
	return t.hash("pair\x00" + netaddr.ClientNetwork(a).String() + "\x00" + login)
}

func (t *Throttle) hash(s string) key {
	if !t.seeded {
		t.seed, t.seeded = maphash.MakeSeed(), true
	}
	return key(maphash.String(t.seed, s))
}

func (t *Throttle) now() time.Time {
	if t.Now != nil {
		return t.Now()
	}
	return time.Now()
}
