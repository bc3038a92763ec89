package smtpd

import (
	"strconv"
	"strings"

	"github.com/postern-mail/postern/internal/message"
)

// verb is an SMTP command. The zero value is none.
type verb string

const (
	verbEHLO     verb = "EHLO"
	verbHELO     verb = "HELO"
	verbMAIL     verb = "MAIL"
	verbRCPT     verb = "RCPT"
	verbDATA     verb = "DATA"
	verbBDAT     verb = "BDAT"
	verbRSET     verb = "RSET"
	verbNOOP     verb = "NOOP"
	verbQUIT     verb = "QUIT"
	verbAUTH     verb = "AUTH"
	verbSTARTTLS verb = "STARTTLS"
	verbVRFY     verb = "VRFY"
	verbHELP     verb = "HELP"
)

// split takes a line apart: the verb in upper case, and what follows the space after it, without trailing white space
// (RFC 5321 §4.1.1). ok is false where the line has a control character, or 8-bit octets in a verb.
func split(line []byte) (v verb, arg string, ok bool) {
	for _, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			return "", "", false
		}
	}
	word, arg, _ := strings.Cut(string(line), " ")
	return verb(strings.ToUpper(word)), strings.TrimRight(arg, " \t"), word != "" && printable(word)
}

// dispatch carries out one command line: either it answers, or it leaves a line for the library in g.line.
func (g *guard) dispatch(line []byte) {
	v, arg, ok := split(line)
	if !ok {
		g.refuse(say(500, "5.5.2", "Syntax error"))
		return
	}
	if !printable(arg) && v != verbMAIL && v != verbRCPT && v != verbVRFY {
		g.refuse(replySyntax("8-bit characters are not allowed here"))
		return
	}
	switch v {
	case verbEHLO, verbHELO:
		g.hello(v, arg)
	case verbMAIL:
		g.mail(arg)
	case verbRCPT:
		g.rcpt(arg)
	case verbDATA:
		g.data(arg)
	case verbBDAT:
		g.bdat(arg)
	case verbAUTH:
		g.auth(arg)
	case verbSTARTTLS:
		g.wantTLS(arg)
	case verbRSET:
		g.plain(v, arg)
	case verbQUIT:
		g.plain(v, arg)
	default:
		g.trifle(v, arg)
	}
}

// trifle answers what never changes anything.
func (g *guard) trifle(v verb, arg string) {
	switch v {
	case verbNOOP:
		g.idle(say(250, "2.0.0", "Ok"))
	case verbVRFY: // RFC 5321 §7.3: no addresses are given away
		if arg == "" {
			g.refuse(replySyntax("VRFY wants an address"))
			return
		}
		g.idle(say(252, "2.0.0", "Cannot verify, but will take a message and try to deliver it"))
	case verbHELP:
		g.idle(say(214, "2.0.0", "EHLO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP QUIT"))
	case "EXPN", "ETRN", "TURN", "ATRN", "SEND", "SOML", "SAML", "LHLO", "XCLIENT", "XFORWARD", "BURL":
		g.refuse(say(502, "5.5.1", string(v)+" is not implemented"))
	case "GET", "POST", "PUT", "HEAD", "CONNECT", "OPTIONS":
		// A browser that somebody has tricked into speaking to us: nothing that follows is meant for a mail server.
		g.hangUp(say(421, "4.7.0", "This is a mail server"))
	default:
		g.refuse(say(500, "5.5.2", "Command not recognized"))
	}
}

// plain hands on a verb that takes no argument.
func (g *guard) plain(v verb, arg string) {
	if arg != "" {
		g.refuse(replySyntax(string(v) + " takes no argument"))
		return
	}
	if v == verbRSET && !g.spend() {
		return
	}
	g.hand(v, string(v))
}

// maxHello is the length of the longest domain (RFC 1035 §2.3.4).
const maxHello = 255

func (g *guard) hello(v verb, arg string) {
	// Mail programs say all sorts of things here, and what they say proves nothing; but it goes into Received fields.
	if arg == "" || len(arg) > maxHello || strings.ContainsAny(arg, " \t<>()\"\\,;") {
		g.refuse(replySyntax(string(v) + " wants a domain name or an address literal"))
		return
	}
	if g.spend() {
		g.cmd.arg = arg
		g.hand(v, "EHLO "+placeholder)
	}
}

// The library gets harmless words in place of what came: the guard has read that already, strictly, and two readings
// could differ.
const (
	placeholder = "a.invalid"
	mailbox     = "<a@a.invalid>"
)

func (g *guard) mail(arg string) {
	switch {
	case g.s.helo == "":
		g.refuse(replySequence("EHLO first"))
	case !g.authorised():
	case g.s.tx != nil:
		g.refuse(replySequence("A transaction is under way; RSET ends it"))
	default:
		if r := g.readMail(arg); !r.IsZero() {
			g.refuse(r)
			return
		}
		if !g.spend() || !g.another() {
			return
		}
		g.hand(verbMAIL, "MAIL FROM:"+mailbox)
	}
}

