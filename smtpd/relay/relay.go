// Package relay hands accepted messages to a next hop: an SMTP (RFC 5321) or LMTP (RFC 2033) server, or a Maildir.
//
// [Open] reads targets (smtp://, smtps://, lmtp://, lmtp+unix://, maildir:) and returns a [Hop]; several targets become a
// [Failover]. A transaction is Begin, Rcpt for each recipient, then Data or Abort. A positive reply of Data means that the
// next hop took the message for every recipient that Rcpt accepted, or that the message is on disk, for a Maildir. An error
// with neither Uncertain nor Partial set means that no recipient has it.
//
// Each method returns the next hop's own reply, without control characters, with two exceptions. 421 becomes 451, because it
// is about the next hop's connection and not the client's. A refusal before MAIL (greeting, EHLO, STARTTLS, AUTH) becomes
// 451 4.4.1, because it is about this program and not the message.
//
// # What is sent
//
// Line ends are CRLF. If a message has a bare CR or LF, it is refused before its end of data and the connection is closed, so
// that nothing of it is accepted. Paths are written by message.Path.String only. Parameters are written from an allow-list
// (BODY, SMTPUTF8, SIZE, RET, ENVID; NOTIFY, ORCPT) with checked values. If a message needs what the next hop lacks, it is
// refused before anything of it is sent:
//
//	SMTPUTF8                            550 5.6.7
//	8-bit octets without 8BITMIME       554 5.6.3
//	NOTIFY=SUCCESS without DSN          555 5.3.3
//	more octets than SIZE               552 5.3.4
//
// A message needs SMTPUTF8 if an address or its header has octets above 127 (RFC 6531 §3.4, §3.6). If it does not, and the next hop
// does not have SMTPUTF8, the parameter is left out.
//
// Without DSN, RET, ENVID, ORCPT and other values of NOTIFY are left out, as RFC 3461 §5.2.2 demands of a relay. FAILURE and DELAY
// keep their meaning: the next hop reports failures by itself (RFC 5321 §6.1). For NEVER the sender may get a report that was not
// wanted, which is less harm than a refused message. SUCCESS is refused, because §5.2.2 demands a "relayed" notification for it, which
// this package cannot send.
//
// # Failover
//
// A Failover tries the next target when one cannot be reached, breaks or times out, or answers 421, 4xx at MAIL or 4xx at
// DATA, all before the end of data is sent. Recipients that were accepted are offered again there; if one of them is refused
// now, the whole transaction fails with 451 4.4.0. A 5xx is final, and so is a 4xx at RCPT, which is about one recipient.
// Once the end of data is being sent, nothing is tried again: if the connection breaks then, the error is 451 4.4.2 with
// Uncertain set, because the message may have been delivered.
//
// # A slow client
//
// A transaction waits for the client between Begin and Data, perhaps longer than the next hop waits for a command (Postfix under
// stress: 10 s). If the next hop closes the connection before the first octet of the message was sent, or answers RCPT or DATA with
// 421 or 451 4.4.2, the transaction begins again at the same next hop, on a new connection, with the recipients that it had accepted.
// This is no failure of the next hop: a Failover does not mark it down and does not move on, unless the new connection fails too.
// Each step begins again at most once, a transaction at most ten times. If a recipient that was accepted is refused the second time,
// the whole message fails with 451 4.4.0, so that the client sends it again and gets the next hop's own answer at RCPT.
//
// # A next hop that hangs
//
// Each step has a time limit (Timeouts), and the number of connections in use is limited (Options.Connections). A transaction
// that needs one more waits for up to Timeouts.Connect; then it fails with 451 4.4.5, or moves to the next target. Each
// limit that is reached is counted and logged by its name.
//
// # LMTP
//
// After the data each recipient gets a reply. If all are positive, Data returns the first. Otherwise it fails with a reply
// that names who was refused and who has the message. If no recipient has it, 4xx is preferred to 5xx, because another try
// does no harm. If some have it, 5xx is preferred to 4xx, because another try would deliver twice, and Partial is set.
//
// # Goroutines
//
// No goroutine outlives a call; Extensions of a Failover has one for each Hop. Each hop has one timer that closes idle connections; Close stops it. If a context can be
// cancelled, its cancellation ends the step that is in progress on the connection.
package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/postern-mail/postern/internal/message"
)

// Envelope begins a transaction at the next hop.
type Envelope struct {
	From   message.Path
	Params message.Params // of MAIL: BODY, SMTPUTF8, SIZE, RET, ENVID; the Hop drops others
	ID     string         // of the transaction, for logs and file names
}

