package auth

import (
	"cmp"
	"hash/maphash"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/netaddr"
)

// Throttle counts failed logins by client address (IPv6: by /64) and by login. It says how long the next try must wait, and when
// to close the connection. Counts halve with time. An address that has lately proved a login is never delayed for that login, so
// that an attacker who guesses cannot lock the user out.
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
	// Entries bounds each of the tables; 0: 65,536 (about 5 MB).
	Entries int
	// Exempt addresses are not counted, such as a webmail server or a proxy that many users share. Logins from there are.
	Exempt []netip.Prefix
	// Now is the clock; nil: time.Now.
	Now func() time.Time

	mu     sync.Mutex
	seed   maphash.Seed
	seeded bool
	counts map[key]count
	proved map[key]time.Time
	held   map[key]int // tries that wait, by address
}

// key is a keyed hash of an address, a login, or both. Its size is the same for every login.
type key uint64

type count struct {
	score float64
	at    time.Time
}

// proofLife is how long an address that has proved a login is not delayed for it.
const proofLife = 24 * time.Hour

// Delay returns how long a try of login from addr must wait.
func (t *Throttle) Delay(addr netip.Addr, login string) time.Duration {
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if t.trusts(addr, login, now) {
		return 0
	}
	score := t.score(t.login(login), now)
	if k, ok := t.addr(addr); ok {
		score = max(score, t.score(k, now))
	}
	over := score - float64(cmp.Or(t.Free, 2))
	if over <= 0 {
		return 0
	}
	longest := cmp.Or(t.MaxDelay, 8*time.Second)
	return min(longest, time.Duration(float64(longest)/16*math.Exp2(min(over-1, 8))))
}

// Refused reports whether so many tries from addr have failed that the connection must be closed without another check.
func (t *Throttle) Refused(addr netip.Addr, login string) bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	k, ok := t.addr(addr)
	return ok && t.score(k, now) >= float64(cmp.Or(t.Refuse, 30)) && !t.trusts(addr, login, now)
}

// Hold counts a try of login from addr as under way, until release is called. ok is false if there are too many already. Tries
// from an address that has proved the login are not counted, and an address with no more than Free failures is not bounded.
func (t *Throttle) Hold(addr netip.Addr, login string) (release func(), ok bool) {
	if t == nil {
		return func() {}, true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	k, counted := t.addr(addr)
	if !counted || t.trusts(addr, login, now) {
		return func() {}, true
	}
	if t.held[k] >= cmp.Or(t.Waiting, 4) && t.score(k, now) > float64(cmp.Or(t.Free, 2)) {
		return nil, false
	}
	if t.held == nil {
		t.held = map[key]int{}
	}
	t.held[k]++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.held[k]--; t.held[k] == 0 {
			delete(t.held, k)
		}
	}, true
}

// Trusts reports whether addr has proved login within a day.
func (t *Throttle) Trusts(addr netip.Addr, login string) bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.trusts(addr, login, t.now())
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

// Failed counts a failed try. ErrUnavailable is not a failed try.
func (t *Throttle) Failed(addr netip.Addr, login string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	t.add(t.login(login), now)
	if k, ok := t.addr(addr); ok {
		t.add(k, now)
	}
}

// Succeeded remembers that addr has proved login. The count of the address stays, because a login with one's own account must not
// allow more guesses at others.
func (t *Throttle) Succeeded(addr netip.Addr, login string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if t.proved == nil {
		t.proved = map[key]time.Time{}
	}
	for _, k := range []key{t.pair(addr, login), t.login(login)} {
		t.prove(k, now)
	}
}

// Proved reports whether any address has proved login within a day.
func (t *Throttle) Proved(login string) bool {
	if _, ok := Login(login); t == nil || !ok {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok := t.proved[t.login(login)]
	return ok && t.now().Sub(at) < proofLife
}

func (t *Throttle) prove(k key, now time.Time) {
	if _, there := t.proved[k]; !there && len(t.proved) >= 2*cmp.Or(t.Entries, 1<<16) {
		for victim := range t.proved { // any
			delete(t.proved, victim)
			break
		}
	}
	t.proved[k] = now
}

func (t *Throttle) trusts(addr netip.Addr, login string, now time.Time) bool {
	at, ok := t.proved[t.pair(addr, login)]
	return ok && now.Sub(at) < proofLife
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
