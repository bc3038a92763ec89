package smtpd

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"

	"github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/internal/message"
)

// exchange is one AUTH dialogue (RFC 4954). It is the sasl.Server that the library drives, but the client's answers never
// go through the library, whose buffers would keep them: the guard leaves them in response, for Next to take and wipe.
type exchange struct {
	g         *guard
	mechanism mechanism
	response  []byte // nil: none yet
	challenge []byte // the library's, base64
}

func challenge(line []byte) []byte {
	_, text, _ := bytes.Cut(line, []byte(" "))
	text = bytes.TrimRight(text, "\r")
	for _, c := range text {
		if c != '+' && c != '/' && c != '=' && !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z') {
			return nil
		}
	}
	return bytes.Clone(text)
}

// startsAuth says whether the line that is too long for a command is an AUTH, which may be longer.
func (g *guard) startsAuth() bool {
	return g.s.tls != nil && g.buffered() >= 5 && strings.EqualFold(string(g.in[g.r:g.r+5]), "AUTH ")
}

// auth begins an exchange.
func (g *guard) auth(arg string) {
	name, initial, hasInitial := strings.Cut(arg, " ")
	name = strings.ToUpper(name)
	switch {
	case !g.s.esmtp:
		g.refuse(replySequence("EHLO first"))
	case g.s.tls == nil && g.s.tlsConfig() != nil && len(g.s.srv.Auth) > 0:
		g.refuse(say(530, "5.7.0", "Must issue a STARTTLS command first"))
	case g.s.tls == nil && len(g.s.srv.Auth) > 0: // RFC 4954 §6
		g.refuse(say(538, "5.7.11", "Encryption is required for authentication"))
	case len(g.s.srv.Auth) == 0:
		g.refuse(say(502, "5.5.1", "AUTH is not offered"))
	case g.s.auth != nil: // RFC 4954 §4
		g.refuse(replySequence("Already authenticated"))
	case g.s.tx != nil:
		g.refuse(replySequence("AUTH is not allowed in a transaction"))
	case name == "":
		g.refuse(replySyntax("The syntax is AUTH mechanism [initial-response]"))
	case !slices.Contains(g.mechanisms(), name) && slices.Contains(g.served(), name): // RFC 4954 §6
		g.refuse(say(534, "5.7.9", "Mechanism is not allowed here"))
	case !slices.Contains(g.mechanisms(), name):
		g.refuse(say(504, "5.5.4", "Mechanism is not offered"))
	default:
		g.sasl = exchange{g: g, mechanism: g.s.mechanism(name)}
		if hasInitial {
			if g.sasl.response = decode([]byte(initial)); g.sasl.response == nil {
				g.refuse(say(501, "5.5.2", "Not base64"))
				return
			}
			g.wipe()
			g.hand(verbAUTH, "AUTH "+name+" =")
			return
		}
		g.hand(verbAUTH, "AUTH "+name)
	}
}

// wipe clears the line that was read last from the input buffer: it has a password in it.
func (g *guard) wipe() { clear(g.in[:g.r]) }

// decode is nil where b is not base64.
func decode(b []byte) []byte {
	if string(b) == "=" { // RFC 4954 §4: an empty initial response
		return []byte{}
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(b)))
	n, err := base64.StdEncoding.Strict().Decode(out, b)
	if err != nil {
		return nil
	}
	return out[:n]
}

// continueAuth sends the challenge and reads the client's answer to it. The library gets an empty one, or "*" where the
// exchange is to end.
func (g *guard) continueAuth() error {
	g.out = append(append(append(g.out, "334 "...), g.sasl.challenge...), '\r', '\n')
	g.code = 0
	line, err := g.readLine(authLine, g.s.limits.Idle, true)
	if err != nil {
		g.broken(err, limitIdle, g.s.limits.Idle)
		return err
	}
	g.line = []byte("=\r\n")
	if string(line) == "*" { // RFC 4954 §4
		g.reply = say(501, "5.7.0", "Authentication cancelled")
	} else if g.sasl.response = decode(line); g.sasl.response == nil {
		g.reply = say(501, "5.5.2", "Not base64")
	}
	g.wipe()
	if !g.reply.IsZero() {
		g.errs++
		g.line = []byte("*\r\n")
	}
	return nil
}

// Next takes the client's answer. It is called by the library.
func (x *exchange) Next([]byte) (ask []byte, done bool, err error) {
	answer := x.response
	x.response = nil
	defer clear(answer)
	ask, r := x.mechanism.next(answer)
	if r.IsZero() {
		return ask, false, nil
	}
	return nil, true, x.finish(r)
}

// finish leaves the reply for the guard.
func (x *exchange) finish(r message.Reply) error {
	x.g.reply = r
	if r.Code() == 421 {
		x.g.override, x.g.reply = r, message.Reply{}
		return &smtp.SMTPError{Code: 421, EnhancedCode: smtp.NoEnhancedCode, Message: "-"}
	}
	return libraryError(r)
}
