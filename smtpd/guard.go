package smtpd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// guard is the net.Conn that go-smtp is given. It stands above TLS and reads SMTP before the library does: Read delivers
// one canonical line a call, so that the library never holds more than the command it is carrying out, and guard and
// library run in lock step on one goroutine. What is wrong in form or order is answered here and never gets to the
// library; of what does get there, the library sees a placeholder, and the Session finds the real thing in cmd. What
// the library writes is looked at for its code only: if it does not agree with ours, the connection is closed.
//
// A command goes: Read -> next -> dispatch -> hand; the library calls a method of session, which sets reply; the library
// writes a reply of its own, which Write notes; the next Read, or Close, settles.
type guard struct {
	*wire
	s *session

	line    []byte        // for the library, not yet delivered
	pending verb          // what the library is carrying out
	cmd     command       // what it really is
	reply   message.Reply // what session answers; zero: the ordinary reply
	// override is the reply where the library was given RSET to end a transaction that failed.
	override message.Reply
	code     int    // of the last line that the library wrote
	written  []byte // the line it is writing
	dot      bool   // DATA has been read: the library now wants to see its end

	begun bool
	errs  int // refused commands
	// Since the last message: commands that did nothing, and recipients that were offered.
	idles, tries int
	messages     int
	sasl         exchange
	closed       sync.Once
}

// command is what the guard has read of the command under way.
type command struct {
	arg    string // EHLO, HELO
	path   message.Path
	params message.Params
}

// Read delivers what the library is to see next. It never fails but with io.EOF.
func (g *guard) Read(p []byte) (n int, err error) {
	defer func() {
		if r := recover(); r != nil {
			g.s.srv.panicked(g.s, r, debug.Stack())
			g.hangUp(replyInternal())
			n, err = 0, io.EOF
		}
	}()
	if len(g.line) == 0 {
		if err := g.next(); err != nil {
			return 0, io.EOF
		}
	}
	n = copy(p, g.line)
	g.line = g.line[n:]
	return n, nil
}

// next gets g.line filled.
func (g *guard) next() error {
	if g.dot { // the library reads on to the end of data
		g.dot, g.line = false, []byte(".\r\n")
		return nil
	}
	if !g.begun {
		g.begun, g.code = true, 0
		g.s.begin()
	}
	if g.pending == verbAUTH && g.code == 334 {
		return g.continueAuth()
	}
	g.settle()
	for g.rerr == nil && len(g.line) == 0 {
		idle, timeout := g.s.tx == nil, g.s.limits.Idle
		switch {
		case idle && g.stopping():
			g.hangUp(replyStopping())
			continue
		case g.errs > g.s.limits.Errors:
			g.s.met(limitErrors, g.s.limits.Errors)
			g.hangUp(say(421, "4.7.0", "Too many errors"))
			continue
		case !idle:
			timeout = min(timeout, time.Until(g.s.tx.until))
		}
		line, err := g.readLine(g.s.limits.CommandLine, timeout, idle)
		if longer := errors.Is(err, errLineTooLong); longer && g.startsAuth() {
			line, err = g.readLine(authLine, timeout, idle)
		}
		if err != nil {
			g.broken(err, limitIdle, g.s.limits.Idle)
			break
		}
		g.dispatch(line)
		if len(g.out) > fullOutput {
			g.flush()
		}
	}
	if len(g.line) > 0 {
		return nil
	}
	return io.EOF
}

// broken ends a connection on which no further command can be read. Where it was waited for too long, name and value are of
// the limit.
func (g *guard) broken(err error, name string, value time.Duration) {
	switch {
	case errors.Is(err, errLineTooLong):
		g.s.met(limitCommandLine, g.s.limits.CommandLine)
	case isTimeout(err) && !errors.Is(err, errStopping):
		g.s.late(name, value)
	}
	g.lastWord(err)
}

