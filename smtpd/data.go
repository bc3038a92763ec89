package smtpd

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/wire"
)

// DATA takes a message (RFC 5321 §4.1.1.4), asks policy about it, and carries out the decision. It ends the transaction.
func (s *session) DATA(arg string) message.Reply {
	t := s.tx
	switch {
	case arg != "":
		return s.refuse(replySyntax("DATA takes no argument"))
	case t == nil:
		return s.refuse(replySequence("MAIL first"))
	case t.chunks > 0: // RFC 3030 §2
		return s.refuse(replySequence("DATA cannot follow BDAT"))
	case len(t.rcpts) == 0:
		return s.refuse(noRecipients(t))
	}
	s.receive(t)
	s.conn.Send(say(354, "", "End data with <CR><LF>.<CR><LF>"))
	if err := s.conn.ReadData(t.body, &wire.Pace{Window: s.limits.Data, End: t.until}); err != nil {
		return s.cutOff(err)
	}
	return s.finish()
}

// BDAT takes one chunk of a message (RFC 3030 §2). After the last one a message goes the same way as by DATA.
//
// The octets of a chunk are always read, even those of a chunk that is refused, because the next command comes after them. If the
// size cannot be read, the end of the chunk is not known, and the connection ends.
func (s *session) BDAT(arg string) message.Reply {
	size, last, ok := chunkSize(arg)
	if !ok {
		return s.hangUp(replySyntax("The syntax is BDAT size [LAST]"))
	}
	if size > s.limits.endless() {
		s.hit(limitMessageBytes)
		return s.hangUp(tooLarge(s.limits.MessageBytes))
	}
	t := s.tx
	if t == nil || len(t.rcpts) == 0 {
		return s.discardChunk(size)
	}
	if t.body == nil {
		s.receive(t)
	}
	t.chunks++
	if err := s.conn.ReadChunk(size, t.body, &wire.Pace{Window: s.limits.Data, End: t.until}); err != nil {
		return s.cutOff(err)
	}
	switch {
	case int64(t.chunks) > int64(s.limits.Chunks)+t.body.Size()/1024: // tiny chunks cost as much as large ones
		s.hit(limitChunks)
		r := say(554, "5.5.0", "Too many small chunks")
		s.outcome("", r, nil)
		return s.hangUp(r)
	case last:
		if err := t.body.EndLine(); err != nil {
			return s.cutOff(err)
		}
		return s.finish()
	case t.body.Err() != nil: // the transaction is over, and the rest need not be sent (RFC 3030 §2)
		r := s.notStored(t.body.Err())
		s.drop()
		return r
	}
	return say(250, "2.0.0", strconv.FormatInt(size, 10)+" octets received")
}

// discardChunk reads and refuses a chunk that belongs to no message.
func (s *session) discardChunk(size int64) message.Reply {
	r := replySequence("MAIL and RCPT first")
	end := time.Now().Add(s.limits.Transaction)
	if t := s.tx; t != nil {
		r, end = noRecipients(t), t.until
	}
	if err := s.conn.ReadChunk(size, nil, &wire.Pace{Window: s.limits.Data, End: end}); err != nil {
		return s.lost(err, limitData)
	}
	return s.refuse(r)
}

// chunkSize reads the argument of BDAT.
func chunkSize(arg string) (size int64, last, ok bool) {
	number, rest, more := strings.Cut(arg, " ")
	if more && !strings.EqualFold(rest, "LAST") {
		return 0, false, false
	}
	if len(number) > 15 || strings.Trim(number, "0123456789") != "" {
		return 0, false, false
	}
	size, err := strconv.ParseInt(number, 10, 64)
	return size, more, err == nil
}

// noRecipients refuses a message without recipients. RFC 5321 §3.3 allows both codes; they tell whether RCPT was sent at all.
func noRecipients(t *transaction) message.Reply {
	if t.tried {
		return say(554, "5.5.1", "No valid recipients")
	}
	return replySequence("RCPT first")
}

