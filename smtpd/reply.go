package smtpd

import (
	"errors"
	"strings"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/relay"
)

// say makes a reply of the server's own.
func say(code int, status, text string) message.Reply { return message.MustReply(code, status, text) }

// Replies that are given in more than one place. None of them names the machinery behind it.

func replyFailure() message.Reply { return say(451, "4.3.0", "Temporary failure, try again later") }

func replyInternal() message.Reply { return say(421, "4.3.0", "Internal error, closing connection") }

func replyStopping() message.Reply {
	return say(421, "4.3.2", "The server is shutting down, try again later")
}

func replyIdle() message.Reply { return say(421, "4.4.2", "Timeout, closing connection") }

func replySequence(text string) message.Reply { return say(503, "5.5.1", text) }

func replySyntax(text string) message.Reply { return say(501, "5.5.4", text) }

// orFailure gives a refusal without a reply the ordinary one.
func orFailure(r message.Reply) message.Reply {
	if r.IsZero() {
		return replyFailure()
	}
	return r
}

// banner gives a refusal one of the two codes that a greeting may have (RFC 5321 §4.2.3, §3.8).
func banner(r message.Reply) message.Reply {
	code := 554
	if r.Code()/100 == 4 {
		code = 421
	}
	if b, err := message.NewReply(code, r.Status(), replyText(r)); err == nil {
		return b
	}
	return say(421, "4.3.0", "Temporary failure, try again later")
}

// complete gives a next hop's positive reply the enhanced status that EHLO has promised (RFC 2034), if it has none.
func complete(r message.Reply) message.Reply {
	if r.Status() != "" || r.IsZero() {
		return r
	}
	if full, err := message.NewReply(r.Code(), string('0'+rune(r.Code()/100))+".0.0", replyText(r)); err == nil {
		return full
	}
	return r
}

func replyText(r message.Reply) string { return strings.Join(r.Lines(), "\n") }

// hopError returns the reply to the client when a next hop fails: the next hop's own reply if it gave one.
func hopError(err error) (message.Reply, *relay.Error) {
	var e *relay.Error
	if errors.As(err, &e) && !e.Reply.IsZero() && e.Reply.Code()/100 != 2 {
		return complete(e.Reply), e
	}
	return say(451, "4.4.1", "The next mail server cannot be reached, try again later"), e
}
