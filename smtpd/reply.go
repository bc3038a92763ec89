package smtpd

import (
	"strconv"
	"strings"

	"github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/message"
)

// say makes one of our own replies.
func say(code int, status, text string) message.Reply { return message.MustReply(code, status, text) }

// Replies that more than one place gives. None of them names the machinery behind it.

func replyFailure() message.Reply { return say(451, "4.3.0", "Temporary failure, try again later") }

func replyInternal() message.Reply { return say(421, "4.3.0", "Internal error, closing connection") }

func replyStopping() message.Reply {
	return say(421, "4.3.2", "The server is shutting down, try again later")
}

func replyIdle() message.Reply { return say(421, "4.4.2", "Timeout, closing connection") }

func replySequence(text string) message.Reply { return say(503, "5.5.1", text) }

func replySyntax(text string) message.Reply { return say(501, "5.5.4", text) }

// done is the reply to a command that succeeded and of which nobody said more.
func (g *guard) done(v verb) message.Reply {
	switch v {
	case verbHELO:
		return say(250, "", g.s.srv.Hostname)
	case verbEHLO:
		return g.capabilities()
	case verbMAIL:
		return say(250, "2.1.0", "Ok")
	case verbRCPT:
		return say(250, "2.1.5", "Ok")
	case verbAUTH:
		return say(235, "2.7.0", "Authentication successful")
	case verbQUIT:
		return say(221, "2.0.0", "Bye")
	case verbSTARTTLS:
		return say(220, "2.0.0", "Ready to start TLS")
	}
	return say(250, "2.0.0", "Ok")
}

// capabilities is the reply to EHLO (RFC 5321 §4.1.1.1): what we honour, as far as the next hop does.
func (g *guard) capabilities() message.Reply {
	text := g.s.srv.Hostname + "\nPIPELINING\nSIZE " + strconv.FormatInt(g.s.limits.MessageBytes, 10)
	if g.s.tls == nil && g.s.tlsConfig() != nil {
		text += "\nSTARTTLS"
	}
	if m := g.mechanisms(); len(m) > 0 {
		text += "\nAUTH " + strings.Join(m, " ")
	}
	return say(250, "", text+"\nENHANCEDSTATUSCODES\n8BITMIME\nSMTPUTF8\nDSN\nCHUNKING")
}

// complete gives a next hop's positive reply the enhanced status that we have promised (RFC 2034), where it has none.
func complete(r message.Reply) message.Reply {
	if r.Status() != "" || r.IsZero() {
		return r
	}
	text := ""
	for i, l := range r.Lines() {
		if i > 0 {
			text += "\n"
		}
		text += l
	}
	if full, err := message.NewReply(r.Code(), string('0'+rune(r.Code()/100))+".0.0", text); err == nil {
		return full
	}
	return r
}

// libraryError is what the library is told of a refusal; what it writes of it is not used but for the code.
func libraryError(r message.Reply) error {
	if r.Code()/100 == 2 {
		return nil
	}
	return &smtp.SMTPError{Code: r.Code(), EnhancedCode: smtp.NoEnhancedCode, Message: "-"}
}
