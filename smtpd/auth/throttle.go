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

// Throttle counts failed logins by client address (IPv6: by /64) and by login, and says how long the next try must wait and
// when to hang up. Counts halve with time. An address that has lately proved a login is never held up on that login, so
// that nobody can lock a user out by guessing at the account.
//
// The zero value is ready; nil never throttles. It is safe for concurrent use and bounded whatever comes.
type Throttle struct {
	// HalfLife of a count; 5 minutes.
	HalfLife time.Duration
	// Free is how many failures cost nothing; 2.
	Free int
	// MaxDelay before a try; 8 s. It begins at a sixteenth of that and doubles with each failure.
	MaxDelay time.Duration
	// Refuse is the count from which an address is refused without a check; 30. A login is never refused, only slowed.
	Refuse int
	// Waiting is how many tries from one address may be under way at once where more than Free have failed; 4. More are refused:
	// guesses in parallel would wait in parallel, and their connections would be all there are.
	Waiting int
	// Entries at most in each of the tables; 65,536 (about 5 MB).
	Entries int
	// Exempt addresses are not counted: a webmail or a proxy behind which everybody comes. Their logins still are.
	Exempt []netip.Prefix
	// Now is the clock; time.Now.
	Now func() time.Time

	mu     sync.Mutex
	seed   maphash.Seed
	seeded bool
	counts map[key]count
	proved map[key]time.Time
	held   map[key]int // tries that wait, by address
}

// key is a keyed hash of an address, a login, or both: of one size however long a login is.
type key uint64

type count struct {
	score float64
	at    time.Time
}

// proofLife is how long an address that has proved a login is trusted with it.
const proofLife = 24 * time.Hour

// Delay says how long to wait before a try of login from addr is checked.
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

// Refused says that so many tries from addr have failed that the connection is to be closed instead of checking another.
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

// Hold counts a try of login from addr among those under way, until release is called. Not ok: there are as many as may be. An
// address that has proved the login is not counted, and one of which no more than Free have failed is not bounded.
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

// Trusts says that addr has proved login within a day.
func (t *Throttle) Trusts(addr netip.Addr, login string) bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.trusts(addr, login, t.now())
}

// Failures are those that have been counted of late, for the address and for the login, rounded. An address that is exempt
// has none.
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

// Failed counts a failed try. ErrUnavailable is none.
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

// Succeeded remembers that addr has proved login. The address's own count stays: one account of one's own must not buy
// guesses at others.
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

// Proved says whether anybody has proved login within a day.
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

// score of k, decayed to now.
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
	// Beyond any threshold a higher count only lasts longer; bounded, it is forgiven within hours.
	t.counts[k] = count{min(t.score(k, now)+1, 4*float64(cmp.Or(t.Refuse, 30))), now}
}

// makeRoom drops the lowest of a few counts: who floods the table with new names drives out the new names.
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
		login = "" // all that are no logins count as one
	}
	return t.hash("login\x00" + login)
}

// addr is false for an address that is not counted.
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
