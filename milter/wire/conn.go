package wire

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/socket"
)

// Session is the filter's side of one connection. All methods are called on the connection's goroutine, one at a time.
type Session interface {
	// Negotiate is called once, before everything else, with what the mail server offers.
	Negotiate(offer Terms) Needs
	// Handle answers CONNECT, HELO, MAIL, RCPT, end of header and end of message. Abort and NewClient have no answer. A
	// transaction lasts from Mail to EndOfMessage, Abort or NewClient; no command of a transaction comes outside one.
	Handle(*Command) Answer
	// Header is called for each header field of the transaction. Lines of the value end in LF.
	Header(name, value string)
	// Body is called for each piece of the body; the piece is valid until Body returns. enough says that the rest is not
	// needed; the mail server then gets SKIP if that was negotiated.
	Body(piece []byte) (enough bool)
	// End is called once, before the socket is closed. reason is nil for an ordinary end, or wraps ErrProtocol, ErrIdle or
	// ErrFrame, or is the error of the socket.
	End(reason error)
}

// A connection ends with one of these when the mail server is silent for too long.
var (
	ErrIdle  = errors.New("no command came in time")
	ErrFrame = errors.New("a frame was not sent or taken in time")
)

// Conn is one connection from a mail server. Set the exported fields before it is used. Drain and Cut may be called on any
// goroutine, all other methods only by its Session.
type Conn struct {
	Socket  net.Conn
	Session Session
	Log     *slog.Logger
	Idle    time.Duration // longest wait for the next command
	Frame   time.Duration // longest time from the first octet of a frame to its last, and for a write
	Closed  func()        // called once, when the socket is closed and the goroutine is about to end

	in       *bufio.Reader // of timedReader; nil before the first read
	quickAck func()        // nil: nothing to do
	frame    []byte        // buffer of readFrame
	strings  []string      // kept for its capacity
	out      []byte        // kept for its capacity

	phase   phase
	terms   Terms
	macros  macros
	command Command // the one that the Session answers
	refused bool    // the mail server was told that the sender is refused: the open transaction cannot lead to a message

	until    time.Time   // deadline of reads
	inFrame  bool        // a frame has begun or an answer is being written: Frame is the limit, not Idle
	resting  bool        // between frames and outside a transaction: the connection may be ended
	draining atomic.Bool // Drain was called
	cut      atomic.Bool // Cut was called
	end      sync.Once
}

// phase is the state of a connection.
type phase uint8

const (
	phaseNew  phase = iota // not negotiated yet
	phaseIdle              // between transactions
	phaseOpen              // from MAIL to the final answer, an ABORT or the next client
)

// readBuffer is large enough for an ordinary header, so that one read takes it.
const readBuffer = 8 << 10

// Terms are what was negotiated.
func (c *Conn) Terms() Terms { return c.terms }

// Macro is the value of a macro, without braces in its name, which holds now; "" if the mail server has not sent it. The
// value is as it was sent, of at most 1024 octets.
func (c *Conn) Macro(name string) string { return c.macros.get(name) }

// EarlyID reports whether the queue id was sent before MAIL.
func (c *Conn) EarlyID() bool { return c.macros.earlyID }

// Cut ends the connection at once, without an answer.
func (c *Conn) Cut() {
	c.cut.Store(true)
	_ = c.Socket.Close()
}

// Drain ends the connection as soon as no transaction is open.
func (c *Conn) Drain() {
	c.draining.Store(true)
	_ = c.Socket.SetReadDeadline(time.Unix(1, 0)) // wakes a read that waits
}

// next reads frames until one is a command for the library, and stores it in c.command. All other frames are dealt with
// here.
func (c *Conn) next() error {
	if c.in == nil {
		c.in, c.quickAck = bufio.NewReaderSize(timedReader{c}, readBuffer), socket.QuickAck(c.Socket)
	}
	for {
		verb, data, err := c.read()
		if err != nil {
			return err
		}
		if err := c.checkOrder(verb); err != nil {
			return err
		}
		answerable, err := c.take(verb, data)
		if err != nil || answerable {
			return err
		}
	}
}

// read reads a frame. Idle bounds the wait for its first octet, Frame the rest.
func (c *Conn) read() (Verb, []byte, error) {
	if c.cut.Load() { // frames may be left in the buffer
		return 0, nil, net.ErrClosed
	}
	c.inFrame, c.until = false, time.Now().Add(c.Idle)
	c.resting = c.phase != phaseOpen || c.refused
	if _, err := c.in.Peek(1); err != nil {
		return 0, nil, err
	}
	c.inFrame, c.until, c.resting = true, time.Now().Add(c.Frame), false
	return readFrame(c.in, &c.frame)
}

// checkOrder refuses a verb that is not possible in the connection's phase.
func (c *Conn) checkOrder(verb Verb) error {
	if c.phase == phaseNew {
		if verb != verbNegotiate {
			return protocolError("%q before negotiation", rune(verb))
		}
		return nil
	}
	switch verb {
	case Connect:
		if c.phase == phaseOpen {
			return protocolError("CONNECT inside a transaction")
		}
	case Rcpt, verbHeader, verbBody, EndOfHeader, EndOfMessage:
		if c.phase != phaseOpen {
			return protocolError("%q outside a transaction", rune(verb))
		}
	case verbNegotiate:
		return protocolError("negotiation for a second time")
	}
	return nil
}