// asksUTF8 reports whether the client gave the parameter SMTPUTF8.
func (e Envelope) asksUTF8() bool {
	_, ok := e.Params["SMTPUTF8"]
	return ok
}

// Hop is a next hop, or several with failover. It is safe for concurrent use.
type Hop interface {
	// Begin begins a transaction (MAIL). A Hop may send MAIL with the first Rcpt only, in one write. Errors are *Error.
	Begin(ctx context.Context, env Envelope) (Tx, error)
	// Extensions returns what the Hop was last seen to be capable of. If it was never reached, it is asked now, until ctx ends; seen
	// is false if it could not be reached, or a failed attempt was less than 30 s ago.
	Extensions(ctx context.Context) (e Extensions, seen bool)
	// Close ends idle connections; open transactions go on.
	Close() error
}

// Tx is one transaction at a next hop. One goroutine uses it. Data and Abort end it, also when Data fails.
type Tx interface {
	// Rcpt offers one recipient. If the next hop refuses it, the error is *Error with the next hop's reply, and the
	// transaction goes on.
	Rcpt(ctx context.Context, to message.Path, params message.Params) error
	// Data sends the message, size octets from body (CRLF line ends, not dot-stuffed), and returns the next hop's positive
	// reply. A negative size means that it is not known. Data calls body again if it tries another target.
	Data(ctx context.Context, size int64, body func() io.Reader) (message.Reply, error)
	// Abort ends the transaction without a message. After Data or Abort it does nothing.
	Abort()
}

// Error is a failure at the next hop.
type Error struct {
	Reply     message.Reply // for the client
	Hop       string        // the target, for the log
	Stage     string        // "connect", "mail", "rcpt", "data", "end-of-data"
	Cause     error         // for the log; nil if the next hop itself refused
	Uncertain bool          // the connection broke after the end of data was sent; the message may have been delivered
	Partial   bool          // some recipients have the message and others do not (LMTP); Reply names them

	next   bool // another target may be tried, because nothing of the message can have been accepted
	over   bool // the whole transaction is over, not only this recipient
	closed bool // the next hop closed the connection, or is about to, before anything of the message was sent
}

// recipient is one that the client was told is accepted.
type recipient struct {
	path   message.Path
	params message.Params
}

func (e *Error) Error() string {
	s := "next hop " + e.Hop + " at " + e.Stage + ": " + e.Reply.String()
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Cause }

// Values of Error.Stage.
const (
	stageConnect = "connect"
	stageMail    = "mail"
	stageRcpt    = "rcpt"
	stageData    = "data"
	stageEnd     = "end-of-data"
)

var errEnded = errors.New("the transaction has ended already")

// Replies of this package. They reveal only that there is a next server.

func unreachable() message.Reply {
	return message.MustReply(451, "4.4.1", "The next mail server cannot be reached, try again later")
}

func busy() message.Reply {
	return message.MustReply(451, "4.4.5", "The next mail server is busy, try again later")
}

func broken() message.Reply {
	return message.MustReply(451, "4.4.2", "The connection to the next mail server broke, try again later")
}

// changed is the reply when the next hop refuses, in a transaction that had to begin again, what it had accepted before.
func changed() message.Reply {
	return message.MustReply(451, "4.4.0", "The next mail server closed the connection, and then did not accept the same recipients; try again later")
}

// unsure is the reply when it is not known whether the message was delivered.
func unsure() message.Reply {
	return message.MustReply(451, "4.4.2", "The next mail server did not confirm the message, try again later")
}

func local() message.Reply {
	return message.MustReply(451, "4.3.0", "Temporary failure, try again later")
}

func noRecipients(hop string) *Error {
	return &Error{Reply: message.MustReply(554, "5.5.1", "No valid recipients"), Hop: hop, Stage: stageData, over: true}
}

// sourceError says that the message could not be read, so no next hop is at fault.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return "reading the message: " + e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// errFarewell is a 421 that came without a command (RFC 5321 §3.8): the next hop closes the connection.
var errFarewell = errors.New("the next hop has closed the idle connection with 421")

// dead reports whether err means that the connection was closed already, which may happen to an idle one.
func dead(err error) bool {
	return errors.Is(err, errFarewell) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)
}

// asError returns err as *Error. An error of another type becomes 451 4.3.0.
func asError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Reply: local(), Cause: err, over: true}
}

// cutShort returns why ctx was cancelled, if it was, and err otherwise.
func cutShort(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}
