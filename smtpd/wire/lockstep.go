package wire

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/message"
)

// Server runs connections by way of go-smtp.
type Server struct {
	lib          *smtp.Server
	blocks       sync.Pool
	commandLine  int
	writeTimeout time.Duration
}

// Options of a Server.
type Options struct {
	Hostname    string
	CommandLine int           // octets of the longest command line, CRLF included
	Write       time.Duration // for the client to take replies
	Log         *slog.Logger  // for go-smtp's own messages
}

// NewServer returns a Server that has not started anything.
func NewServer(o Options) *Server {
	s := &Server{commandLine: o.CommandLine, writeTimeout: o.Write}
	s.blocks.New = func() any { b := make([]byte, largeBuffer); return &b }
	s.lib = smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return follower{c.Conn().(*Conn)}, nil
	}))
	s.lib.Domain = o.Hostname
	s.lib.AllowInsecureAuth = true // go-smtp does not see TLS; the session offers AUTH under TLS only
	s.lib.MaxLineLength = 0        // the placeholders are short
	s.lib.ErrorLog = libraryLog{o.Log}
	return s
}

// NewConn returns a Conn that speaks with the client at the other end of raw on behalf of session.
func (s *Server) NewConn(raw net.Conn, session Session) *Conn {
	return &Conn{raw: raw, conn: raw, session: session, blocks: &s.blocks, commandLine: s.commandLine, writeTimeout: s.writeTimeout}
}

// Serve accepts connections from l, which must be of type *Conn, until l fails.
func (s *Server) Serve(l net.Listener) error { return s.lib.Serve(l) }

// Shutdown waits for go-smtp's goroutines, which end with their connections. The caller has closed the listeners.
func (s *Server) Shutdown() { s.lib.Shutdown(context.Background()) }

// Read gives go-smtp its next line. It fails only with io.EOF.
func (c *Conn) Read(p []byte) (n int, err error) {
	defer func() {
		if r := recover(); r != nil {
			c.lose(&PanicError{r, debug.Stack()})
			n, err = 0, io.EOF
		}
	}()
	if len(c.steps.line) == 0 {
		c.next()
	}
	if len(c.steps.line) == 0 {
		return 0, io.EOF
	}
	n = copy(p, c.steps.line)
	c.steps.line = c.steps.line[n:]
	return n, nil
}

// next carries out commands until one of them gives a line for go-smtp, or the connection is over.
func (c *Conn) next() {
	if c.steps.endOfData {
		c.steps.endOfData, c.steps.line = false, []byte(".\r\n")
		return
	}
	if !c.steps.greeted {
		c.steps.greeted = true
		c.greet()
	}
	c.settle()
	for c.rerr == nil && len(c.steps.line) == 0 {
		c.command()
	}
}

func (c *Conn) greet() {
	r := c.session.Greet()
	if r.Code() == 220 {
		c.Send(r)
		return
	}
	c.end(r)
}

// command reads one command and lets the session carry it out.
func (c *Conn) command() {
	timeout, idle := c.session.Patience()
	if idle && c.stopping() {
		c.lose(ErrStopping)
		return
	}
	line, err := c.readCommand(timeout, idle)
	if err != nil {
		c.lose(err)
		return
	}
	verb, arg := split(line)
	if verb == "AUTH" {
		c.wipe()
	}
	reply := c.session.Command(verb, arg)
	if c.rerr != nil || c.last || reply.Code() == 421 {
		c.end(reply)
		return
	}
	if line := c.follow(verb, reply); line != "" {
		c.steps.told, c.steps.code, c.steps.reply = verb, 0, reply
		c.steps.line = append([]byte(line), '\r', '\n')
		return
	}
	c.answer(reply)
}

// split takes a line apart into the verb and what follows the space after it (RFC 5321 §4.1.1).
func split(line []byte) (verb, arg string) {
	for _, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			return "", ""
		}
	}
	verb, arg, _ = strings.Cut(string(line), " ")
	for i := range len(verb) {
		if verb[i] < ' ' || verb[i] > '~' {
			return "", ""
		}
	}
	return strings.ToUpper(verb), strings.TrimRight(arg, " \t")
}

