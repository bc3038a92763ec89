package smtpd

import (
	"errors"
	"fmt"
	"io"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// receive makes a place for the message.
func (t *transaction) receive(s *session) {
	t.spool = s.srv.place.NewSpool(s.limits.MessageBytes + 2)
	t.sink = &sink{dst: t.spool, max: s.limits.MessageBytes, line: s.limits.Line, endless: s.limits.endless()}
}

// endLine ends the last line of a message that came in chunks, which need not have an end (RFC 3030 §4.2). The next hop gets
// the message by DATA, where it must; so policy sees it, and Size counts it, as well. DKIM signatures do not suffer
// (RFC 6376 §3.4.3).
func (t *transaction) endLine() {
	if t.ends.cr {
		t.refused = errBareCR
	} else if t.ends.line > 0 {
		t.sink.lineOf(t.ends.line + 2)
		if _, err := t.spool.Write([]byte("\r\n")); err != nil {
			t.sink.fail(err)
		}
	}
}

// DATA takes the message (RFC 5321 §4.1.1.4), or has it already in chunks, asks policy, and carries out what it says.
func (s *session) DATA() message.Reply {
	t, g := s.tx, s.g
	if t.chunks == 0 {
		t.receive(s)
		g.send(say(354, "", "End data with <CR><LF>.<CR><LF>"))
		t.refused = g.readData(t.sink, &pace{window: s.limits.Data, end: t.until})
	}
	if err := t.refused; err != nil {
		return s.cut(err)
	}
	g.idles, g.tries = 0, 0
	g.messages++
	if t.sink.err != nil {
		return s.refuse(t.sink.err)
	}
	if t.spool.MemoryShort() {
		s.met(limitMemory, s.limits.SpoolMemoryTotal)
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

// refuse answers a message that could not be kept.
func (s *session) refuse(err error) message.Reply {
	switch {
	case errors.Is(err, message.ErrTooLarge), errors.Is(err, errEndless):
		s.met(limitMessageBytes, s.limits.MessageBytes)
	case errors.Is(err, errLine):
		s.met(limitLine, s.limits.Line)
	case errors.Is(err, message.ErrNoRoom):
		s.met(limitDisk, s.limits.SpoolDisk)
	}
	r := refusal(err, s.limits)
	s.outcome("", r, err)
	return r
}

// badHeader answers a message whose header cannot be read, or is beyond a limit.
func (s *session) badHeader(err error) message.Reply {
	r := unreadable(err)
	var h *message.HeaderError
	if errors.As(err, &h) && h.Limit != "" {
		l := s.limits.Header
		s.met(h.Limit, map[string]int{message.LimitBytes: l.Bytes, message.LimitFields: l.Fields, message.LimitFieldBytes: l.FieldBytes}[h.Limit])
		r = say(552, "5.3.4", "Message header: "+h.Error())
	}
	s.outcome("", r, err)
	return r
}

// cut ends a connection in the middle of a message, or because of one.
func (s *session) cut(err error) message.Reply {
	switch {
	case errors.Is(err, errBareCR), errors.Is(err, errBareLF), errors.Is(err, errNUL), errors.Is(err, errEndless):
		r := s.refuse(err)
		s.g.hangUp(r)
		return r
	}
	// The client has stalled or gone: the log says what it is told, if it still listens.
	r := say(451, "4.4.2", "The message did not arrive whole")
	if isTimeout(err) {
		r = replyIdle()
		s.late(limitData, s.limits.Data)
	}
	s.outcome("", r, err)
	s.g.lastWord(err)
	return r
}

// received is a whole message with the facts about it.
type received struct {
	*engine.Message
	block []byte // header block as it came
	spool *message.Spool
}

// read reads the header of the spooled message, if policy wants any of it.
func (s *session) read(t *transaction) (*received, error) {
	now := s.srv.now()
	m := &received{spool: t.spool, Message: &engine.Message{
		Size: t.spool.Size(),
		Generated: engine.Generated{
			Date:      message.FormatDate(now),
			MessageID: message.NewMessageID(now, t.id, s.srv.Hostname),
		},
	}}
	if t.policy != nil && !t.policy.Needs().Header && !t.policy.Needs().Body && len(t.policy.Needs().Edits) == 0 {
		block, err := headerBlock(t.spool, s.limits.Header)
		if err != nil {
			return nil, err
		}
		return m, message.HeaderWithin(block, s.limits.Header)
	}
	var err error
	if m.block, err = headerBlock(t.spool, s.limits.Header); err != nil {
		return nil, err
	}
	if m.Header, err = message.ParseHeader(m.block, s.limits.Header); err != nil {
		return nil, err
	}
	m.Body = func(most int) ([]byte, error) {
		return io.ReadAll(io.LimitReader(t.spool.Section(int64(len(m.block))), int64(most)))
	}
	return m, nil
}

// firstRead holds an ordinary header.
const firstRead = 4 << 10

// headerBlock reads up to and including the empty line, within limits: what is beyond them ParseHeader refuses.
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

// unreadable: the header is wrong, or our own disk is, which is no fault of the message.
func unreadable(err error) message.Reply {
	var h *message.HeaderError
	if errors.As(err, &h) {
		return say(554, "5.6.0", "Message header: "+h.Error())
	}
	return replyFailure()
}

// leaving gives a message as it leaves: Received, the header block with its edits, the body untouched.
func (s *session) leaving(m *received, edits message.Edits) (size int64, body func() io.Reader, err error) {
	top := s.receivedField()
	skip := int64(0)
	if edits.Len() > 0 {
		if m.Header == nil {
			return 0, nil, errors.New("edits without a header")
		}
		edited, err := m.Header.Apply(edits)
		if err != nil {
			return 0, nil, fmt.Errorf("edits: %w", err)
		}
		top = edited.AppendTo(top)
		skip = int64(len(m.block))
	}
	size = int64(len(top)) + m.spool.Size() - skip
	return size, func() io.Reader { return &twoParts{top, m.spool.Section(skip)} }, nil
}

// twoParts reads top and then the rest. io.MultiReader would make a buffer of 32 KiB for each message to copy it through, and not
// use it.
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
