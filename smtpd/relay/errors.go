package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/postern-mail/postern/internal/message"
)

// The stages of Error.
const (
	stageConnect = "connect"
	stageMail    = "mail"
	stageRcpt    = "rcpt"
	stageData    = "data"
	stageEnd     = "end-of-data"
)

// Replies of our own. They never say more of the way mail takes than that there is a next server.

func unreachable() message.Reply {
	return message.MustReply(451, "4.4.1", "The next mail server cannot be reached, try again later")
}

func busy() message.Reply {
	return message.MustReply(451, "4.4.5", "The next mail server is busy, try again later")
}

func broken() message.Reply {
	return message.MustReply(451, "4.4.2", "The connection to the next mail server broke, try again later")
}

// unsure is the answer where the outcome is not known.
func unsure() message.Reply {
	return message.MustReply(451, "4.4.2", "The next mail server did not confirm the message, try again later")
}

func local() message.Reply {
	return message.MustReply(451, "4.3.0", "Temporary failure, try again later")
}

func noRecipients(hop string) *Error {
	return &Error{Reply: message.MustReply(554, "5.5.1", "No valid recipients"), Hop: hop, Stage: stageData, over: true}
}

// sourceError: the message could not be read, which is no fault of any next hop.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return "reading the message: " + e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// dead reports whether err says that a connection was already gone, as an idle one may be.
func dead(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)
}

// asError gives err as the *Error it is.
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

// cutShort is the cause to log where a context ended what was going on.
func cutShort(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}