// receive makes a place for the message.
func (s *session) receive(t *transaction) {
	t.spool = s.srv.place.NewSpool(s.limits.MessageBytes + 2)
	t.body = &wire.Body{Store: t.spool, Max: s.limits.MessageBytes, Line: s.limits.Line, Endless: s.limits.endless()}
}

// finish answers a message that has arrived whole, and ends its transaction.
func (s *session) finish() message.Reply {
	r := s.process()
	s.drop()
	return r
}

// process stores a message that has arrived whole, asks policy about it, and carries out the decision.
func (s *session) process() message.Reply {
	t := s.tx
	s.idles, s.recipients = 0, 0
	s.messages++
	if err := t.body.Err(); err != nil {
		return s.notStored(err)
	}
	if t.spool.MemoryShort() {
		s.hit(limitMemory)
	}
	s.srv.Metrics.octets(t.spool.Size())
	m, err := s.read(t)
	if err != nil {
		return s.badHeader(err)
	}
	facts := t.facts(engine.StageMessage)
	facts.Message = m.Message
	d := s.decide(facts)
	switch d.Verdict {
	case engine.Accept:
		return s.deliver(m, d)
	case engine.Quarantine:
		return s.quarantine(m, d)
	case engine.Discard:
		r := say(250, "2.0.0", "Ok: accepted as "+t.id)
		s.outcome("discard", r, nil)
		return r
	}
	r := orFailure(d.Reply)
	s.outcome(d.Verdict.String(), r, d.Err)
	return r
}

// cutOff ends a connection in the middle of a message, or because of one. err is what the reading of the message returned.
//
// The reply to a bare CR, bare LF or NUL is 554 5.6.0, "other or undefined media error" (RFC 3463 §3.7): the message itself is
// wrong (RFC 5321 §2.3.8), and another try would not help. The connection ends because client and server do not agree where lines
// end, and so perhaps not where messages end.
func (s *session) cutOff(err error) message.Reply {
	switch {
	case errors.Is(err, wire.ErrBareCR), errors.Is(err, wire.ErrBareLF), errors.Is(err, wire.ErrNUL):
		r := say(554, "5.6.0", "The message has a "+err.Error()+"; lines must end in CR LF")
		s.outcome("", r, err)
		return s.hangUp(r)
	case errors.Is(err, wire.ErrEndless):
		return s.hangUp(s.notStored(err))
	case wire.IsTimeout(err):
		s.outcome("", replyIdle(), err)
		return s.lost(err, limitData)
	}
	s.outcome("", say(451, "4.4.2", "The message did not arrive whole"), err) // the client has gone; this is for the log
	return message.Reply{}
}

// notStored answers a message that could not be stored.
func (s *session) notStored(err error) message.Reply {
	r := say(452, "4.3.1", "Insufficient system storage, try again later")
	switch {
	case errors.Is(err, message.ErrTooLarge), errors.Is(err, wire.ErrEndless):
		s.hit(limitMessageBytes)
		r = tooLarge(s.limits.MessageBytes)
	case errors.Is(err, wire.ErrLine): // RFC 5322 §2.1.1
		s.hit(limitLine)
		r = say(554, "5.6.0", "The message has a line of more than "+strconv.Itoa(s.limits.Line)+" octets")
	case errors.Is(err, message.ErrNoRoom):
		s.hit(limitDisk)
	}
	s.outcome("", r, err)
	return r
}

func tooLarge(limit int64) message.Reply {
	return say(552, "5.3.4", "Message size exceeds the limit of "+strconv.FormatInt(limit, 10)+" octets")
}

// badHeader answers a message whose header cannot be read, or exceeds a limit.
func (s *session) badHeader(err error) message.Reply {
	r := replyFailure() // the disk failed, which is no fault of the message
	var h *message.HeaderError
	switch {
	case errors.As(err, &h) && h.Limit != "":
		s.hit(h.Limit)
		r = say(552, "5.3.4", "Message header: "+h.Error())
	case h != nil:
		r = say(554, "5.6.0", "Message header: "+h.Error())
	}
	s.outcome("", r, err)
	return r
}
