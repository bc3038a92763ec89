package milter

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/milter/wire"
)

// Replies of this package. They do not name the program.
var (
	replyPanic      = message.MustReply(421, "4.3.0", "Temporary failure, try again later")
	replyDefer      = message.MustReply(451, "4.3.0", "Temporary failure, try again later")
	replyReconnect  = message.MustReply(421, "4.3.0", "Temporary failure, try again later")
	replyReject     = message.MustReply(554, "5.3.0", "Transaction failed")
	replyRecipients = message.MustReply(452, "4.5.3", "Too many recipients")
	replyStorage    = message.MustReply(452, "4.3.1", "Insufficient system storage, try again later")
	replyHeaderSize = message.MustReply(552, "5.3.4", "Message header is too large")
)

// transaction is one message: its facts, its content and what has been decided about it.
type transaction struct {
	*connection
	facts    engine.Transaction
	needs    engine.Needs // of the pinned policy
	allNeeds engine.Needs // of the pinned policy and the candidates beside it
	paths    []string     // of accepted recipients as the mail server wrote them, which is how they are removed
	content  content
	refusal  message.Reply // holds for the rest of the transaction
	header   *message.Header
	decision *engine.Decision // of the message stage
}

// decide asks the engine and makes sure that a refusal has a reply.
func (c *connection) decide(t *engine.Transaction) engine.Decision {
	ctx, cancel := context.WithTimeout(c.ctx, c.limits.Callback)
	defer cancel()
	d := c.engine.Decide(ctx, t)
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
		c.log.Warn("no decision", "id", t.ID, "err", d.Err)
	}
	return d
}

// decideMessage takes the decision of the message stage. whole says that the message has been received whole. The result
// is zero unless the message is refused.
func (tx *transaction) decideMessage(whole bool) message.Reply {
	if r := tx.overLimit(); !r.IsZero() {
		return r
	}
	tx.setFacts(&tx.facts, engine.StageMessage)
	if err := tx.setMessage(whole); err != nil {
		return tx.fail("message", err, false)
	}
	if fact := tx.missingFact(); fact != "" {
		err := fmt.Errorf("policy reads %s, but the mail server was not asked for it when this connection began; its next connection will send it", fact)
		return tx.fail("missing-fact", err, true)
	}
	d := tx.decide(&tx.facts)
	tx.decision = &d
	return d.Reply
}

// overLimit is the refusal of a message that was not kept whole because it exceeds a limit.
func (tx *transaction) overLimit() message.Reply {
	var value any
	reply := replyHeaderSize
	switch over := tx.content.over; over {
	case "":
		return message.Reply{}
	case limitMemory:
		value, reply = tx.limits.Memory, replyStorage
	case limitDisk:
		value, reply = tx.limits.Disk, replyStorage
	case message.LimitFields:
		value = tx.limits.HeaderFields
	default:
		value = tx.limits.HeaderBytes
	}
	tx.reporter.Met(tx.log, tx.content.over, value, "id", tx.facts.ID)
	return reply
}

// setMessage sets the facts of the message from its content.
func (tx *transaction) setMessage(whole bool) error {
	terms := tx.wire.Terms()
	limits := message.Limits{Bytes: tx.limits.HeaderBytes, Fields: tx.limits.HeaderFields, FieldBytes: tx.limits.HeaderBytes}
	h, err := message.NewHeader(tx.content.fields, terms.LeadingSpace(), limits)
	if err != nil {
		return err
	}
	tx.header = h
	now := tx.facts.Now
	m := &engine.Message{Header: h, Size: -1, Generated: engine.Generated{
		MessageID: message.NewMessageID(now, tx.facts.ID, tx.serverName()), Date: message.FormatDate(now),
	}}
	if !terms.NoBody() {
		m.Body = tx.content.readBody
		if whole && !terms.MaySkip() {
			m.Size = int64(len(h.AppendTo(nil))) + tx.content.bodyBytes
		}
	}
	tx.facts.Message = m
	tx.facts.Unknown = tx.unknown(&tx.facts)
	return nil
}

// missingFact names a fact that the pinned policy reads and that was not negotiated for this connection; "" if there is none.
func (tx *transaction) missingFact() string {
	switch m := tx.facts.Message; {
	case tx.needs.Body && m.Body == nil:
		return "the body"
	case tx.needs.Size && m.Size < 0:
		return "the size"
	}
	return ""
}

// fail makes the failure verdict the decision, for a failure that the engine cannot see, and returns its reply. retry says
// that the message would not have failed over a new connection.
func (tx *transaction) fail(kind string, err error, retry bool) message.Reply {
	tx.metrics.failures.WithLabelValues(tx.Name, kind).Inc()
	tx.log.Error("a decision could not be taken or carried out", "id", tx.facts.ID, "kind", kind, "err", err)
	d := engine.Decision{Verdict: tx.Failure, Err: err, Stage: engine.StageMessage, Reasons: []engine.Reason{{Set: "error", Rule: "error." + kind}}}
	if p := tx.facts.Policy; p != nil {
		d.Revision = p.Revision()
	}
	switch {
	case d.Verdict == engine.Reject:
		d.Reply = replyReject
	case d.Verdict == engine.Accept:
	case retry:
		d.Reply = replyReconnect
	default:
		d.Reply = replyDefer
	}
	tx.decision = &d
	if r := tx.engine.Recorder; r != nil {
		// The engine's own record says what policy decided; this one says what happened to the message.
		if err := r.Record(tx.ctx, engine.Record{Transaction: &tx.facts, Decision: &d, Input: (*engine.Input)(nil)}); err != nil {
			tx.log.Error("the decision could not be recorded", "id", tx.facts.ID, "err", err)
		}
	}
	return d.Reply
}

// answer carries out an accepting decision: all of its operations, or the failure verdict.
func (tx *transaction) answer() wire.Answer {
	d := tx.decision
	if d.Verdict == engine.Discard {
		return wire.Answer{Discard: true}
	}
	ops, err := tx.operations(d)
	if err != nil {
		return wire.Answer{Reply: tx.fail("edits", err, false)}
	}
	switch err := tx.wire.Terms().Check(ops); {
	case errors.Is(err, wire.ErrWithheld):
		return wire.Answer{Reply: tx.fail("missing-action", err, true)}
	case err != nil:
		return wire.Answer{Reply: tx.fail("edits", err, false)}
	}
	if len(ops) > 0 {
		tx.log.Debug("edits", "id", tx.facts.ID, "operations", len(ops))
	}
	return wire.Answer{Operations: ops}
}

// operations are what the mail server has to do for d: envelope, header, quarantine.
func (tx *transaction) operations(d *engine.Decision) ([]wire.Operation, error) {
	var ops []wire.Operation
	if d.Edits.Len() > 0 {
		after, changed := tx.facts.Envelope.Apply(d.Edits)
		if changed {
			ops = envelopeOperations(tx.facts.Envelope, tx.paths, after)
		}
		edited, err := tx.header.Apply(d.Edits)
		if err != nil {
			return nil, err
		}
		ops = append(ops, headerOperations(tx.header, edited, dialect{leading: tx.wire.Terms().LeadingSpace(), sendmail: !tx.postfix()})...)
	}
	if d.Verdict == engine.Quarantine {
		ops = append(ops, wire.Operation{Op: wire.Quarantine, Text: []string{quarantineReason(d)}})
	}
	return ops, nil
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
