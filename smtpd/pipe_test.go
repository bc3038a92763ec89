package smtpd

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipeEnd is one end of a connection in memory. What one Write sends, one Read gets (or less, never more), so that tests
// decide where octets are cut; and there is room for any number of them, as in a socket, so that writing never blocks. It
// works in a synctest bubble.
type pipeEnd struct{ in, out *queue }

func newPipe() (a, b *pipeEnd) {
	x, y := newQueue(), newQueue()
	return &pipeEnd{x, y}, &pipeEnd{y, x}
}

func (p *pipeEnd) Read(b []byte) (int, error)  { return p.in.read(b) }
func (p *pipeEnd) Write(b []byte) (int, error) { return p.out.write(b) }
func (p *pipeEnd) CloseWrite() error           { p.out.close(); return nil }
func (p *pipeEnd) Close() error                { p.out.close(); p.in.close(); return nil }

func (p *pipeEnd) LocalAddr() net.Addr  { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }
func (p *pipeEnd) RemoteAddr() net.Addr { return p.LocalAddr() }

func (p *pipeEnd) SetDeadline(t time.Time) error      { return p.SetReadDeadline(t) }
func (p *pipeEnd) SetReadDeadline(t time.Time) error  { p.in.setDeadline(t); return nil }
func (p *pipeEnd) SetWriteDeadline(t time.Time) error { return nil }

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

// pipeListener accepts an end for each dial.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) dial() (net.Conn, error) {
	here, there := newPipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error { l.once.Do(func() { close(l.closed) }); return nil }

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }
