package smtpd

import (
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/relay"
)

// MAIL opens a transaction (RFC 5321 §4.1.1.2). It pins the policy that answers all questions of the transaction.
func (s *session) MAIL(arg string) message.Reply {
	switch {
	case !s.greeted:
		return s.refuse(replySequence("EHLO first"))
	case s.auth == nil && !s.srv.Anonymous: // RFC 6409 §4.3
		if s.tls == nil && s.srv.tlsConfig() != nil {
			return s.refuse(say(530, "5.7.0", "Must issue a STARTTLS command first"))
		}
		return s.refuse(say(530, "5.7.0", "Authentication required"))
	case s.tx != nil:
		return s.refuse(replySequence("A transaction is under way; RSET ends it"))
	}
	from, params, r := s.readMail(arg)
	if !r.IsZero() {
		return s.refuse(r)
	}
	if r := s.countIdle(); !r.IsZero() {
		return r
	}
	if r := s.roomFor(params); !r.IsZero() {
		return r
	}
	now := s.srv.now()
	t := &transaction{id: s.srv.ids.next(now), start: now, policy: s.srv.Engine.Pin(s.identity()), from: from, params: params}
	t.until = time.Now().Add(s.limits.Transaction)
	t.log = s.log.With("id", t.id)
	if d := s.decide(t.facts(engine.StageMail)); d.Verdict == engine.Reject || d.Verdict == engine.Defer {
		r := orFailure(d.Reply)
		t.log.Info("sender refused", "login", s.login(), "from", from.String(), "reply", r.String())
		return r
	}
	s.tx, s.used = t, true
	s.srv.Metrics.transaction(1)
	return say(250, "2.1.0", "Ok")
}

// readMail reads the argument of MAIL. A reply that is not zero says what is wrong with it.
func (s *session) readMail(arg string) (from message.Path, params message.Params, r message.Reply) {
	arg, ok := s.cutPath(arg, "FROM:")
	if !ok {
		return from, nil, replySyntax("The syntax is MAIL FROM:<address>")
	}
	from, rest, err := message.ParsePath(arg, true)
	if err != nil {
		return from, nil, say(501, "5.1.7", "Sender address: "+err.Error())
	}
	params, r = readParams(rest, mailParams)
	if r.IsZero() {
		r = checkMailParams(params, s.limits.MessageBytes)
		if r.Code() == 552 {
			s.hit(limitMessageBytes)
		}
	}
	if _, utf8 := params["SMTPUTF8"]; r.IsZero() && !utf8 && eightBit(arg) { // RFC 6531 §3.5
		r = say(553, "5.6.7", "The address needs the SMTPUTF8 parameter")
	}
	return from, params, r
}

// cutPath cuts the keyword off the argument of MAIL or RCPT, so that a path in brackets comes first. Unless Server.StrictCommands is set, it takes
// blanks before the path and, as Postfix and Exim do, a plain address without brackets, which nobody can take for two addresses.
func (s *session) cutPath(arg, keyword string) (rest string, ok bool) {
	lenient := !s.srv.StrictCommands
	if lenient {
		arg = strings.TrimLeft(arg, " ")
	}
	rest, ok = cutFold(arg, keyword)
	if !ok || strings.HasPrefix(rest, "<") {
		return rest, ok
	}
	if !lenient {
		return rest, false
	}
	rest = strings.TrimLeft(rest, " ")
	if strings.HasPrefix(rest, "<") {
		return rest, true
	}
	address, params, more := strings.Cut(rest, " ")
	if !bareAddress(address) {
		return rest, false
	}
	if rest = "<" + address + ">"; more {
		rest += " " + params
	}
	return rest, true
}

// bareAddress reports whether s is an address of letters, digits and the marks that atoms may have (RFC 5322 §3.2.3), with one @ in it.
func bareAddress(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f || strings.IndexByte("\"(),:;<>[\\]", c) >= 0 {
			return false
		}
	}
	at := strings.IndexByte(s, '@')
	return at > 0 && at < len(s)-1 && strings.IndexByte(s[at+1:], '@') < 0
}

// roomFor refuses one message too many, and a message whose declared size cannot be stored (RFC 1870 §6.1).
func (s *session) roomFor(params message.Params) message.Reply {
	if s.messages >= s.limits.Messages {
		s.hit(limitMessages)
		return s.hangUp(say(421, "4.7.0", "Too many messages on one connection"))
	}
	size, err := strconv.ParseInt(params["SIZE"], 10, 64)
	place := &s.srv.place
	if err != nil || size <= min(s.limits.SpoolMemory, place.InMemory.Left()) || size <= place.OnDisk.Left() {
		return message.Reply{}
	}
	s.hit(limitDisk)
	return say(452, "4.3.1", "Insufficient system storage, try again later")
}

