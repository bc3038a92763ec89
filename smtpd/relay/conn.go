package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/socket"
)

// conn is one connection to a next hop. Only the goroutine of its transaction uses it.
type conn struct {
	nc    net.Conn
	rd    *bufio.Reader
	times Timeouts
	caps  capabilities
	owed  int        // replies that have not come yet to commands that were sent
	doubt bool       // not to be used for another message
	uses  int        // messages
	idle  time.Time  // when it was put into the pool
	late  func(step) // reports a time limit that was reached
}

// arm limits the next step by its time limit and by ctx. release ends that; each step needs its own arm.
func (c *conn) arm(ctx context.Context, s step) (release func()) {
	nc := c.nc
	if err := nc.SetDeadline(time.Now().Add(s.wait)); err != nil {
		c.doubt = true
	}
	if ctx.Done() == nil {
		return func() {}
	}
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	return func() {
		if !stop() {
			c.doubt = true // the cancellation may change its deadline later, in another transaction
		}
	}
}

// send writes commands to which n replies will come.
func (c *conn) send(ctx context.Context, n int, commands []byte) error {
	if n := c.rd.Buffered(); c.owed == 0 && n > 0 {
		c.doubt = true
		if early, _ := c.rd.Peek(min(n, 3)); string(early) == "421" {
			return errFarewell
		}
		return protocolError("a reply came before its command")
	}
	c.owed += n
	_, err := c.write(ctx, c.times.command(), commands)
	return err
}

// write sends b; if it fails, n octets may have been sent.
func (c *conn) write(ctx context.Context, s step, b []byte) (n int, err error) {
	release := c.arm(ctx, s)
	defer release()
	if n, err = c.nc.Write(b); err != nil {
		return n, c.failed(ctx, s, err)
	}
	return n, nil
}

// failed returns the error of a failed step for the log. c is not used for another message.
func (c *conn) failed(ctx context.Context, s step, err error) error {
	c.doubt = true
	if ctx.Err() == nil && errors.Is(err, os.ErrDeadlineExceeded) {
		c.late(s)
	}
	return cutShort(ctx, err)
}

// read reads the next reply. The time limit is for the whole reply.
func (c *conn) read(ctx context.Context, s step) (serverReply, error) {
	release := c.arm(ctx, s)
	defer release()
	r, err := readReply(c.rd)
	if err != nil {
		return serverReply{}, c.failed(ctx, s, err)
	}
	c.owed--
	if r.code == 421 { // RFC 5321 §3.8: it closes the connection
		c.doubt = true
	}
	return r, nil
}

// ask sends one command and reads its reply.
func (c *conn) ask(ctx context.Context, command string) (serverReply, error) {
	if err := c.send(ctx, 1, []byte(command+"\r\n")); err != nil {
		return serverReply{}, err
	}
	return c.read(ctx, c.times.command())
}

// abortTime is the time limit for ending a transaction that failed or an idle connection.
const abortTime = 5 * time.Second

// reset ends a transaction before its data.
func (c *conn) reset() {
	if c.doubt || c.owed != 0 {
		c.doubt = true
		return
	}
	c.times.Command, c.doubt = min(c.times.Command, abortTime), true
	if r, err := c.ask(context.Background(), "RSET"); err == nil && r.class() == 2 {
		c.doubt = false
	}
}

// waiting reports whether the next hop has sent something or disconnected although no reply is owed. ok is false if this
// cannot be found out without waiting.
func (c *conn) waiting() (yes, ok bool) {
	if c.rd.Buffered() > 0 {
		return true, true
	}
	nc := c.nc
	if t, isTLS := nc.(*tls.Conn); isTLS {
		// Data behind the last reply may be in TLS's own buffer, which the socket does not show. With a deadline in the past
		// only that buffer is read; the time-out leaves t usable.
		if t.SetReadDeadline(time.Unix(1, 0)) != nil {
			return true, true
		}
		if _, err := c.rd.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
			return true, true
		}
		nc = t.NetConn()
	}
	return socket.Readable(nc)
}

// alive reports whether a kept connection may be used for another message.
func (c *conn) alive(ctx context.Context) bool {
	yes, ok := c.waiting()
	if !ok {
		r, err := c.ask(ctx, "NOOP")
		return err == nil && r.class() == 2 && !c.doubt
	}
	return !yes
}

// close ends the connection, with QUIT if no reply is owed. It does not wait for the reply.
func (c *conn) close() {
	if !c.doubt && c.owed == 0 {
		c.nc.SetWriteDeadline(time.Now().Add(abortTime))
		c.nc.Write([]byte("QUIT\r\n"))
	} else if t, isTLS := c.nc.(*tls.Conn); isTLS {
		t.NetConn().Close() // t.Close would wait 5 s for a next hop that does not read
		return
	}
	c.nc.Close()
}

// pool keeps connections for reuse, the one used last first. Its one timer closes those that are idle for too long; close
// stops it.
type pool struct {
	Pool
	now func() time.Time

	mu     sync.Mutex
	idle   []*conn // the longest idle first
	timer  *time.Timer
	closed bool
}

// get takes the connection that was used last; nil if there is none.
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

// put keeps c for another message, or closes it if it is in doubt.
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

// expire closes connections that are idle for too long, and starts the timer again if some are left.
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

// drop closes all idle connections. It is called when one of them turned out to be closed, because the others are likely to be
// closed too.
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
