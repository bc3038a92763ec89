package auth

import (
	"cmp"
	"context"
	"net/netip"
	"time"
)

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

type clientKey struct{}

// WithClient tells backends who is asking, for those that look at the address or write it down.
func WithClient(ctx context.Context, addr netip.Addr) context.Context {
	return context.WithValue(ctx, clientKey{}, addr.Unmap().WithZone(""))
}

// clientAddr is invalid where nobody told.
func clientAddr(ctx context.Context) netip.Addr {
	addr, _ := ctx.Value(clientKey{}).(netip.Addr)
	return addr
}

type trustKey struct{}

// WithTrust tells backends that the client's address has proved this login lately: such a check need not wait behind those of
// strangers. It proves nothing.
func WithTrust(ctx context.Context) context.Context { return context.WithValue(ctx, trustKey{}, true) }

func isTrusted(ctx context.Context) bool { return ctx.Value(trustKey{}) != nil }
