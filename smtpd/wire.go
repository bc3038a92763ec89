package smtpd

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Bounds on what is read at once.
const (
	smallBuffer = 512      // a connection that waits for commands; most of them do nothing else
	largeBuffer = 32 << 10 // one that sends a message
	authLine    = 12288    // RFC 4954 §4
	fullOutput  = 16 << 10 // replies held back while a pipelining client goes on
)

var (
	errLineTooLong = errors.New("line too long")
	errBareCR      = errors.New("bare CR")
	errBareLF      = errors.New("bare LF")
	errNUL         = errors.New("NUL octet")
	errStopping    = errors.New("the server stops")
)

// wire is the octets of one connection in both directions: blocks in, lines out of them, replies held back until there
// is nothing left to read. It knows no SMTP verbs.
//
// Failures are sticky: after a read has failed, for a time-out as for anything else, every later read fails. A client
// that stalls in the middle of a message can therefore never have the rest of it read as commands.
type wire struct {
	raw  net.Conn // the TCP connection; deadlines are set here
	conn net.Conn // raw, or the TLS layer above it

	in      []byte // input: in[r:w] is unread
	r, w    int
	small   []byte // in, while a large block is in its place
	blocks  *sync.Pool
	out     []byte        // replies not yet written
	rerr    error         // of reading
	later   error         // of a read that brought octets as well
	werr    error         // of writing
	timeout time.Duration // of one write

	mu   sync.Mutex
	idle bool // blocked between two transactions: interrupt may wake it
	stop bool // the server stops
}

func newWire(raw net.Conn, blocks *sync.Pool, timeout time.Duration) *wire {
	return &wire{raw: raw, conn: raw, blocks: blocks, timeout: timeout}
}

// interrupt makes a connection that waits between two transactions, or for a handshake, fail with errStopping, now or when it
// next would wait. It may be called from any goroutine; nothing else of wire may.
func (w *wire) interrupt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stop = true
	if w.idle {
		w.raw.SetDeadline(time.Unix(1, 0))
	}
}

func (w *wire) stopping() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stop
}

// buffered is the number of octets that have come and are unread.
func (w *wire) buffered() int { return w.w - w.r }

