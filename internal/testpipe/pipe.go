// Package testpipe is connections in memory for tests. They work in a synctest bubble, and tests decide where octets are cut.
//
// It starts no goroutines. A timer of a deadline ends with its connection.
package testpipe

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// End is one end of a connection in memory. One Read gets what one Write has sent, or less, never more. There is room for any number
// of octets, so that writing never blocks.
type End struct{ in, out *queue }

// New returns the two ends of a connection.
func New() (a, b *End) {
	x, y := newQueue(), newQueue()
	return &End{x, y}, &End{y, x}
}

// Unread is the number of octets that were sent to this end and not read.
func (p *End) Unread() (n int) {
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	for _, c := range p.in.chunks {
		n += len(c)
	}
	return n
}

func (p *End) Read(b []byte) (int, error)  { return p.in.read(b) }
func (p *End) Write(b []byte) (int, error) { return p.out.write(b) }
func (p *End) CloseWrite() error           { p.out.close(); return nil }
func (p *End) Close() error                { p.out.close(); p.in.close(); return nil }

func (p *End) LocalAddr() net.Addr  { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }
func (p *End) RemoteAddr() net.Addr { return p.LocalAddr() }

func (p *End) SetDeadline(t time.Time) error      { return p.SetReadDeadline(t) }
func (p *End) SetReadDeadline(t time.Time) error  { p.in.setDeadline(t); return nil }
func (p *End) SetWriteDeadline(t time.Time) error { return nil }

// queue is one direction.
type queue struct {
	mu       sync.Mutex
	changed  *sync.Cond
	chunks   [][]byte
	closed   bool
	deadline time.Time
	timer    *time.Timer
}

func newQueue() *queue {
	q := &queue{}
	q.changed = sync.NewCond(&q.mu)
	return q
}

func (q *queue) read(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case !q.deadline.IsZero() && !time.Now().Before(q.deadline):
			return 0, os.ErrDeadlineExceeded
		case len(q.chunks) > 0:
			n := copy(b, q.chunks[0])
			if q.chunks[0] = q.chunks[0][n:]; len(q.chunks[0]) == 0 {
				q.chunks = q.chunks[1:]
			}
			return n, nil
		case q.closed:
			return 0, io.EOF
		}
		q.changed.Wait()
	}
}

func (q *queue) write(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, io.ErrClosedPipe
	}
	if len(b) > 0 {
		q.chunks = append(q.chunks, append([]byte(nil), b...))
		q.changed.Broadcast()
	}
	return len(b), nil
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.changed.Broadcast()
	if q.timer != nil {
		q.timer.Stop()
	}
}

func (q *queue) setDeadline(t time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.timer != nil {
		q.timer.Stop()
	}
	q.deadline = t
	if !t.IsZero() && !q.closed {
		q.timer = time.AfterFunc(time.Until(t), q.changed.Broadcast)
	}
	q.changed.Broadcast()
}

// Listener accepts an end for each Dial.
type Listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewListener returns an open Listener.
func NewListener() *Listener {
	return &Listener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Dial returns the other end of a connection, when it was accepted.
func (l *Listener) Dial() (net.Conn, error) {
	here, there := New()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *Listener) Close() error { l.once.Do(func() { close(l.closed) }); return nil }

func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// Endings are octets that some servers take for the end of data, or turn into it (CVE-2023-51764 to 51766). None of them is the end:
// only CRLF.CRLF is (RFC 5321 §4.1.1.4), and a CR, LF or NUL by itself has no place in a message (§2.3.8).
func Endings() []string {
	return []string{
		"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\r.\n", "\n.\r", "\r\n.\r\r\n", "\r\r\n.\r\n",
		"\n\r\n.\r\n", "\r\n\x00.\r\n", "\r\n.\x00\r\n", "\x00\r\n.\r\n",
	}
}
