package relay

import (
	"sync"
	"time"
)

// pool keeps connections that are in perfect order, the latest used first. Its one timer closes those that have been
// idle for too long; close stops it.
type pool struct {
	Pool
	now func() time.Time

	mu     sync.Mutex
	idle   []*conn // in the order they came
	timer  *time.Timer
	closed bool
}

// get takes the connection that was used last; nil where there is none.
func (p *pool) get() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	c := p.idle[n-1]
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	return c
}

// put keeps c for another message, or closes it where there is any doubt about it.
func (p *pool) put(c *conn) {
	if !p.keep(c) {
		c.close()
	}
}

func (p *pool) keep(c *conn) bool {
	if c.doubt || c.owed != 0 || c.rd.Buffered() > 0 || c.uses >= p.MaxUses {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= p.MaxIdle {
		return false
	}
	c.idle = p.now()
	p.idle = append(p.idle, c)
	if p.timer == nil {
		p.timer = time.AfterFunc(p.Idle, p.expire)
	}
	return true
}

// expire closes what has been idle for too long, and comes again while something is left.
func (p *pool) expire() {
	p.mu.Lock()
	limit := p.now().Add(-p.Idle)
	n := 0
	for n < len(p.idle) && !p.idle[n].idle.After(limit) {
		n++
	}
	old := append([]*conn(nil), p.idle[:n]...)
	p.idle = append(p.idle[:0], p.idle[n:]...)
	p.timer = nil
	if len(p.idle) > 0 && !p.closed {
		p.timer = time.AfterFunc(p.Idle/2+time.Millisecond, p.expire)
	}
	p.mu.Unlock()
	closeAll(old)
}

// drop closes all that are idle: one of them turned out dead, so the others are no better.
func (p *pool) drop() {
	p.mu.Lock()
	old := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, c := range old {
		c.doubt = true
	}
	closeAll(old)
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	old := p.idle
	p.idle = nil
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.mu.Unlock()
	closeAll(old)
}

func closeAll(list []*conn) {
	for _, c := range list {
		c.close()
	}
}
