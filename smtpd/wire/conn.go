package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// Bounds on what is read at once.
const (
	smallBuffer = 512      // for a connection that waits for commands, as most connections do most of the time
	largeBuffer = 32 << 10 // for a connection that sends a message
	authLine    = 12288    // the longest line of an AUTH exchange (RFC 4954 §4)
	fullOutput  = 16 << 10 // replies held back while a client goes on pipelining
)

// Conn is one connection with a client. It reads blocks and cuts lines out of them. It holds replies back until it has nothing
// left to read, so that a pipelining client gets them in few packets.
//
// Errors are sticky: after a read has failed, by a time-out or anything else, every later read fails. So when a client stalls in
// the middle of a message, the rest of the message is never read as commands. The same holds for writes.
//
// The goroutine that go-smtp starts for the connection owns the Conn. Other goroutines may call only Interrupt and CloseSocket.
type Conn struct {
	raw  net.Conn // the socket; deadlines are set here
	conn net.Conn // raw, or the TLS layer above it

	in           []byte // input; in[r:w] is unread
	r, w         int
	small        []byte // the small buffer, while in is a large block
	blocks       *sync.Pool
	out          []byte // replies that have not been written yet
	rerr         error  // of reading
	later        error  // of a read that brought octets as well: the next read returns it
	werr         error  // of writing
	writeTimeout time.Duration
	commandLine  int // octets of the longest command line

	session Session
	last    bool // HangUp was called: the reply under way is the last one
	steps   lockstep

	mu   sync.Mutex
	idle bool // blocked where Interrupt may end the wait
	stop bool // Interrupt was called
}

// lockstep is what Conn knows of go-smtp.
type lockstep struct {
	greeted     bool
	line        []byte        // for go-smtp, not yet read by it
	told        string        // the verb that go-smtp is carrying out; "": none
	transaction bool          // go-smtp has accepted a MAIL
	endOfData   bool          // go-smtp wants to read the end of a message
	code        int           // of the last line that go-smtp wrote
	written     []byte        // start of the line that go-smtp is writing
	reply       message.Reply // for the client, after go-smtp has agreed
	closed      sync.Once
}

// Interrupt makes a connection that waits between two transactions, in a SASL exchange or in a handshake fail with ErrStopping.
// One that does something else fails when it next would wait there. Any goroutine may call it.
func (c *Conn) Interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop = true
	if c.idle {
		c.raw.SetDeadline(time.Unix(1, 0))
	}
}

// CloseSocket closes the socket below the connection. Reads and writes under way fail. Any goroutine may call it.
func (c *Conn) CloseSocket() { c.raw.Close() }

func (c *Conn) stopping() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stop
}

// Buffered is the number of octets that have arrived and are unread.
func (c *Conn) Buffered() int { return c.w - c.r }

// WriteError is the error of the first write that failed, or nil.
func (c *Conn) WriteError() error { return c.werr }

// TLS returns the state of the encryption; ok is false on a connection in the clear.
func (c *Conn) TLS() (state tls.ConnectionState, ok bool) {
	conn, ok := c.conn.(*tls.Conn)
	if !ok {
		return tls.ConnectionState{}, false
	}
	return conn.ConnectionState(), true
}

// Handshake puts TLS above the connection, within timeout. Octets that were buffered before it are an error: an attacker who cannot
// see the encrypted part may have written them (CVE-2011-0411). After an error nothing more is read or written, because there is
// no way back to clear text.
func (c *Conn) Handshake(ctx context.Context, config *tls.Config, timeout time.Duration) error {
	err := c.flush()
	if err == nil {
		err = c.rerr
	}
	c.rerr, c.werr = io.EOF, io.EOF // unless it succeeds
	if err != nil {
		return err
	}
	if c.Buffered() > 0 {
		return errBeforeTLS
	}
	if err := c.handshake(ctx, config, time.Now().Add(timeout)); err != nil {
		c.rerr = io.EOF
		return err
	}
	c.rerr, c.werr = nil, nil
	return nil
}

func (c *Conn) handshake(ctx context.Context, config *tls.Config, deadline time.Time) error {
	conn := tls.Server(c.raw, config)
	c.raw.SetWriteDeadline(deadline) // before Interrupt may set it
	if err := c.arm(deadline, true); err != nil {
		return err
	}
	if err := c.disarm(true, conn.HandshakeContext(ctx)); err != nil {
		return err
	}
	c.conn = conn
	return nil
}

// fill reads once into the buffer. Replies held back are written first, because the client may be waiting for them.
func (c *Conn) fill(deadline time.Time, idle bool) error {
	if c.rerr == nil {
		c.rerr = c.later
	}
	if c.rerr != nil {
		return c.rerr
	}
	if err := c.flush(); err != nil {
		c.rerr = err
		return err
	}
	c.makeRoom()
	if err := c.arm(deadline, idle); err != nil {
		return err
	}
	n, err := c.conn.Read(c.in[c.w:])
	c.w += n
	err = c.disarm(idle, err)
	switch {
	case n > 0:
		c.later = err
		return nil
	case err == nil:
		err = io.ErrNoProgress
	}
	c.rerr = err
	return err
}

