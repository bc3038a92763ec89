package milter

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

// phase is where a connection stands in the protocol.
type phase uint8

const (
	phaseNew  phase = iota // nothing was negotiated yet
	phaseIdle              // between transactions
	phaseOpen              // from MAIL to the final answer, an ABORT or the next MAIL
)

// conn is a milter connection as the library sees it: a net.Conn whose reads give the frames that need an answer of
// session's. All but drain and cut happen on the library's goroutine.
type conn struct {
	net.Conn // the socket; the library uses Read, Write and Close only, which are ours
	server   *Server
	listener *listener
	log      *slog.Logger
	source   *source
	in       *bufio.Reader
	frame    []byte   // buffer of readFrame
	words    []string // kept for its room

	phase   phase
	terms   terms
	macros  macros
	event   event    // the command that was handed up last
	held    event    // a command that waits behind an injected ABORT
	msg     incoming // header and body of the open transaction
	session *session

	refused bool   // the sender of the open transaction was refused, and the MTA told so: nothing is at stake any more
	up      []byte // what the library has yet to read
	due     bool   // the MTA waits for the answer to event
	out     []byte // operations that go out with the next answer
	dead    bool   // an answer could not be sent: nothing more is read
	ended   sync.Once
	frames  bool // a frame is under way: what is silent now is bounded by Frame, not by Idle
}

// Read gives the library the next frame. It fails with io.EOF only, whatever the reason: the library would print others
// to the standard logger, and we have said ours already.
func (c *conn) Read(p []byte) (int, error) {
	for len(c.up) == 0 {
		if err := c.advance(); err != nil {
			c.sayEnd(err)
			return 0, io.EOF
		}
	}
	n := copy(p, c.up)
	c.up = c.up[n:]
	return n, nil
}

// advance takes frames from the MTA until one is for the library.
func (c *conn) advance() error {
	if c.dead {
		return net.ErrClosed
	}
	if c.held.cmd != 0 {
		ev := c.held
		c.held = event{}
		c.handUp(ev)
		return nil
	}
	cmd, data, err := c.next()
	if err != nil {
		return err
	}
	if c.phase == phaseNew {
		if cmd != cmdOptNeg {
			return protocolError("%q before negotiation", rune(cmd))
		}
		return c.negotiate(data)
	}
	switch cmd {
	case cmdMacro:
		stage, pairs, err := decodeMacros(c.words[:0], data)
		if err == nil {
			c.macros.add(stage, pairs)
			c.words = forgotten(pairs)
		}
		return err
	case cmdHeader, cmdBody:
		return c.collect(cmd, data)
	case cmdEOM:
		if c.phase == phaseOpen && len(data) > 0 { // the last chunk may come with it
			c.keepBody(data)
		}
		return c.take(event{cmd: cmd})
	case cmdUnknown:
		if _, err := cstrings(cmd, data, 1, 1); err != nil {
			return err
		}
		return c.pass(cmd)
	}
	ev, err := decodeEvent(cmd, data)
	if err != nil {
		return err
	}
	return c.take(ev)
}

// next reads a frame: the wait for its beginning is bounded by Idle, the rest by Frame.
func (c *conn) next() (command, []byte, error) {
	c.frames = false
	c.source.until = time.Now().Add(c.server.limits().Idle)
	c.source.resting = c.phase != phaseOpen || c.refused
	if _, err := c.in.Peek(1); err != nil {
		return 0, nil, err
	}
	c.frames = true
	c.source.until = time.Now().Add(c.server.limits().Frame)
	c.source.resting = false
	return readFrame(c.in, &c.frame)
}

// take moves the connection on by a decoded command.
func (c *conn) take(ev event) error {
	switch ev.cmd {
	case cmdConnect:
		if c.phase == phaseOpen {
			return protocolError("CONNECT inside a transaction")
		}
	case cmdHelo, cmdMail:
		// Sendmail sends no ABORT between messages, and EHLO ends a transaction (RFC 5321 §4.1.4).
		if c.phase == phaseOpen {
			c.reset()
			c.held = ev
			c.handUp(event{cmd: cmdAbort})
			return nil
		}
	case cmdRcpt, cmdEOH, cmdEOM:
		if c.phase != phaseOpen {
			return protocolError("%q outside a transaction", rune(ev.cmd))
		}
	case cmdData:
		return c.pass(ev.cmd)
	case cmdAbort:
		c.reset()
	case cmdQuitNewCon:
		c.reset()
		c.macros = macros{}
		c.session.newConnection()
		return nil
	case cmdQuit:
	default:
		return protocolError("unknown command %q", rune(ev.cmd))
	}
	c.handUp(ev)
	return nil
}

// handUp gives a command to the library. Its own parser sees an empty one: the session reads c.event.
func (c *conn) handUp(ev event) {
	if ev.cmd == cmdMail {
		c.phase = phaseOpen
		c.macros.mail()
	}
	c.event, c.due, c.refused = ev, c.terms.answered(ev.cmd), false
	var data string
	if ev.cmd == cmdConnect {
		data = "\x00U\x00"
	}
	c.up = appendFrame(c.up[:0], byte(ev.cmd), data)
}

