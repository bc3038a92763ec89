package auth

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// courtesy is how long a stranger's check lets those go first who have been here before.
const courtesy = 500 * time.Millisecond

// turn waits until a check of some weight may begin.
func (f *File) turn(ctx context.Context, weight int64) (release func(), err error) {
	lane := f.slots
	ctx, cancel := context.WithTimeout(ctx, f.options.Wait)
	defer cancel()
	trusted := isTrusted(ctx)
	if trusted {
		lane = f.trusted
	} else {
		defer f.waiting.Add(-1)
		if f.waiting.Add(1) > int64(f.options.Queue) {
			return nil, fmt.Errorf("too many logins at once: %w", ErrUnavailable)
		}
	}
	if err := lane.Acquire(ctx, weight); err != nil {
		return nil, fmt.Errorf("too many logins at once: %w: %w", ErrUnavailable, err)
	}
	if !trusted {
		f.known.wait(ctx, courtesy)
		return func() { lane.Release(weight) }, nil
	}
	leave := f.known.enter()
	return func() { leave(); lane.Release(weight) }, nil
}

// calm says when nobody is inside. Its zero value is ready, with nobody inside.
type calm struct {
	mu     sync.Mutex
	inside int
	none   chan struct{} // closed when the last one leaves; nil while there is none
}

// enter counts somebody until he leaves.
func (c *calm) enter() (leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inside++; c.inside == 1 {
		c.none = make(chan struct{})
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.inside--; c.inside == 0 {
			close(c.none)
			c.none = nil
		}
	}
}

// wait until nobody is inside, but for no longer than most, nor beyond ctx.
func (c *calm) wait(ctx context.Context, most time.Duration) {
	c.mu.Lock()
	none := c.none
	c.mu.Unlock()
	if none == nil {
		return
	}
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-none:
	case <-timer.C:
	case <-ctx.Done():
	}
}