// fill reads once into the buffer. What is held back is written first: nobody waits for a reply while we wait for him.
func (w *wire) fill(deadline time.Time, idle bool) error {
	if w.rerr == nil {
		w.rerr = w.later
	}
	if w.rerr != nil {
		return w.rerr
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.makeRoom()
	if err := w.arm(deadline, idle); err != nil {
		return err
	}
	n, err := w.conn.Read(w.in[w.w:])
	w.w += n
	err = w.disarm(idle, err)
	switch {
	case n > 0:
		w.later = err
		return nil
	case err == nil:
		err = io.ErrNoProgress
	}
	w.rerr = err
	return err
}

// arm bounds the reads until disarm. idle says that interrupt may end them.
func (w *wire) arm(deadline time.Time, idle bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if idle && w.stop {
		w.rerr = errStopping
		return w.rerr
	}
	w.idle = idle
	if err := w.raw.SetReadDeadline(deadline); err != nil {
		w.rerr = err
		return err
	}
	return nil
}

// disarm gives err as what it is: a time-out where interrupt was called is errStopping.
func (w *wire) disarm(idle bool, err error) error {
	if !idle {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.idle = false
	if w.stop && errors.Is(err, os.ErrDeadlineExceeded) {
		return errStopping
	}
	return err
}

// makeRoom sees to it that the buffer has a place for at least one more octet.
func (w *wire) makeRoom() {
	switch {
	case w.in == nil:
		w.in = make([]byte, smallBuffer)
	case w.r == w.w:
		w.r, w.w = 0, 0
	case w.w == len(w.in) && w.r > 0:
		w.w = copy(w.in, w.in[w.r:w.w])
		w.r = 0
	case w.w == len(w.in):
		w.in = append(w.in, make([]byte, len(w.in))...)
	}
}

// enlarge puts a large block in place of the buffer, for a message.
func (w *wire) enlarge() {
	if w.small != nil || len(w.in) > largeBuffer {
		return
	}
	block := w.blocks.Get().(*[]byte)
	n := copy(*block, w.in[w.r:w.w])
	w.small = w.in
	if w.small == nil {
		w.small = make([]byte, smallBuffer)
	}
	w.in, w.r, w.w = *block, 0, n
}

// shrink gives the large block back, if what is unread fits in a small one.
func (w *wire) shrink() {
	if w.small == nil || w.buffered() > len(w.small) {
		return
	}
	n := copy(w.small, w.in[w.r:w.w])
	block := w.in
	w.in, w.r, w.w, w.small = w.small, 0, n, nil
	if len(block) == largeBuffer {
		w.blocks.Put(&block)
	}
}

// readLine returns the next line without its CRLF; it is valid until the next read. limit counts the CRLF, as RFC 5321
// §4.5.3.1 does. The whole line must come within timeout. A line with a bare CR, or that ends in a bare LF, is an error.
func (w *wire) readLine(limit int, timeout time.Duration, idle bool) ([]byte, error) {
	var deadline time.Time
	for seen := 0; ; {
		if i := bytes.IndexByte(w.in[w.r+seen:w.w], '\n'); i >= 0 {
			line := w.in[w.r : w.r+seen+i+1]
			if len(line) > limit { // and not taken: the guard tries an AUTH line again, and it must be this one
				return nil, errLineTooLong
			}
			w.r += len(line)
			return checkLine(line)
		}
		if seen = w.buffered(); seen >= limit {
			return nil, errLineTooLong
		}
		if deadline.IsZero() {
			deadline = time.Now().Add(timeout)
			w.shrink()
		}
		if err := w.fill(deadline, idle); err != nil {
			return nil, err
		}
	}
}

func checkLine(line []byte) ([]byte, error) {
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return nil, errBareLF
	}
	if bytes.IndexByte(text, '\r') >= 0 {
		return nil, errBareCR
	}
	return text, nil
}

// flush writes what is held back.
func (w *wire) flush() error {
	if w.werr != nil {
		return w.werr
	}
	if len(w.out) == 0 {
		return nil
	}
	w.raw.SetWriteDeadline(time.Now().Add(w.timeout))
	_, w.werr = w.conn.Write(w.out)
	if w.out = w.out[:0]; cap(w.out) > fullOutput {
		w.out = nil
	}
	return w.werr
}

// lingering is how long a client has to take a last reply while it is still sending.
const lingering = 2 * time.Second

// linger writes what is held back, ends our direction, and reads on for a while without looking: closing at once would
// make the kernel send a reset, and the client might never see why.
func (w *wire) linger() {
	w.rerr = io.EOF
	if w.flush() != nil {
		return
	}
	if c, ok := w.conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
	if c, ok := w.raw.(interface{ CloseWrite() error }); ok && w.raw != w.conn {
		c.CloseWrite()
	}
	w.raw.SetReadDeadline(time.Now().Add(lingering))
	w.enlarge()
	for n := 0; n < 64<<20; {
		k, err := w.raw.Read(w.in)
		if err != nil {
			break
		}
		n += k
	}
	w.r, w.w = 0, 0
	w.shrink()
}

// pace gives the deadlines of a message under way: each window must bring at least the octets below, and all of it must have
// come at its end. So a slow but steady client is not cut, one that sends an octet now and then is, and none goes on for ever.
type pace struct {
	window time.Duration
	end    time.Time // zero: none
	until  time.Time
	got    int
}

const minProgress = 1024

func (p *pace) deadline(got int) time.Time {
	p.got += got
	if p.until.IsZero() || p.got >= minProgress {
		p.until, p.got = time.Now().Add(p.window), 0
		if !p.end.IsZero() && p.until.After(p.end) {
			p.until = p.end
		}
	}
	return p.until
}
