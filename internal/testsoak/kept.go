package testsoak

import (
	"sync"
	"time"
)

// kept are connections that wait for another message, the latest used first.
type kept struct {
	mu   sync.Mutex
	list []*connection
}

func (k *kept) get() *connection {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.list)
	if n == 0 {
		return nil
	}
	c := k.list[n-1]
	k.list = k.list[:n-1]
	return c
}

func (k *kept) put(c *connection) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = append(k.list, c)
}

// end quits those that have not been used since then.
func (k *kept) end(since time.Time) {
	k.mu.Lock()
	var old []*connection
	stay := k.list[:0]
	for _, c := range k.list {
		if c.since.Before(since) {
			old = append(old, c)
		} else {
			stay = append(stay, c)
		}
	}
	k.list = stay
	k.mu.Unlock()
	for _, c := range old {
		c.quit()
	}
}

// keptMTAs are connections that wait for another message.
type keptMTAs struct {
	mu   sync.Mutex
	list []*server
}

func (k *keptMTAs) get() *server {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.list)
	if n == 0 {
		return nil
	}
	s := k.list[n-1]
	k.list = k.list[:n-1]
	return s
}

func (k *keptMTAs) put(s *server) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = append(k.list, s)
}

// end quits those that have not been used for so long.
func (k *keptMTAs) end(idle time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	stay := k.list[:0]
	for _, s := range k.list {
		if time.Since(s.since) >= idle {
			_ = s.Quit()
		} else {
			stay = append(stay, s)
		}
	}
	k.list = stay
}