// lastWord tells the client why the connection ends, if it listens.
func (g *guard) lastWord(err error) {
	switch {
	case errors.Is(err, errStopping):
		g.hangUp(replyStopping())
	case errors.Is(err, errLineTooLong):
		g.hangUp(say(500, "5.5.2", "Line too long"))
	case errors.Is(err, errBareCR), errors.Is(err, errBareLF):
		g.hangUp(say(500, "5.5.2", "A line ends in CR LF, neither comes alone"))
	case isTimeout(err):
		g.hangUp(replyIdle())
	}
	g.rerr = io.EOF
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// hand leaves a line for the library.
func (g *guard) hand(v verb, line string) {
	g.pending, g.code, g.reply = v, 0, message.Reply{}
	g.line = append([]byte(line), '\r', '\n')
}

// settle writes the reply to the command that the library has carried out.
func (g *guard) settle() {
	v, code, reply := g.pending, g.code, g.reply
	g.pending, g.reply, g.code = "", message.Reply{}, 0
	override := g.override
	g.override = message.Reply{}
	if v == "" || g.rerr != nil {
		return
	}
	good := code/100 == 2
	switch {
	case code == 421: // the last word of whoever answered, or the library caught a panic
		switch {
		case !override.IsZero():
			reply = override
		case reply.Code() != 421:
			reply = replyInternal()
		}
		g.hangUp(reply)
		return
	case reply.IsZero() && good:
		reply = g.accepted(v)
	case reply.IsZero() || (reply.Code()/100 == 2) != good:
		g.s.log.Error("library and guard do not agree", "verb", string(v), "library", code, "guard", reply.Code())
		g.hangUp(replyInternal())
		return
	}
	if !override.IsZero() {
		reply = override
	}
	g.send(reply)
	if v == verbSTARTTLS {
		g.startTLS()
	}
}

// accepted notes that a command succeeded, and gives its reply.
func (g *guard) accepted(v verb) message.Reply {
	if v == verbEHLO || v == verbHELO {
		g.s.helo, g.s.esmtp = g.cmd.arg, v == verbEHLO
	}
	return g.done(v)
}

// Write takes what the library has to say. It never fails; what matters of it is the code of its last line, and the
// challenge of a SASL exchange.
func (g *guard) Write(p []byte) (int, error) {
	for _, c := range p {
		if c != '\n' {
			if len(g.written) < authLine {
				g.written = append(g.written, c)
			}
			continue
		}
		if len(g.written) >= 3 {
			g.code, _ = strconv.Atoi(string(g.written[:3]))
		}
		if g.pending == verbAUTH && g.code == 334 {
			g.sasl.challenge = challenge(g.written)
		}
		g.written = g.written[:0]
	}
	return len(p), nil
}

// send holds a reply back until there is nothing left to read.
func (g *guard) send(r message.Reply) { g.out = r.AppendTo(g.out) }

// refuse answers a command that is wrong in form or order. Too many of them end the connection (next).
func (g *guard) refuse(r message.Reply) {
	g.s.srv.Metrics.refused(r.Code())
	g.errs++
	g.send(r)
}

// idle answers a command that does nothing, within bounds.
func (g *guard) idle(r message.Reply) {
	if g.spend() {
		g.send(r)
	}
}

// spend says whether a client may give one more command that does nothing between two messages.
func (g *guard) spend() bool {
	if g.idles++; g.idles > g.s.limits.Commands {
		g.s.met(limitCommands, g.s.limits.Commands)
		g.hangUp(say(421, "4.7.0", "Too many commands without a message"))
		return false
	}
	return true
}

// hangUp says a last word and ends the reading; the library then closes the connection.
func (g *guard) hangUp(r message.Reply) {
	g.line = nil
	g.send(r)
	g.linger()
}

// Close ends the connection; the library calls it last of all.
func (g *guard) Close() error {
	g.closed.Do(func() {
		g.settle()
		g.flush()
		if isTimeout(g.werr) {
			g.s.met(limitWrite, g.s.limits.Write)
		}
		g.conn.Close()
		g.s.end()
	})
	g.rerr = io.EOF
	return nil
}

// Deadlines are the guard's own; the library's are not used.

func (g *guard) LocalAddr() net.Addr              { return g.raw.LocalAddr() }
func (g *guard) RemoteAddr() net.Addr             { return g.raw.RemoteAddr() }
func (g *guard) SetDeadline(time.Time) error      { return nil }
func (g *guard) SetReadDeadline(time.Time) error  { return nil }
func (g *guard) SetWriteDeadline(time.Time) error { return nil }

// libraryLog takes what the library logs: panics it caught, with their stacks, and accept errors.
type libraryLog struct{ srv *Server }

func (l libraryLog) Printf(format string, v ...any) { l.srv.logger().Error(fmt.Sprintf(format, v...)) }
func (l libraryLog) Println(v ...any)               { l.srv.logger().Error(fmt.Sprint(v...)) }
