package main

import (
	"sync"
	"time"
)

// keepable is a connection that can wait for its next message.
type keepable interface {
	used() time.Time // when it began the last one
	quit()
}

// kept are connections that wait, the latest used first.
type kept[T keepable] struct {
	mu   sync.Mutex
	list []T
}

// get takes one out; ok is false where there is none.
func (k *kept[T]) get() (c T, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.list)
	if n == 0 {
		return c, false
	}
	c = k.list[n-1]
	k.list = k.list[:n-1]
	return c, true
}

func (k *kept[T]) put(c T) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = append(k.list, c)
}

// end quits those that have not been used since then.
func (k *kept[T]) end(since time.Time) {
	k.mu.Lock()
	var old, stay []T
	for _, c := range k.list {
		if c.used().Before(since) {
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