// take deals with one frame. answerable says that it is a command for the library, now in c.command.
func (c *Conn) take(verb Verb, data []byte) (answerable bool, err error) {
	switch verb {
	case verbNegotiate:
		return false, c.negotiate(data)
	case verbMacro:
		stage, pairs, err := decodeMacros(c.strings[:0], data)
		if err == nil {
			c.macros.add(stage, pairs)
			c.keepStrings(pairs)
		}
		return false, err
	case verbHeader:
		return false, c.header(data)
	case verbBody:
		if enough := c.Session.Body(data); enough && c.terms.MaySkip() && c.terms.awaited(verb) {
			return false, c.write(appendFrame(c.out[:0], answerSkip))
		}
		return false, c.goOn(verb)
	}
	command, err := decodeCommand(verb, data)
	if err != nil {
		return false, err
	}
	switch verb {
	case verbData, verbUnknown:
		return false, c.goOn(verb)
	case Abort:
		c.abort()
		return false, nil
	case NewClient:
		c.phase, c.macros = phaseIdle, macros{}
		c.Session.Handle(&Command{Verb: NewClient})
		return false, nil
	case Helo, Mail:
		// Sendmail sends no ABORT between messages, and EHLO ends a transaction (RFC 5321 §4.1.4).
		if c.phase == phaseOpen {
			c.abort()
		}
		if verb == Mail {
			c.phase = phaseOpen
			c.macros.mail()
		}
	case EndOfMessage:
		if len(data) > 0 {
			c.Session.Body(data)
		}
	}
	command.Due = c.terms.awaited(verb)
	c.command, c.refused = command, false
	return true, nil
}

// negotiate answers the mail server's offer.
func (c *Conn) negotiate(data []byte) error {
	offer, err := decodeOffer(data)
	if err != nil {
		return err
	}
	t := agree(offer, c.Session.Negotiate(offer))
	c.terms, c.phase = t, phaseIdle
	c.Log.Debug("negotiated", "version", t.version, "actions", uint32(t.actions), "protocol", uint32(t.protocol), "offered", uint32(offer.protocol))
	return c.write(t.appendTo(c.out[:0]))
}

func (c *Conn) header(data []byte) error {
	s, err := appendStrings(c.strings[:0], verbHeader, data, 2, 2)
	if err != nil {
		return err
	}
	c.Session.Header(s[0], s[1])
	c.keepStrings(s)
	return c.goOn(verbHeader)
}

// keepStrings keeps the capacity of a list and none of its strings.
func (c *Conn) keepStrings(list []string) {
	clear(list)
	c.strings = list[:0]
}

func (c *Conn) abort() {
	c.phase = phaseIdle
	c.Session.Handle(&Command{Verb: Abort})
}

// goOn answers a command that the Session does not see, if the mail server waits for an answer.
func (c *Conn) goOn(verb Verb) error {
	if !c.terms.awaited(verb) {
		return nil
	}
	return c.write(appendFrame(c.out[:0], answerContinue))
}

// respond asks the Session about c.command and sends its answer, if the mail server waits for one. All operations of a
// message and its final answer are written at once, so that nothing can fail between the first change and the verdict.
// After a failed write the next read ends the connection.
func (c *Conn) respond() {
	answer := c.Session.Handle(&c.command)
	if c.command.Verb == EndOfMessage {
		c.phase = phaseIdle
	}
	if !c.command.Due {
		return
	}
	c.refused = c.command.Verb == Mail && answer.refuses()
	if err := c.write(answer.appendTo(c.out[:0])); err != nil {
		c.finish(err)
		c.Cut()
	}
}

func (c *Conn) write(b []byte) error {
	c.out = b[:0]
	if cap(c.out) > keepFrame {
		c.out = nil
	}
	c.inFrame = true
	if err := c.Socket.SetWriteDeadline(time.Now().Add(c.Frame)); err != nil {
		return err
	}
	_, err := c.Socket.Write(b)
	return err
}

// finish tells the Session why the connection ends. Only the first reason counts.
func (c *Conn) finish(err error) {
	c.end.Do(func() {
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, errDraining), errors.Is(err, net.ErrClosed):
			err = nil
		case errors.Is(err, os.ErrDeadlineExceeded) && c.inFrame:
			err = fmt.Errorf("%w: %w", ErrFrame, err)
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = fmt.Errorf("%w: %w", ErrIdle, err)
		}
		c.Session.End(err)
	})
}

// close is the last thing that the connection's goroutine does.
func (c *Conn) close() error {
	c.finish(nil)
	err := c.Socket.Close()
	c.Closed()
	return err
}

// timedReader reads the socket of a Conn with its deadline. On Linux each read of a TCP socket is preceded by
// TCP_QUICKACK: Postfix writes twice before it reads, and without it Nagle's algorithm waits 40 ms for a delayed
// acknowledgement.
type timedReader struct{ *Conn }

// errDraining ends a resting connection after Drain.
var errDraining = errors.New("shutting down")

// Read implements io.Reader.
func (r timedReader) Read(p []byte) (int, error) {
	for {
		if err := r.Socket.SetReadDeadline(r.until); err != nil {
			return 0, err
		}
		// This check comes after the deadline is set. Drain does both in the other order, so one of the two sees the other.
		if r.resting && r.draining.Load() {
			return 0, errDraining
		}
		if r.quickAck != nil {
			r.quickAck()
		}
		n, err := r.Socket.Read(p)
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && r.draining.Load() && time.Now().Before(r.until) {
			continue // Drain woke this read, but a transaction is open
		}
		return n, err
	}
}
