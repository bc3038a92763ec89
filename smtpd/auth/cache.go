package auth

import (
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
// one argon2. Failures are not kept: guessing stays slow. It belongs to one table, and so to one reading of the file.
type cache struct {
	key  [32]byte
	life time.Duration
	max  int

	mu    sync.Mutex
	until map[proof]time.Time
}

func newCache(life time.Duration, max int) *cache {
	c := &cache{life: life, max: max, until: map[proof]time.Time{}}
	rand.Read(c.key[:]) // never fails (crypto/rand)
	return c
}

// proof of login and password. The length keeps "ab"+"c" and "a"+"bc" apart.
func (c *cache) proof(login string, password []byte) (p proof) {
	mac := hmac.New(sha256.New, c.key[:])
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(login)))
	mac.Write(n[:])
	mac.Write([]byte(login))
	mac.Write(password)
	mac.Sum(p[:0])
	return p
}

// has says whether p succeeded within the life of an entry. Looking up a keyed hash in a map tells an attacker who does not
// know the key nothing by its time.
func (c *cache) has(p proof, now time.Time) bool {
	if c.life <= 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	until, ok := c.until[p]
	if ok && !now.Before(until) {
		delete(c.until, p)
		return false
	}
	return ok
}

// add remembers p. A full cache first drops what is over, then any entry.
func (c *cache) add(p proof, now time.Time) {
	if c.life <= 0 || c.max <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.until) >= c.max {
		c.makeRoom(now)
	}
	c.until[p] = now.Add(c.life)
}

// makeRoom looks at a bounded number of entries, so that a full cache costs no login a walk over all of it.
func (c *cache) makeRoom(now time.Time) {
	const look = 64
	seen, victim := 0, proof{}
	for p, until := range c.until {
		if seen++; seen > look {
			break
		}
		if !now.Before(until) {
			delete(c.until, p)
			continue
		}
		victim = p
	}
	if len(c.until) >= c.max {
		delete(c.until, victim)
	}
}
