// Package relay hands accepted messages to a next hop: an SMTP (RFC 5321) or LMTP (RFC 2033) server, or a Maildir.
//
// [Open] reads targets (smtp://, smtps://, lmtp://, lmtp+unix://, maildir:) and gives a [Hop]; several targets become a
// [Failover]. A transaction is Begin, Rcpt for each recipient, then Data or Abort. Its promise is honesty: a positive
// reply of Data means that the next hop took the message for every recipient that Rcpt accepted (or that it is on disk,
// for a Maildir); an error without Uncertain and Partial means that nobody has it. What the next hop said
// comes back per stage, as it said it, cleaned; only 421 becomes 451, for it speaks of the next hop's connection and not of
// our client's, and what it says before MAIL (greeting, EHLO, STARTTLS, AUTH) becomes 451 4.4.1, for it speaks of us and
// not of the message.
//
// # What leaves
//
// Line ends are CRLF; a message with a bare CR or LF is refused before its end of data and the connection closed, so that
// nothing of it is accepted. Paths are written by message.Path.String alone; parameters are written again from an
// allow-list (BODY, SMTPUTF8, SIZE, RET, ENVID; NOTIFY, ORCPT) with checked values. What a message needs and the next hop
// lacks is refused before anything of the message is sent: SMTPUTF8 550 5.6.7; 8-bit octets without 8BITMIME 554 5.6.3;
// NOTIFY=NEVER or SUCCESS without DSN 555 5.3.3 (RET, ENVID, ORCPT and other NOTIFY are dropped then: without DSN the next
// hop reports failures by itself, RFC 3461 §4.1); a message beyond its SIZE 552 5.3.4.
//
// # Failing over
//
// A Failover goes to the next target when one cannot be reached, breaks or times out, or answers 421, 4xx at MAIL or 4xx at
// DATA, all before the end of data is sent; recipients that were accepted are offered again there, and if one of them is
// now refused the whole transaction fails with 451 4.4.0. A 5xx is final, and so is a 4xx at RCPT, which speaks of one
// recipient. Once the end of data is on its way nothing is tried again: a connection that breaks then gives 451 4.4.2 with
// Uncertain set, for the message may have been delivered.
//
// # A next hop that hangs
//
// Each step has its time (Timeouts), and only so many connections are in use at once (Options.Connections): a transaction that needs
// one more waits for as long as for a connection, then it fails with 451 4.4.5, or moves to the next target. Each time and the
// bound are counted and logged by name when they are met.
//
// # LMTP
//
// After the data each recipient gets its own reply. All positive: the first of them is returned. Otherwise nobody is lost
// silently: the reply is a failure that names who was refused and who has the message. Where nobody has it, 4xx wins over
// 5xx (another try harms nobody); where somebody has it, 5xx wins over 4xx (another try would deliver twice) and Partial is set.
//
// # Goroutines
//
// There are none that outlive a call, but for one timer a hop which closes idle connections; Close stops it. Where a context can be
// cancelled, its cancellation cuts the connection that is in use.
package relay

import (
	"context"
	"io"

	"github.com/postern-mail/postern/internal/message"
)

// Envelope opens a transaction at the next hop. Params are MAIL's parameters that go along: BODY, SMTPUTF8, SIZE, RET,
// ENVID; others are dropped by the Hop.
type Envelope struct {
	From   message.Path
	Params message.Params
	// ID of our transaction, for logs and file names.
	ID string
}

// Hop is a next hop, or several with failover. It is safe for concurrent use.
type Hop interface {
	// Begin opens a transaction (MAIL). A Hop may put it off until the first Rcpt, to send both in one write.
	// Errors are *Error.
	Begin(ctx context.Context, env Envelope) (Tx, error)
	// Close ends idle connections; transactions under way go on.
	Close() error
}

// Tx is one transaction at a next hop. One goroutine uses it. It ends with Data or Abort, whatever they return.
type Tx interface {
	// Rcpt offers one recipient; the next hop's refusal comes back as *Error with its reply. A refused recipient does
	// not end the transaction.
	Rcpt(ctx context.Context, to message.Path, params message.Params) error
	// Data sends the message, size octets from body (CRLF line ends, not dot-stuffed), and returns the next hop's positive reply.
	// It may read body more than once (body() anew) where it fails over before the end of data. A negative size: not known.
	Data(ctx context.Context, size int64, body func() io.Reader) (message.Reply, error)
	// Abort gives up; nothing is delivered. It is harmless after the end.
	Abort()
}

// Error is a failure at the next hop: Reply is what the client is told, Cause what the log says.
type Error struct {
	Reply message.Reply
	Hop   string // which next hop, for the log
	Stage string // "connect", "mail", "rcpt", "data", "end-of-data"
	Cause error  // nil where the next hop itself refused
	// Uncertain: the connection broke after the end of data was sent; the message may have been delivered.
	Uncertain bool
	// Partial: some recipients have the message and others do not (LMTP); Reply names them.
	Partial bool

	next bool // another target may be tried: nothing of the message can have been accepted
	over bool // the whole transaction is over, not just this recipient
}

func (e *Error) Error() string {
	s := "next hop " + e.Hop + " at " + e.Stage + ": " + e.Reply.String()
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Cause }
