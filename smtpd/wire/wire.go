// Package wire is the octet side of an SMTP connection. It reads strict lines, commands, message data (DATA and BDAT) and SASL
// answers, it writes replies, and it switches the connection to TLS. What a command means is the business of a Session, which
// package smtpd provides. The package knows no policy, no user and no next hop.
//
// # The lock step with go-smtp
//
// go-smtp accepts connections, runs a goroutine for each, and keeps a state of its own: whether there was an EHLO, a MAIL, an
// RCPT. A Conn is the net.Conn that it is given. go-smtp is a lenient reader: it takes STARTTLSfoo for STARTTLS, it goes on
// in the clear after a failed handshake, and it reads the rest of a stalled message as commands. So it never sees what the
// client sent. Each command takes these steps:
//
//  1. go-smtp calls Read. Conn reads one line from the client and calls Session.Command, which carries the command out and
//     returns the reply.
//  2. If the command changed the state, Read gives go-smtp a placeholder that changes its state in the same way, for example
//     MAIL FROM:<a@a.invalid>. A transaction that ended in any other way than by DATA is a RSET for go-smtp. If nothing
//     changed, as after a refusal, go-smtp is not told, and Conn goes on with the next line.
//  3. go-smtp writes its reply with Write. Only the code is looked at. At the next Read, the Session's reply goes to the
//     client. If go-smtp has refused the placeholder, then the two do not agree about the state, which is a bug: the client
//     gets 421 instead, and the connection is closed.
//
// # Failing
//
// Errors are sticky; see Conn. A bare CR, a bare LF or a NUL in a command or a message, a line that is too long and a time-out all
// end the reading. A panic in a Session ends its connection with 421. Other connections go on.
//
// # Goroutines
//
// go-smtp starts one goroutine for each connection. It owns the Conn and calls all methods of its Session. It ends with the
// connection. Server.Serve runs on the caller's goroutine.
package wire

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// Session is the conversation on one connection. One goroutine calls its methods.
type Session interface {
	// Greet does what comes before the first command and returns the greeting. Another reply than 220 ends the connection;
	// a zero reply ends it without a word.
	Greet() message.Reply
	// Patience returns how long the client may take to send its next command. idle means that no transaction is under way.
	Patience() (timeout time.Duration, idle bool)
	// Command carries out a command and returns the reply to it; zero if Conn.Send has sent it already. The verb is in upper
	// case, and arg is what follows the space after it, without trailing white space. verb is "" for a line that has control
	// characters, or a verb that is not printable ASCII. The connection ends after a 421, or if HangUp was called.
	Command(verb, arg string) message.Reply
	// Lost is called when no further command can be read. err says why: one of this package's errors, a *PanicError, or the
	// error of the socket. Lost returns the last reply; zero: none.
	Lost(err error) message.Reply
	// End is called once, after the connection has been closed.
	End()
}

// Errors that end the reading of a connection.
var (
	ErrLineTooLong = errors.New("line too long")
	ErrBareCR      = errors.New("bare CR")
	ErrBareLF      = errors.New("bare LF")
	ErrNUL         = errors.New("NUL octet")
	ErrStopping    = errors.New("the server stops") // after Interrupt
	errBeforeTLS   = errors.New("octets arrived before the TLS handshake")
)

// IsTimeout reports whether err means that a deadline has passed.
func IsTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// ErrOutOfStep means that go-smtp refused a command which the session had accepted. It is a bug.
var ErrOutOfStep = errors.New("go-smtp and the session do not agree about the state of the connection")

// PanicError is a panic in a method of a Session.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprint("panic: ", e.Value) }