// arm sets the deadline for reads until disarm. idle says that Interrupt may end them.
func (c *Conn) arm(deadline time.Time, idle bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if idle && c.stop {
		c.rerr = ErrStopping
		return c.rerr
	}
	c.idle = idle
	if err := c.raw.SetReadDeadline(deadline); err != nil {
		c.rerr = err
		return err
	}
	return nil
}

// disarm ends what arm began. It turns the time-out that Interrupt causes into ErrStopping.
func (c *Conn) disarm(idle bool, err error) error {
	if !idle {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = false
	if c.stop && errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrStopping
	}
	return err
}

// makeRoom makes room in the buffer for at least one more octet.
func (c *Conn) makeRoom() {
	switch {
	case c.in == nil:
		c.in = make([]byte, smallBuffer)
	case c.r == c.w:
		c.r, c.w = 0, 0
	case c.w == len(c.in) && c.r > 0:
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
	case c.w == len(c.in):
		c.in = append(c.in, make([]byte, len(c.in))...)
	}
}

// enlarge puts a large block in place of the buffer, for a message.
func (c *Conn) enlarge() {
	if c.small != nil || len(c.in) > largeBuffer {
		return
	}
	block := c.blocks.Get().(*[]byte)
	n := copy(*block, c.in[c.r:c.w])
	c.small = c.in
	if c.small == nil {
		c.small = make([]byte, smallBuffer)
	}
	c.in, c.r, c.w = *block, 0, n
}

// shrink gives the large block back, if the unread octets fit into the small buffer.
func (c *Conn) shrink() {
	if c.small == nil || c.Buffered() > len(c.small) {
		return
	}
	n := copy(c.small, c.in[c.r:c.w])
	block := c.in
	c.in, c.r, c.w, c.small = c.small, 0, n, nil
	if len(block) == largeBuffer {
		c.blocks.Put(&block)
	}
}

// readLine returns the next line without its CRLF; it is valid until the next read. limit counts the CRLF, as RFC 5321
// §4.5.3.1 does. The whole line must arrive within timeout. A line that has a bare CR, or ends in a bare LF, is an error.
func (c *Conn) readLine(limit int, timeout time.Duration, idle bool) ([]byte, error) {
	var deadline time.Time
	for seen := 0; ; {
		if i := bytes.IndexByte(c.in[c.r+seen:c.w], '\n'); i >= 0 {
			line := c.in[c.r : c.r+seen+i+1]
			if len(line) > limit { // the line stays unread: readCommand may try again with a higher limit
				return nil, ErrLineTooLong
			}
			c.r += len(line)
			return checkLine(line)
		}
		if seen = c.Buffered(); seen >= limit {
			return nil, ErrLineTooLong
		}
		if deadline.IsZero() {
			deadline = time.Now().Add(timeout)
			c.shrink()
		}
		if err := c.fill(deadline, idle); err != nil {
			return nil, err
		}
	}
}

func checkLine(line []byte) ([]byte, error) {
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return nil, ErrBareLF
	}
	if bytes.IndexByte(text, '\r') >= 0 {
		return nil, ErrBareCR
	}
	return text, nil
}

// readCommand reads a command line. AUTH may be longer than other commands, but under TLS only.
func (c *Conn) readCommand(timeout time.Duration, idle bool) ([]byte, error) {
	line, err := c.readLine(c.commandLine, timeout, idle)
	if !errors.Is(err, ErrLineTooLong) {
		return line, err
	}
	_, encrypted := c.conn.(*tls.Conn)
	if start := c.in[c.r:c.w]; encrypted && len(start) >= 5 && bytes.EqualFold(start[:5], []byte("AUTH ")) {
		return c.readLine(authLine, timeout, idle)
	}
	return nil, err
}

// wipe clears the line that was read last from the input buffer, because it may contain a password.
func (c *Conn) wipe() { clear(c.in[:c.r]) }

// Send holds a reply back until the client has to be waited for.
func (c *Conn) Send(r message.Reply) { c.out = r.AppendTo(c.out) }

// flush writes the replies that were held back.
func (c *Conn) flush() error {
	if c.werr != nil {
		return c.werr
	}
	if len(c.out) == 0 {
		return nil
	}
	c.raw.SetWriteDeadline(time.Now().Add(c.writeTimeout))
	_, c.werr = c.conn.Write(c.out)
	if c.out = c.out[:0]; cap(c.out) > fullOutput {
		c.out = nil
	}
	return c.werr
}

// lingering is how long a client that is still sending has to take the last reply.
const lingering = 2 * time.Second

// linger writes the replies that were held back, closes the sending direction, and discards input for a while. If the socket were
// closed at once, the kernel would send a reset, and the client might never see the last reply.
func (c *Conn) linger() {
	c.rerr = io.EOF
	if c.flush() != nil {
		return
	}
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	if half, ok := c.raw.(interface{ CloseWrite() error }); ok && c.raw != c.conn {
		half.CloseWrite()
	}
	c.raw.SetReadDeadline(time.Now().Add(lingering))
	c.enlarge()
	for n := 0; n < 64<<20; {
		k, err := c.raw.Read(c.in)
		if err != nil {
			break
		}
		n += k
	}
	c.r, c.w = 0, 0
	c.shrink()
}