// follow returns the line that changes go-smtp's state as the command has changed the session's; "": nothing has changed. The
// client's own words are not used: the session has read them, and a second reader might read them differently.
func (c *Conn) follow(verb string, reply message.Reply) string {
	_, idle := c.session.Patience()
	accepted := reply.Code()/100 == 2
	ended := c.steps.transaction && idle
	switch {
	case accepted && verb == "QUIT":
		return "QUIT"
	case accepted && verb == "AUTH":
		return "AUTH PLAIN ="
	case accepted && (verb == "EHLO" || verb == "HELO"):
		c.steps.transaction = false
		return "EHLO a.invalid"
	case accepted && verb == "MAIL":
		c.steps.transaction = true
		return "MAIL FROM:<a@a.invalid>"
	case accepted && verb == "RCPT":
		return "RCPT TO:<a@a.invalid>"
	case accepted && ended && (verb == "DATA" || verb == "BDAT"):
		c.steps.transaction = false
		return "DATA"
	case ended: // by RSET, STARTTLS, or a message that was refused
		c.steps.transaction = false
		return "RSET"
	}
	return ""
}

// settle sends the reply to the command that go-smtp has followed.
func (c *Conn) settle() {
	verb, code, reply := c.steps.told, c.steps.code, c.steps.reply
	c.steps.told, c.steps.code, c.steps.reply = "", 0, message.Reply{}
	switch {
	case verb == "" || c.rerr != nil:
	case code/100 != 2:
		c.lose(fmt.Errorf("%w: %s got %d from go-smtp and %d from the session", ErrOutOfStep, verb, code, reply.Code()))
	default:
		c.answer(reply)
	}
}

func (c *Conn) answer(r message.Reply) {
	c.Send(r)
	if len(c.out) > fullOutput {
		c.flush()
	}
}

// HangUp makes the reply to the command under way the last one.
func (c *Conn) HangUp() { c.last = true }

// lose ends the connection because of err.
func (c *Conn) lose(err error) {
	if c.rerr == nil {
		c.rerr = err
	}
	c.end(c.session.Lost(err))
}

// end sends a last reply, if there is one, and ends the reading. go-smtp then closes the connection.
func (c *Conn) end(r message.Reply) {
	c.steps.line, c.steps.told = nil, ""
	if r.IsZero() {
		c.rerr = io.EOF
		return
	}
	c.Send(r)
	c.linger()
}

// Write takes what go-smtp writes. It never fails. Only the code of the last line is kept.
func (c *Conn) Write(p []byte) (int, error) {
	for _, b := range p {
		switch {
		case b == '\n':
			c.steps.code, _ = strconv.Atoi(string(c.steps.written))
			c.steps.written = c.steps.written[:0]
		case len(c.steps.written) < 3:
			c.steps.written = append(c.steps.written, b)
		}
	}
	return len(p), nil
}

// Close ends the connection. go-smtp calls it last of all.
func (c *Conn) Close() error {
	c.steps.closed.Do(func() {
		c.settle()
		c.flush()
		c.conn.Close()
		c.session.End()
	})
	c.rerr = io.EOF
	return nil
}

// The addresses of the socket. The deadlines are Conn's own: those that go-smtp sets have no effect.

func (c *Conn) LocalAddr() net.Addr              { return c.raw.LocalAddr() }
func (c *Conn) RemoteAddr() net.Addr             { return c.raw.RemoteAddr() }
func (c *Conn) SetDeadline(time.Time) error      { return nil }
func (c *Conn) SetReadDeadline(time.Time) error  { return nil }
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// follower is go-smtp's session. It agrees to the placeholder that go-smtp was given and to nothing else.
type follower struct{ c *Conn }

func (f follower) Mail(string, *smtp.MailOptions) error { return f.agree("MAIL") }
func (f follower) Rcpt(string, *smtp.RcptOptions) error { return f.agree("RCPT") }
func (f follower) Reset()                               {}
func (f follower) Logout() error                        { return nil }

// Data does not read the message: it is not there any more. go-smtp then reads on to the end of the data.
func (f follower) Data(io.Reader) error {
	f.c.steps.endOfData = true
	return f.agree("DATA", "BDAT")
}

func (f follower) AuthMechanisms() []string { return nil } // the session writes the reply to EHLO

func (f follower) Auth(string) (sasl.Server, error) { return authenticated{}, f.agree("AUTH") }

func (f follower) agree(verbs ...string) error {
	for _, v := range verbs {
		if f.c.steps.told == v {
			return nil
		}
	}
	return ErrOutOfStep
}

var _ smtp.AuthSession = follower{}

// authenticated is the SASL mechanism that go-smtp sees. Conn has done the whole exchange before, so the first step succeeds.
type authenticated struct{}

func (authenticated) Next([]byte) (challenge []byte, done bool, err error) { return nil, true, nil }

// libraryLog takes what go-smtp logs: panics with their stacks, and errors of accept.
type libraryLog struct{ log *slog.Logger }

func (l libraryLog) Printf(format string, v ...any) { l.log.Error(fmt.Sprintf(format, v...)) }
func (l libraryLog) Println(v ...any)               { l.log.Error(fmt.Sprint(v...)) }
