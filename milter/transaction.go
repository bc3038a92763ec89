package milter

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"io"
	"strings"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// transaction is one message: its facts, and what has been decided about it.
type transaction struct {
	facts    engine.Transaction
	needs    engine.Needs // of the snapshot
	wants    engine.Needs // and of the candidate that only looks on
	rawTo    []string     // accepted recipients as the MTA wrote them, which is how they are removed
	refusal  message.Reply
	header   *message.Header
	decision *engine.Decision // of the message stage
}

// connect takes in who the client is.
func (s *session) connect(ctx context.Context) verdict {
	ev := &s.conn.event
	if name := s.conn.macros.get("daemon_name"); name != "" {
		s.conn.log = s.conn.listener.log.With("daemon", printable(name))
	}
	s.client = engine.Client{IP: ev.clientIP(), Port: ev.port, Name: s.clientName(ev.host)}
	if s.simulated() {
		return verdict{} // asked at end of message
	}
	facts := engine.Transaction{ID: s.newID()}
	s.refresh(&facts, engine.StageConnect)
	facts.Policy = s.conn.server.Engine.Policy()
	d := s.decide(ctx, &facts)
	s.refused = d.Reply
	return verdict{reply: d.Reply}
}

// mail opens a transaction and pins the newest snapshot to it.
func (s *session) mail(ctx context.Context) verdict {
	policy := s.conn.server.Engine.Pin(s.identity())
	tx := &transaction{needs: needsOf(policy), wants: needsOf(policy), refusal: s.refused}
	if policy != nil {
		tx.needs = policy.OwnNeeds()
	}
	s.tx = tx
	tx.facts.Policy, tx.facts.ID, tx.facts.Memo = policy, s.newID(), &engine.Memo{}
	args := s.conn.event.args
	params := parameters(args[1:])
	s.refresh(&tx.facts, engine.StageMail)
	from, err := parsePath(args[0], s.utf8(params))
	if err != nil {
		s.conn.log.Info("sender refused: the address cannot be read", "id", tx.facts.ID, "err", err)
		return s.refuse(replySender)
	}
	tx.facts.Envelope = &engine.Envelope{From: from, FromParams: params}
	if !tx.refusal.IsZero() {
		return s.refuse(tx.refusal)
	}
	if s.simulated() {
		return verdict{}
	}
	return s.refuse(s.decide(ctx, &tx.facts).Reply)
}

// identity is whose transaction it is, for what is tried on some before it comes to all.
func (s *session) identity() string {
	if a := s.auth(); a != nil {
		return a.Login
	}
	return s.client.IP.String()
}

// rcpt asks about one recipient. A refusal that the MTA cannot be told now holds for the whole message.
func (s *session) rcpt(ctx context.Context) verdict {
	tx := s.tx
	if !tx.refusal.IsZero() {
		return s.refuse(tx.refusal)
	}
	args := s.conn.event.args
	s.refresh(&tx.facts, engine.StageRcpt)
	params := parameters(args[1:])
	path, err := parsePath(args[0], s.utf8(tx.facts.Envelope.FromParams))
	reply := replyRecipient
	if err == nil && !path.Null {
		reply = message.Reply{}
		if len(tx.facts.Envelope.To) >= s.conn.server.limits().Recipients {
			s.conn.met(limitRecipients, s.conn.server.limits().Recipients)
			reply = replyRecipients
		}
	}
	if to := (engine.Recipient{Path: path, Params: params}); reply.IsZero() {
		if !s.simulated() {
			tx.facts.Recipient = &to
			reply = s.decide(ctx, &tx.facts).Reply
			tx.facts.Recipient = nil
		}
		if reply.IsZero() {
			tx.facts.Envelope.To = append(tx.facts.Envelope.To, to)
			tx.rawTo = append(tx.rawTo, args[0])
			return verdict{}
		}
	}
	if s.conn.due && !s.simulated() {
		return verdict{reply: reply}
	}
	return s.refuse(reply)
}

// endOfHeader decides where policy reads nothing that is still to come and the mail server waits for an answer, so that a
// refusal spares the body.
func (s *session) endOfHeader(ctx context.Context) verdict {
	tx := s.tx
	switch {
	case !tx.refusal.IsZero():
		return s.refuse(tx.refusal)
	case tx.wants.Body && !s.conn.terms.noBody(), tx.wants.Size && !s.conn.terms.noBody(), tx.needs.Body, tx.needs.Size, s.simulated(), !s.conn.due:
		return verdict{}
	}
	return s.refuse(s.decideMessage(ctx))
}

// endOfMessage decides, unless that was done, and carries the decision out.
func (s *session) endOfMessage(ctx context.Context) verdict {
	tx := s.tx
	if tx.refusal.IsZero() && s.simulated() {
		tx.refusal = s.askEarlierStages(ctx)
	}
	if tx.refusal.IsZero() && tx.decision == nil {
		tx.refusal = s.decideMessage(ctx)
	}
	v := verdict{reply: tx.refusal}
	if v.reply.IsZero() {
		v = s.carryOut(ctx)
	}
	s.tx = nil
	return v
}

// refuse remembers a refusal for the rest of the transaction, and says it where it may be said. Sessions that Postfix
// only simulates are told at end of message.
func (s *session) refuse(r message.Reply) verdict {
	s.tx.refusal = r
	if s.simulated() && s.conn.event.cmd != cmdEOM {
		return verdict{}
	}
	return verdict{reply: r}
}

// askEarlierStages asks connect, mail and rcpt for a simulated session. It has no way to refuse one recipient of
// several, so that one refusal refuses the message.
func (s *session) askEarlierStages(ctx context.Context) message.Reply {
	facts := s.tx.facts
	envelope := *facts.Envelope
	to := envelope.To
	facts.Envelope = nil
	s.refresh(&facts, engine.StageConnect)
	if r := s.decide(ctx, &facts).Reply; !r.IsZero() {
		return r
	}
	envelope.To, facts.Envelope = nil, &envelope
	s.refresh(&facts, engine.StageMail)
	if r := s.decide(ctx, &facts).Reply; !r.IsZero() {
		return r
	}
	for i := range to {
		s.refresh(&facts, engine.StageRcpt)
		envelope.To, facts.Recipient = to[:i], &to[i]
		if r := s.decide(ctx, &facts).Reply; !r.IsZero() {
			return r
		}
	}
	return message.Reply{}
}

// newID makes a transaction id for the time until the MTA tells its queue id.
func (s *session) newID() string {
	var b [10]byte
	if _, err := io.ReadFull(s.conn.server.Rand, b[:]); err != nil {
		_, _ = rand.Read(b[:]) // never fails
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}