// another says whether one more message may be sent, and the one that is announced could be kept.
func (g *guard) another() bool {
	l := g.s.limits
	if g.messages >= l.Messages {
		g.s.met(limitMessages, l.Messages)
		g.hangUp(say(421, "4.7.0", "Too many messages on one connection"))
		return false
	}
	size, err := strconv.ParseInt(g.cmd.params["SIZE"], 10, 64)
	if err != nil || size <= min(l.SpoolMemory, g.s.srv.place.InMemory.Left()) || size <= g.s.srv.place.OnDisk.Left() {
		return true
	}
	g.s.met(limitDisk, l.SpoolDisk) // RFC 1870 §6.1
	g.send(say(452, "4.3.1", "Insufficient system storage, try again later"))
	return false
}

// authorised refuses MAIL from who has not said who he is (RFC 6409 §4.3).
func (g *guard) authorised() bool {
	if g.s.auth != nil || g.s.srv.Anonymous {
		return true
	}
	if g.s.tls == nil && g.s.tlsConfig() != nil {
		g.refuse(say(530, "5.7.0", "Must issue a STARTTLS command first"))
	} else {
		g.refuse(say(530, "5.7.0", "Authentication required"))
	}
	return false
}

// cutFold is strings.CutPrefix without regard to case.
func cutFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

func (g *guard) readMail(arg string) message.Reply {
	arg, ok := cutFold(arg, "FROM:")
	if !ok || !strings.HasPrefix(arg, "<") {
		return replySyntax("The syntax is MAIL FROM:<address>")
	}
	path, rest, err := message.ParsePath(arg, true)
	if err != nil {
		return say(501, "5.1.7", "Sender address: "+err.Error())
	}
	params, r := readParams(rest, mailParams)
	if r.IsZero() {
		r = checkMailParams(params, g.s.limits.MessageBytes)
		if r.Code() == 552 {
			g.s.met(limitMessageBytes, g.s.limits.MessageBytes)
		}
	}
	if !r.IsZero() {
		return r
	}
	if _, utf8 := params["SMTPUTF8"]; !utf8 && eightBit(arg) { // RFC 6531 §3.5
		return say(553, "5.6.7", "The address needs the SMTPUTF8 parameter")
	}
	g.cmd.path, g.cmd.params = path, params
	return message.Reply{}
}

func (g *guard) rcpt(arg string) {
	tx := g.s.tx
	switch {
	case tx == nil:
		g.refuse(replySequence("MAIL first"))
	case tx.chunks > 0:
		g.refuse(replySequence("The message is being sent; no more recipients"))
	case g.tries >= 10*g.s.limits.Recipients: // no list of recipients, but somebody who goes on and on
		g.s.met(limitRecipients, g.s.limits.Recipients)
		g.refuse(say(452, "4.5.3", "Too many recipients"))
	case len(tx.rcpts) >= g.s.limits.Recipients:
		g.tries++
		g.s.met(limitRecipients, g.s.limits.Recipients)
		g.send(say(452, "4.5.3", "Too many recipients"))
	default:
		g.tries, tx.tried = g.tries+1, true
		if r := g.readRcpt(arg, tx.utf8()); !r.IsZero() {
			g.refuse(r)
			return
		}
		g.hand(verbRCPT, "RCPT TO:"+mailbox)
	}
}

func (g *guard) readRcpt(arg string, utf8 bool) message.Reply {
	arg, ok := cutFold(arg, "TO:")
	if !ok || !strings.HasPrefix(arg, "<") {
		return replySyntax("The syntax is RCPT TO:<address>")
	}
	if !utf8 && eightBit(arg) {
		return say(553, "5.6.7", "The address needs the SMTPUTF8 parameter of MAIL")
	}
	path, rest, err := message.ParsePath(arg, utf8)
	if err == nil && path.Null {
		return say(501, "5.1.3", "A recipient cannot be <>")
	}
	if err != nil {
		return say(501, "5.1.3", "Recipient address: "+err.Error())
	}
	params, r := readParams(rest, rcptParams)
	if r.IsZero() {
		r = checkRcptParams(params, utf8)
	}
	g.cmd.path, g.cmd.params = path, params
	return r
}

func (g *guard) data(arg string) {
	tx := g.s.tx
	switch {
	case arg != "":
		g.refuse(replySyntax("DATA takes no argument"))
	case tx == nil:
		g.refuse(replySequence("MAIL first"))
	case tx.chunks > 0: // RFC 3030 §2
		g.refuse(replySequence("DATA cannot follow BDAT"))
	case len(tx.rcpts) == 0:
		g.refuse(noRecipients(tx))
	default:
		g.hand(verbDATA, "DATA")
	}
}

// noRecipients: RFC 5321 §3.3 lets both codes; they say whether any were tried.
func noRecipients(tx *transaction) message.Reply {
	if tx.tried {
		return say(554, "5.5.1", "No valid recipients")
	}
	return replySequence("RCPT first")
}
