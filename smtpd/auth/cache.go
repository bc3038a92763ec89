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

// proof is a keyed hash of a login and its password. It is useless without the key, which never leaves the process.
type proof [sha256.Size]byte

// cache remembers successful checks for a while, so that a client that sends fifty messages over fifty connections costs one
// argon2. Failures are not remembered, so guessing stays slow. A File passes its cache from one table to the next.
type cache struct {
	life time.Duration
	max  int

	mu      sync.Mutex
	key     [32]byte
	entries map[proof]remembered
}

// remembered is the result of a check, and until when it holds.
type remembered struct {
	until time.Time
	id    Identity
}

func newCache(life time.Duration, max int) *cache {
	c := &cache{life: life, max: max, entries: map[proof]remembered{}}
	rand.Read(c.key[:]) // never fails (crypto/rand)
	return c
}

// proof returns the proof of login, password and all else that the result depends on. It includes the lengths, so that
// "ab"+"c" and "a"+"bc" differ.
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

// empty forgets everything, including checks that are under way, because their proofs were made with the old key.
func (c *cache) empty() {
	c.mu.Lock()
	defer c.mu.Unlock()
	rand.Read(c.key[:])
	clear(c.entries)
}

// has reports whether p succeeded within the life of an entry. The time of a look-up by a keyed hash tells nothing to an
// attacker who does not know the key.
func (c *cache) has(p proof, now time.Time) bool {
	_, ok := c.recall(p, now)
	return ok
}

// recall returns the identity that is remembered for p.
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

// add remembers p without an identity.
func (c *cache) add(p proof, now time.Time) { c.remember(p, Identity{}, now) }

// remember keeps id for p. A full cache first drops expired entries, then any.
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

// makeRoom looks at a bounded number of entries, so that a login never waits for a walk over a full cache.
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

// Defaults of CacheOptions.
const (
	defaultCacheLife = time.Minute
	defaultCacheSize = 1 << 14
)

// CacheOptions say how long and how many successful checks of a slow backend are remembered. Zero fields mean the defaults.
type CacheOptions struct {
	// Life is how long a success is remembered; 0: one minute, negative: nothing is remembered.
	Life time.Duration
	// Size is how many successes are remembered; 0: 16,384.
	Size int
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

func (o CacheOptions) withDefaults() CacheOptions {
	o.Life, o.Size = cmp.Or(o.Life, defaultCacheLife), cmp.Or(o.Size, defaultCacheSize)
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Cached is a Backend that remembers successful checks of another backend for a short while. It does not notice a change there:
// a user who has been locked out can log in until the entry expires, also while the other backend is down. Failures are not
// remembered. An entry is for the login, the password and the client's address together, because backends may look at all
// three. Make one with NewCached.
type Cached struct {
	Backend
	cache *cache
	now   func() time.Time
}

// NewCached returns a Cached for b.
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
