package smtpd

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/relay"
)

// spooledMessage is a whole message with the facts about it.
type spooledMessage struct {
	*engine.Message
	start int64  // where the message begins in spool: behind a line of an mbox file
	block []byte // the header block as it came; nil: policy does not need it
	spool *message.Spool
}

// read reads the header of the spooled message, if policy needs it. Otherwise it only checks the limits of the header.
func (s *session) read(t *transaction) (*spooledMessage, error) {
	now := s.srv.now()
	m := &spooledMessage{spool: t.spool, Message: &engine.Message{
		Size: t.spool.Size(),
		Generated: engine.Generated{
			Date:      message.FormatDate(now),
			MessageID: message.NewMessageID(now, t.id, s.srv.Hostname),
		},
	}}
	block, err := headerBlock(t.spool, s.limits.Header)
	if err != nil {
		return nil, err
	}
	if n := message.MboxLine(block); n > 0 {
		m.MboxLine, m.start, block = string(block[:n-2]), int64(n), block[n:]
		m.Size -= m.start
	}
	if t.policy != nil && !t.policy.Needs().Header && !t.policy.Needs().Body && len(t.policy.Needs().Edits) == 0 {
		return m, message.HeaderWithin(block, s.limits.Header)
	}
	m.block = block
	if m.Header, err = message.ParseHeader(m.block, s.limits.Header); err != nil {
		return nil, err
	}
	m.Body = func(most int) ([]byte, error) {
		return io.ReadAll(io.LimitReader(t.spool.Section(m.start+int64(len(m.block))), int64(most)))
	}
	return m, nil
}

// firstRead is enough for an ordinary header.
const firstRead = 4 << 10

// headerBlock reads up to and including the empty line. It reads a little more than the limit: ParseHeader refuses that.
func headerBlock(spool *message.Spool, l message.Limits) ([]byte, error) {
	r := io.LimitReader(spool.Section(0), int64(l.Bytes)+1)
	block := make([]byte, 0, min(firstRead, spool.Size())+1)
	for {
		n, err := r.Read(block[len(block):cap(block)])
		block = block[:len(block)+n]
		if end, whole := message.HeaderEnd(block); whole {
			return block[:end], nil
		}
		if err == io.EOF {
			return block, nil
		}
		if err != nil {
			return nil, err
		}
		if len(block) == cap(block) {
			block = append(block, make([]byte, len(block))...)[:len(block)]
		}
	}
}

// deliver passes an accepted message, as policy has edited it, to the next hop. The client gets 250 only after the next hop's 250,
// because 250 makes its sender responsible for the message (RFC 5321 §6.1).
func (s *session) deliver(m *spooledMessage, d engine.Decision) message.Reply {
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

// onError is the reply if policy's decision cannot be carried out.
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

// readdress changes the next hop's transaction to the envelope as policy has edited it. New recipients, and those that had no
// domain, are offered. If the sender has changed, or a recipient that was offered is gone, the transaction begins anew. If the next
// hop refuses a recipient now, the whole message is refused: the client could not be told which recipient was lost.
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

// quarantine stores a message, as policy has edited it, for an administrator. The client gets the same reply as for acceptance.
func (s *session) quarantine(m *spooledMessage, d engine.Decision) message.Reply {
	t := s.tx
	err := s.hold(m, d)
	r := say(250, "2.0.0", "Ok: accepted as "+t.id)
	if err != nil {
		r = replyFailure()
	}
	s.outcome("quarantine", r, err)
	return r
}

var errNoQuarantine = errors.New("policy quarantines the message, but no quarantine is configured")

func (s *session) hold(m *spooledMessage, d engine.Decision) error {
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

// outcome logs and counts what happened to a message. verdict is policy's; "": policy was not asked.
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
	if t.body != nil {
		attrs = append(attrs, "size", t.body.Size())
	}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	t.log.Info("message "+what, attrs...)
}

// leaving returns the message as it leaves: Received, the header block with its edits, and the body unchanged.
func (s *session) leaving(m *spooledMessage, edits message.Edits) (size int64, body func() io.Reader, err error) {
	top := s.receivedField()
	skip := m.start
	if edits.Len() > 0 {
		if m.Header == nil {
			return 0, nil, errors.New("edits without a header")
		}
		edited, err := m.Header.Apply(edits)
		if err != nil {
			return 0, nil, fmt.Errorf("edits: %w", err)
		}
		top = edited.AppendTo(top)
		skip += int64(len(m.block))
	}
	size = int64(len(top)) + m.spool.Size() - skip
	return size, func() io.Reader { return &twoParts{top, m.spool.Section(skip)} }, nil
}

// twoParts reads top and then rest. io.MultiReader would allocate a buffer of 32 KiB for each message and not use it.
type twoParts struct {
	top  []byte
	rest io.Reader
}

func (t *twoParts) Read(p []byte) (int, error) {
	if len(t.top) > 0 {
		n := copy(p, t.top)
		t.top = t.top[n:]
		return n, nil
	}
	return t.rest.Read(p)
}

func (t *twoParts) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(t.top)
	t.top = t.top[n:]
	if err != nil {
		return int64(n), err
	}
	more, err := io.Copy(w, t.rest)
	return int64(n) + more, err
}
