package smtpd

import (
	"errors"
	"log/slog"
	"slices"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/relay"
)

// deliver hands an accepted message, as policy edited it, to the next hop. The client is told 250 only after the next
// hop's 250 (RFC 5321 §6.1: from then on somebody is responsible for it).
func (s *session) deliver(m *received, d engine.Decision) message.Reply {
	t := s.tx
	size, body, err := s.leaving(m, d.Edits)
	if err != nil {
		r := s.onError()
		s.outcome("accept", r, err)
		return r
	}
	if r := s.readdress(d.Edits); !r.IsZero() {
		s.outcome("accept", r, nil)
		return r
	}
	hop := t.hop
	t.hop = nil // Data ends it
	r, err := hop.Data(s.ctx, size, body)
	if err != nil {
		return s.undelivered(err)
	}
	if r.Code()/100 != 2 {
		r = say(250, "2.0.0", "Ok: accepted as "+t.id)
	}
	r = complete(r)
	s.outcome("accept", r, nil)
	return r
}

// onError is the reply where policy's own answer cannot be carried out.
func (s *session) onError() message.Reply {
	if s.ln.Failure == engine.Reject {
		return say(554, "5.3.0", "Transaction failed")
	}
	return replyFailure()
}

func (s *session) undelivered(err error) message.Reply {
	r, e := hopError(err)
	switch {
	case e != nil && e.Uncertain:
		s.tx.log.Warn("possible duplicate: the next hop did not confirm a message that it may have taken", "error", err)
	case e != nil && e.Partial:
		s.tx.log.Warn("the next hop took the message for some recipients only", "error", err)
	}
	s.outcome("accept", r, err)
	return r
}

// readdress brings the next hop's transaction in line with the envelope as policy edited it. Recipients that are new, or
// were held back for want of a domain, are offered; if the sender changed, or one that was offered is gone, the transaction
// is begun anew. Whoever is refused now was never refused to the client, who could not know whom he has lost: so
// the whole message is.
func (s *session) readdress(edits message.Edits) message.Reply {
	t := s.tx
	before := &engine.Envelope{From: t.from, FromParams: t.params, To: t.rcpts}
	after, _ := before.Apply(edits)
	if len(after.To) == 0 {
		return say(554, "5.5.1", "No valid recipients")
	}
	has := func(list []engine.Recipient, r engine.Recipient) bool {
		return slices.ContainsFunc(list, func(x engine.Recipient) bool { return x.Path == r.Path })
	}
	stale := after.From != t.from
	for _, r := range t.offered {
		stale = stale || !has(after.To, r)
	}
	if stale && t.hop != nil {
		t.hop.Abort()
		t.hop, t.offered = nil, nil
	}
	t.from = after.From
	for _, r := range after.To {
		if has(t.offered, r) {
			continue
		}
		if err := s.offer(r); err != nil {
			reply, _ := hopError(err)
			t.log.Info("recipient refused by the next hop", "to", r.Path.String(), "reply", reply.String(), "error", err)
			return reply
		}
	}
	return message.Reply{}
}

// quarantine keeps a message, as policy edited it, for somebody to look at. The client is not told.
func (s *session) quarantine(m *received, d engine.Decision) message.Reply {
	t := s.tx
	err := s.hold(m, d)
	r := say(250, "2.0.0", "Ok: accepted as "+t.id)
	if err != nil {
		r = replyFailure()
	}
	s.outcome("quarantine", r, err)
	return r
}

var errNoQuarantine = errors.New("policy quarantines the message, and no place is configured for that")

func (s *session) hold(m *received, d engine.Decision) error {
	t := s.tx
	if s.srv.Quarantine == nil {
		return errNoQuarantine
	}
	size, body, err := s.leaving(m, d.Edits)
	if err != nil {
		return err
	}
	before := &engine.Envelope{From: t.from, FromParams: t.params, To: t.rcpts}
	after, _ := before.Apply(d.Edits)
	tx, err := s.srv.Quarantine.Begin(s.ctx, relay.Envelope{From: after.From, Params: hopParams(t.params), ID: t.id})
	if err != nil {
		return err
	}
	defer tx.Abort()
	for _, r := range after.To {
		if err := tx.Rcpt(s.ctx, r.Path, r.Params); err != nil {
			return err
		}
	}
	_, err = tx.Data(s.ctx, size, body)
	return err
}

// outcome logs and counts what became of a message. verdict is policy's, "" where it was not asked.
func (s *session) outcome(verdict string, r message.Reply, err error) {
	t := s.tx
	what := "accepted"
	switch {
	case r.Code()/100 == 4:
		what = "deferred"
	case r.Code()/100 == 5:
		what = "rejected"
	case verdict == "quarantine":
		what = "quarantined"
	case verdict == "discard":
		what = "discarded"
	}
	s.srv.Metrics.message(what)
	if !t.log.Enabled(s.ctx, slog.LevelInfo) {
		return
	}
	attrs := []any{
		"login", s.login(), "from", t.from.String(), "recipients", len(t.rcpts), "verdict", verdict,
		"reply", r.String(), "took", s.srv.now().Sub(t.start),
	}
	if t.sink != nil {
		attrs = append(attrs, "size", t.sink.size)
	}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	t.log.Info("message "+what, attrs...)
}