// RCPT adds a recipient (RFC 5321 §4.1.1.3) if policy and the next hop accept it.
func (s *session) RCPT(arg string) message.Reply {
	t := s.tx
	switch {
	case t == nil:
		return s.refuse(replySequence("MAIL first"))
	case t.chunks > 0:
		return s.refuse(replySequence("The message is being sent; no more recipients"))
	case s.recipients >= 10*s.limits.Recipients: // no list of recipients is that long: the client is probing
		s.hit(limitRecipients)
		return s.refuse(say(452, "4.5.3", "Too many recipients"))
	case len(t.rcpts) >= s.limits.Recipients:
		s.recipients++
		s.hit(limitRecipients)
		return say(452, "4.5.3", "Too many recipients")
	}
	s.recipients++
	t.tried = true
	to, params, r := s.readRcpt(arg, t.utf8())
	if !r.IsZero() {
		return s.refuse(r)
	}
	rcpt := engine.Recipient{Path: to, Params: params}
	facts := t.facts(engine.StageRcpt)
	facts.Recipient = &rcpt
	if d := s.decide(facts); d.Verdict == engine.Reject || d.Verdict == engine.Defer {
		r := orFailure(d.Reply)
		t.log.Info("recipient refused", "login", s.login(), "to", to.String(), "reply", r.String())
		return r
	}
	// An address without a domain (RFC 6409 §6.1) gets one from policy, which does that at the end of the message.
	if to.Domain != "" && (t.from.Null || t.from.Domain != "") {
		if err := s.offer(rcpt); err != nil {
			r, _ := hopError(err)
			t.log.Info("recipient refused by the next hop", "to", to.String(), "reply", r.String(), "error", err)
			return r
		}
	}
	t.rcpts = append(t.rcpts, rcpt)
	return say(250, "2.1.5", "Ok")
}

// readRcpt reads the argument of RCPT. A reply that is not zero says what is wrong with it.
func (s *session) readRcpt(arg string, utf8 bool) (to message.Path, params message.Params, r message.Reply) {
	arg, ok := s.cutPath(arg, "TO:")
	if !ok {
		return to, nil, replySyntax("The syntax is RCPT TO:<address>")
	}
	if !utf8 && eightBit(arg) {
		return to, nil, say(553, "5.6.7", "The address needs the SMTPUTF8 parameter of MAIL")
	}
	to, rest, err := message.ParsePath(arg, utf8)
	if err == nil && to.Null {
		return to, nil, say(501, "5.1.3", "A recipient cannot be <>")
	}
	if err != nil {
		return to, nil, say(501, "5.1.3", "Recipient address: "+err.Error())
	}
	params, r = readParams(rest, rcptParams)
	if r.IsZero() {
		r = checkRcptParams(params, utf8)
	}
	return to, params, r
}

// offer passes one recipient on to the next hop. The first one begins the transaction there.
func (s *session) offer(rcpt engine.Recipient) error {
	t := s.tx
	if t.failed != nil {
		return t.failed
	}
	if t.hop == nil {
		t.hop, t.failed = s.srv.Relay.Begin(s.ctx, relay.Envelope{From: t.from, Params: hopParams(t.params), ID: t.id})
		if t.failed != nil {
			t.hop = nil
			return t.failed
		}
	}
	err := t.hop.Rcpt(s.ctx, rcpt.Path, rcpt.Params)
	if err == nil {
		t.offered = append(t.offered, rcpt)
		return nil
	}
	if _, e := hopError(err); e == nil || e.Stage != "rcpt" { // not about this recipient: the transaction is lost
		t.hop.Abort()
		t.hop, t.offered, t.failed = nil, nil, err
	}
	return err
}

// hopParams are the parameters of MAIL for the next hop. BODY is always 8BITMIME: whether a message has 8-bit octets is known only
// after MAIL, and clients often do not declare it. If the message needs 8BITMIME and the next hop does not have it, relay refuses
// the message before anything is sent.
func hopParams(p message.Params) message.Params {
	out := message.Params{"BODY": "8BITMIME"}
	for _, key := range []string{"SMTPUTF8", "SIZE", "RET", "ENVID"} {
		if v, ok := p[key]; ok {
			out[key] = v
		}
	}
	return out
}
