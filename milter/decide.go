package milter

import (
	"context"
	"errors"
	"fmt"
	"strings"

	gomilter "github.com/emersion/go-milter"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// decide asks the engine, and makes sure that a refusal has a reply.
func (s *session) decide(ctx context.Context, t *engine.Transaction) engine.Decision {
	ctx, cancel := context.WithTimeout(ctx, s.conn.server.limits().Callback)
	defer cancel()
	d := s.conn.server.Engine.Decide(ctx, t)
	switch d.Verdict {
	case engine.Accept, engine.Quarantine, engine.Discard:
		d.Reply = message.Reply{}
	case engine.Reject:
		if d.Reply.IsZero() {
			d.Reply = replyReject
		}
	default:
		if d.Reply.IsZero() {
			d.Reply = replyDefer
		}
	}
	if d.Err != nil {
		s.conn.log.Warn("no decision", "id", t.ID, "err", d.Err)
	}
	return d
}

// decideMessage takes the decision of the message stage and returns the refusal, if it is one.
func (s *session) decideMessage(ctx context.Context) message.Reply {
	tx := s.tx
	if r := s.overLimit(); !r.IsZero() {
		return r
	}
	s.refresh(&tx.facts, engine.StageMessage)
	if err := s.readMessage(); err != nil {
		return s.fail(ctx, "message", err, false).Reply
	}
	if lacking := s.lacking(); lacking != "" {
		return s.fail(ctx, "missing-fact", fmt.Errorf("policy reads %s, which was not asked of the mail server when this connection began; its next connection brings it", lacking), true).Reply
	}
	d := s.decide(ctx, &tx.facts)
	tx.decision = &d
	return d.Reply
}

// overLimit is the refusal of a message that was not kept whole, because it passed a limit.
func (s *session) overLimit() message.Reply {
	l, over := s.conn.server.limits(), s.conn.msg.over
	switch over {
	case "":
		return message.Reply{}
	case limitMemory:
		s.conn.met(over, l.Memory)
		return replyStorage
	case limitDisk:
		s.conn.met(over, l.Disk)
		return replyStorage
	case message.LimitFields:
		s.conn.met(over, l.HeaderFields)
	default:
		s.conn.met(over, l.HeaderBytes)
	}
	return replyHeaderSize
}

// readMessage makes the message facts of what was collected.
func (s *session) readMessage() error {
	tx, c := s.tx, s.conn
	l := c.server.limits()
	h, err := message.NewHeader(c.msg.fields, c.terms.leadingSpace(), message.Limits{Bytes: l.HeaderBytes, Fields: l.HeaderFields, FieldBytes: l.HeaderBytes})
	if err != nil {
		return err
	}
	tx.header = h
	now := tx.facts.Now
	m := &engine.Message{Header: h, Size: -1, Generated: engine.Generated{
		MessageID: message.NewMessageID(now, tx.facts.ID, s.hostname()), Date: message.FormatDate(now),
	}}
	if !c.terms.noBody() {
		m.Body = c.msg.readBody
		if c.event.cmd == cmdEOM && !c.terms.maySkip() {
			m.Size = int64(len(h.AppendTo(nil))) + c.msg.bodySize
		}
	}
	tx.facts.Message = m
	tx.facts.Unknown = s.unknown(&tx.facts)
	return nil
}

// lacking names a fact that the pinned snapshot reads and this connection's terms leave out; "" where there is none.
func (s *session) lacking() string {
	n, m := s.tx.needs, s.tx.facts.Message
	switch {
	case n.Body && m.Body == nil:
		return "the body"
	case n.Size && m.Size < 0:
		return "the size"
	}
	return ""
}

// fail is the failure verdict for what the engine cannot see. retry says that a new connection would not have failed.
func (s *session) fail(ctx context.Context, kind string, err error, retry bool) engine.Decision {
	c := s.conn
	c.listener.metrics.failures.WithLabelValues(kind).Inc()
	c.log.Error("a decision could not be taken or carried out", "id", s.tx.facts.ID, "kind", kind, "err", err)
	d := engine.Decision{Verdict: c.listener.config.Failure, Err: err, Stage: engine.StageMessage, Revision: s.revision(), Reasons: []engine.Reason{{Set: "error", Rule: "error." + kind}}}
	switch {
	case d.Verdict == engine.Reject:
		d.Reply = replyReject
	case d.Verdict == engine.Accept:
	case retry:
		d.Reply = replyReconnect
	default:
		d.Reply = replyDefer
	}
	s.tx.decision = &d
	if r := c.server.Engine.Recorder; r != nil {
		// The engine's own record says what policy decided; this one says what became of it.
		if err := r.Record(ctx, engine.Record{Transaction: &s.tx.facts, Decision: &d, Input: (*engine.Input)(nil)}); err != nil {
			c.log.Error("the decision could not be recorded", "id", s.tx.facts.ID, "err", err)
		}
	}
	return d
}

// revision of the pinned snapshot.
func (s *session) revision() string {
	if p := s.tx.facts.Policy; p != nil {
		return p.Revision()
	}
	return ""
}

// carryOut turns an accepting decision into operations, which go out with the answer to end of message.
func (s *session) carryOut(ctx context.Context) verdict {
	tx, d := s.tx, s.tx.decision
	if d.Verdict == engine.Discard {
		return verdict{discard: true}
	}
	ops, err := s.operations(d)
	if err == nil {
		err = s.permitted(ops)
	}
	if err != nil {
		kind := "edits"
		if errors.Is(err, errWithheld) {
			kind = "missing-action"
		}
		return verdict{reply: s.fail(ctx, kind, err, kind == "missing-action").Reply}
	}
	for _, op := range ops {
		s.conn.out = op.appendTo(s.conn.out)
	}
	if len(ops) > 0 {
		s.conn.log.Debug("edits", "id", tx.facts.ID, "operations", len(ops))
	}
	return verdict{}
}

// operations are what the MTA has to do for d: envelope, header, quarantine.
func (s *session) operations(d *engine.Decision) ([]operation, error) {
	tx := s.tx
	var ops []operation
	if d.Edits.Len() > 0 {
		after, changed := tx.facts.Envelope.Apply(d.Edits)
		if changed {
			ops = envelopeOperations(tx.facts.Envelope, tx.rawTo, after)
		}
		edited, err := tx.header.Apply(d.Edits)
		if err != nil {
			return nil, err
		}
		ops = append(ops, headerOperations(tx.header, edited, dialect{leading: s.conn.terms.leadingSpace(), sendmail: !s.postfix()})...)
	}
	if d.Verdict == engine.Quarantine {
		ops = append(ops, operation{code: opQuarantine, text: []string{quarantineReason(d)}})
	}
	return ops, nil
}

// errWithheld says that the MTA did not grant an action.
var errWithheld = errors.New("the mail server does not allow an operation")

// permitted checks every operation before the first is sent.
func (s *session) permitted(ops []operation) error {
	for _, op := range ops {
		if need := op.action(); s.conn.terms.actions&need != need {
			return fmt.Errorf("%w: %s", errWithheld, op)
		}
		if op.size() > maxFrame {
			return fmt.Errorf("operation %s is larger than a frame may be", op)
		}
	}
	return nil
}

// quarantineReason names the rules, for the postmaster who reads the queue.
func quarantineReason(d *engine.Decision) string {
	var rules []string
	for _, r := range d.Reasons {
		if r.Set == "quarantine" {
			rules = append(rules, printable(r.Rule))
		}
	}
	const most = 200
	reason := strings.Join(rules, "; ")
	if reason == "" {
		reason = "held by policy"
	}
	return reason[:min(len(reason), most)]
}

// action is what an operation needs to have been granted.
func (o operation) action() gomilter.OptAction {
	switch o.code {
	case opAddHeader, opInsertHead:
		return gomilter.OptAddHeader
	case opChangeHead:
		return gomilter.OptChangeHeader
	case opChangeFrom:
		return gomilter.OptChangeFrom
	case opAddRcpt:
		return gomilter.OptAddRcpt
	case opDeleteRcpt:
		return gomilter.OptRemoveRcpt
	case opQuarantine:
		return gomilter.OptQuarantine
	}
	return ^gomilter.OptAction(0)
}