// reset ends the transaction.
func (c *conn) reset() {
	c.phase = phaseIdle
	c.msg.reset(c.server)
	c.out = c.out[:0]
}

// collect takes a header field or a piece of the body.
func (c *conn) collect(cmd command, data []byte) error {
	if c.phase != phaseOpen {
		return protocolError("%q outside a transaction", rune(cmd))
	}
	if cmd == cmdHeader {
		s, err := appendCStrings(c.words[:0], cmd, data, 2, 2)
		if err != nil {
			return err
		}
		c.msg.addField(s[0], s[1], c.server)
		c.words = forgotten(s)
		return c.pass(cmd)
	}
	if full := c.keepBody(data); full && c.terms.maySkip() && c.terms.answered(cmd) {
		return c.write(skipFrame)
	}
	return c.pass(cmd)
}

// forgotten is the room of a list, which holds on to nothing.
func forgotten(list []string) []string {
	clear(list)
	return list[:0]
}

// keepBody takes a piece of the body, and says whether more of it is of no use.
func (c *conn) keepBody(data []byte) (full bool) {
	full, err := c.msg.addBody(data, c.server)
	if err != nil {
		c.log.Error("a message body could not be kept", "err", err)
	}
	return full
}

// pass lets a command go by.
func (c *conn) pass(cmd command) error {
	if !c.terms.answered(cmd) {
		return nil
	}
	return c.write(continueFrame)
}

var (
	continueFrame = appendFrame(nil, ansContinue)
	skipFrame     = appendFrame(nil, ansSkip)
)

// answer sends the answer to event, behind the operations that were queued. Where that fails, the next Read ends the
// connection.
func (c *conn) answer(code byte, data string) {
	c.due = false
	c.refused = c.event.cmd == cmdMail && code != ansContinue
	c.out = appendFrame(c.out, code, data)
	err := c.write(c.out)
	c.out = c.out[:0]
	if cap(c.out) > keepFrame {
		c.out = nil
	}
	if err != nil {
		c.sayEnd(err)
		c.dead = true
		c.cut()
	} else if c.event.cmd == cmdEOM {
		c.reset()
	}
}

// Write holds back what the library has to say, for answer is the only one who speaks: an answer that nobody waits for would be
// taken for the answer to something else, a refusal for an acceptance. It reports success, for the library prints errors.
func (c *conn) Write(p []byte) (int, error) {
	c.log.Error("an answer that the mail server does not wait for was held back", "command", string(rune(c.event.cmd)))
	c.dead = true
	c.cut()
	return len(p), nil
}

func (c *conn) write(b []byte) error {
	c.frames = true
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.server.limits().Frame)); err != nil {
		return err
	}
	_, err := c.Conn.Write(b)
	return err
}

// sayEnd logs why the connection ends, where that is not the ordinary way.
func (c *conn) sayEnd(err error) {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, errDraining), errors.Is(err, net.ErrClosed):
		if c.phase == phaseOpen {
			c.log.Debug("the mail server hung up inside a transaction")
		}
	case errors.Is(err, errProtocol):
		c.listener.metrics.protocolErrors.Inc()
		c.log.Warn("connection closed: the mail server broke the protocol", "err", err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		if l := c.server.limits(); c.frames {
			c.met(limitFrame, l.Frame)
		} else {
			c.met(limitIdle, l.Idle)
		}
		c.log.Warn("connection closed: the mail server was silent for too long", "err", err)
	default:
		c.log.Warn("connection lost", "err", err)
	}
}

// met counts and logs that a message or a mail server has met a limit.
func (c *conn) met(name string, value any) {
	var attrs []any
	if tx := c.session.tx; tx != nil {
		attrs = append(attrs, "id", tx.facts.ID)
	}
	c.listener.limits.Met(c.log, name, value, attrs...)
}

// cut closes the socket at once; the library's next Read or Write ends its goroutine.
func (c *conn) cut() { _ = c.Conn.Close() }

// Close is called by the library when its goroutine ends.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.ended.Do(func() {
		c.server.giveBack(c)
		c.msg.reset(c.server)
		c.server.leave(c)
	})
	return err
}

// negotiate answers the MTA's offer.
func (c *conn) negotiate(data []byte) error {
	offer, err := decodeOffer(data)
	if err != nil {
		return err
	}
	policy := c.server.Engine.Policy()
	needs, some := c.server.Engine.Needs() // of the candidates beside the policy, too: whose transactions come is not known yet
	if !some {
		needs = needsOf(nil)
	}
	answer, missing := agree(offer, needs)
	c.terms, c.phase = answer, phaseIdle
	if policy != nil {
		c.listener.sayMissing(policy, missing)
	}
	c.log.Debug("negotiated", "version", answer.version, "actions", uint32(answer.actions), "protocol", uint32(answer.protocol), "offered", uint32(offer.protocol))
	return c.write(answer.appendAnswer(nil))
}
