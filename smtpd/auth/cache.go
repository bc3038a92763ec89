package auth

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"
)

// proof stands for a login and its password: a keyed hash, worthless without the process's key.
type proof [sha256.Size]byte

// cache remembers successful checks for a while, so that a client which sends fifty messages over fifty connections pays for
// one argon2. Failures are not kept: guessing stays slow. A File has one for each reading of its table.
type cache struct {
	life time.Duration
	max  int

	mu      sync.Mutex
	key     [32]byte
	entries map[proof]remembered
}

// remembered is what a check found out, and until when it is taken for true.
type remembered struct {
	until time.Time
	id    Identity
}

func newCache(life time.Duration, max int) *cache {
	c := &cache{life: life, max: max, entries: map[proof]remembered{}}
	rand.Read(c.key[:]) // never fails (crypto/rand)
	return c
}

// proof of login and password, and of whatever else the answer hung on. The lengths keep "ab"+"c" and "a"+"bc" apart.
func (c *cache) proof(login string, password []byte, more ...string) (p proof) {
	c.mu.Lock()
	key := c.key
	c.mu.Unlock()
	mac := hmac.New(sha256.New, key[:])
	part := func(b []byte) {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(b)))
		mac.Write(n[:])
		mac.Write(b)
	}
	part([]byte(login))
	part(password)
	for _, m := range more {
		part([]byte(m))
	}
	mac.Sum(p[:0])
	return p
}

// empty forgets everything, and what is being checked meanwhile, too: its proof was made with a key that is gone.
func (c *cache) empty() {
	c.mu.Lock()
	defer c.mu.Unlock()
	rand.Read(c.key[:])
	clear(c.entries)
}

// has says whether p succeeded within the life of an entry. Looking up a keyed hash in a map tells an attacker who does not
// know the key nothing by its time.
func (c *cache) has(p proof, now time.Time) bool {
	_, ok := c.recall(p, now)
	return ok
}

// recall gives what is remembered of p.
func (c *cache) recall(p proof, now time.Time) (Identity, bool) {
	if c.life <= 0 {
		return Identity{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.entries[p]
	if ok && !now.Before(r.until) {
		delete(c.entries, p)
		return Identity{}, false
	}
	return r.id, ok
}

// add remembers p for whoever has its identity elsewhere.
func (c *cache) add(p proof, now time.Time) { c.remember(p, Identity{}, now) }

// remember keeps id under p. A full cache first drops what is over, then any entry.
func (c *cache) remember(p proof, id Identity, now time.Time) {
	if c.life <= 0 || c.max <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) >= c.max {
		c.makeRoom(now)
	}
	c.entries[p] = remembered{now.Add(c.life), id}
}

// makeRoom looks at a bounded number of entries, so that a full cache costs no login a walk over all of it.
func (c *cache) makeRoom(now time.Time) {
	const look = 64
	seen, victim := 0, proof{}
	for p, r := range c.entries {
		if seen++; seen > look {
			break
		}
		if !now.Before(r.until) {
			delete(c.entries, p)
			continue
		}
		victim = p
	}
	if len(c.entries) >= c.max {
		delete(c.entries, victim)
	}
}

// Bounds of what is remembered of slow backends, where nothing else is configured.
const (
	defaultCacheLife = time.Minute
	defaultCacheSize = 1 << 14
)

// CacheOptions say how long and how much a slow backend's successes are remembered; zero fields mean the defaults.
type CacheOptions struct {
	// Life of a success; one minute. Negative: nothing is remembered.
	Life time.Duration
	// Size is how many are remembered; 16,384.
	Size int
	// Now is the clock; time.Now.
	Now func() time.Time
}

func (o CacheOptions) withDefaults() CacheOptions {
	o.Life, o.Size = cmp.Or(o.Life, defaultCacheLife), cmp.Or(o.Size, defaultCacheSize)
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Cached is a Backend that remembers another's successes for a short while. It cannot know of a change on the other side: who
// has been locked out there may get in until his entry is over, and so may he while the other side is down. Failures are not
// remembered. An entry holds for the login, the password and the client's address together, because backends may look at all
// three. Make one with NewCached.
type Cached struct {
	Backend
	cache *cache
	now   func() time.Time
}

// NewCached remembers what b proves.
func NewCached(b Backend, o CacheOptions) *Cached {
	o = o.withDefaults()
	return &Cached{Backend: b, cache: newCache(o.Life, o.Size), now: o.Now}
}

// Password implements Backend.
func (c *Cached) Password(ctx context.Context, login, password string) (Identity, error) {
	p := c.cache.proof(login, []byte(password), clientAddr(ctx).String())
	if id, ok := c.cache.recall(p, c.now()); ok {
		return id, nil
	}
	id, err := c.Backend.Password(ctx, login, password)
	if err == nil {
		c.cache.remember(p, id, c.now())
	}
	return id, err
}

// Flush forgets everything.
func (c *Cached) Flush() { c.cache.empty() }
