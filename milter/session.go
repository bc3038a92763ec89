package milter

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/milter/wire"
)

// session is the conversation over one connection, with a method for each verb. It keeps facts by scope: those of the client
// in connection until the mail server brings another client, those of a message in tx.
type session struct {
	connection
	refused message.Reply // a refusal at CONNECT holds for all messages of the client
	tx      *transaction  // nil between transactions
}

var _ wire.Session = (*session)(nil)

// Negotiate implements wire.Session. The needs of candidates beside the active policy count as well, because it is not known
// yet whose transactions will come.
func (s *session) Negotiate(offer wire.Terms) wire.Needs {
	needs, ok := s.engine.Needs()
	if !ok {
		needs = needsOf(nil)
	}
	if p := s.engine.Policy(); p != nil {
		s.withheld.report(s.log, s.metrics, s.Name, p.Revision(), missingEdits(offer.Allows, needs))
	}
	return wireNeeds(needs)
}

// Handle implements wire.Session. A panic is answered with 421 and refuses all further messages of the client. If no answer
// is expected, the connection is cut.
func (s *session) Handle(c *wire.Command) (answer wire.Answer) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic in a milter handler", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			s.metrics.failures.WithLabelValues(s.Name, "panic").Inc()
			if !c.Due {
				s.wire.Cut()
			}
			s.refused = replyPanic
			if s.tx != nil {
				s.tx.refusal = replyPanic
			}
			answer = wire.Answer{Reply: replyPanic}
		}
	}()
	switch c.Verb {
	case wire.Connect:
		return s.connect(c)
	case wire.Helo:
		s.client.EHLO = printable(c.Helo)
	case wire.Mail:
		return s.mail(c)
	case wire.Rcpt:
		return s.rcpt(c)
	case wire.EndOfHeader:
		return s.endOfHeader(c)
	case wire.EndOfMessage:
		return s.endOfMessage(c)
	case wire.Abort:
		s.endTransaction()
	case wire.NewClient:
		s.endTransaction()
		s.client, s.refused = engine.Client{}, message.Reply{}
	}
	return wire.Answer{}
}

// connect learns who the client is and asks postern.connect.
func (s *session) connect(c *wire.Command) wire.Answer {
	if name := s.wire.Macro("daemon_name"); name != "" {
		s.log = s.settings.log.With("daemon", printable(name))
	}
	s.client = engine.Client{IP: c.IP(), Port: c.Port, Name: s.clientName(c.Host)}
	if s.simulated() {
		return wire.Answer{} // asked at end of message
	}
	facts := engine.Transaction{ID: s.newID(), Policy: s.engine.Policy()}
	s.setFacts(&facts, engine.StageConnect)
	s.refused = s.decide(&facts).Reply
	return wire.Answer{Reply: s.refused}
}

// mail begins a transaction, pins the newest policy to it and asks postern.mail.
func (s *session) mail(c *wire.Command) wire.Answer {
	tx := &transaction{connection: &s.connection, refusal: s.refused, content: content{limits: &s.limits, place: s.place}}
	s.tx = tx
	policy := s.engine.Pin(s.identity())
	tx.needs, tx.allNeeds = needsOf(policy), needsOf(policy)
	if policy != nil {
		tx.needs = policy.OwnNeeds()
	}
	tx.facts.Policy, tx.facts.ID = policy, s.newID()
	s.setFacts(&tx.facts, engine.StageMail)
	params := parameters(c.Params)
	from, err := parsePath(c.Path)
	if err != nil {
		s.log.Info("the sender's address cannot be read; policy decides about it as it came", "id", tx.facts.ID, "err", err)
	}
	tx.facts.Envelope = &engine.Envelope{From: from, FromParams: params}
	if tx.refusal.IsZero() && !s.simulated() {
		tx.refusal = s.decide(&tx.facts).Reply
	}
	return s.refuse(c, tx.refusal)
}

// rcpt asks postern.rcpt about one recipient. A refusal that cannot be answered now holds for the whole message.
func (s *session) rcpt(c *wire.Command) wire.Answer {
	tx := s.tx
	if !tx.refusal.IsZero() {
		return s.refuse(c, tx.refusal)
	}
	s.setFacts(&tx.facts, engine.StageRcpt)
	path, err := parsePath(c.Path)
	if err == nil && path.Null {
		path, err = message.Path{Unreadable: "<>"}, errors.New("a recipient needs an address")
	}
	if err != nil {
		s.log.Info("a recipient's address cannot be read; policy decides about it as it came", "id", tx.facts.ID, "err", err)
	}
	to := engine.Recipient{Path: path, Params: parameters(c.Params)}
	var reply message.Reply
	switch {
	case len(tx.facts.Envelope.To) >= s.limits.Recipients:
		s.reporter.Met(s.log, limitRecipients, s.limits.Recipients, "id", tx.facts.ID)
		reply = replyRecipients
	case !s.simulated():
		tx.facts.Recipient = &to
		reply = s.decide(&tx.facts).Reply
		tx.facts.Recipient = nil
	}
	switch {
	case reply.IsZero():
		tx.facts.Envelope.To = append(tx.facts.Envelope.To, to)
		tx.paths = append(tx.paths, c.Path)
		return wire.Answer{}
	case c.Due && !s.simulated():
		return wire.Answer{Reply: reply}
	}
	return s.refuse(c, reply)
}

// Header implements wire.Session.
func (s *session) Header(name, value string) { s.tx.content.addField(name, value) }

// endOfHeader asks postern.message if policy reads nothing that is still to come and the mail server waits for an answer, so
// that a refused body is not sent.
func (s *session) endOfHeader(c *wire.Command) wire.Answer {
	tx := s.tx
	if !tx.refusal.IsZero() {
		return s.refuse(c, tx.refusal)
	}
	needsMore := tx.needs.Body || tx.needs.Size || (tx.allNeeds.Body || tx.allNeeds.Size) && !s.wire.Terms().NoBody()
	if needsMore || s.simulated() || !c.Due {
		return wire.Answer{}
	}
	return s.refuse(c, tx.decideMessage(false))
}

// Body implements wire.Session.
func (s *session) Body(piece []byte) (enough bool) {
	enough, err := s.tx.content.addBody(piece)
	if err != nil {
		s.log.Error("a message body could not be kept", "err", err)
	}
	return enough
}

// endOfMessage asks postern.message, unless that was done, and carries the decision out.
func (s *session) endOfMessage(*wire.Command) wire.Answer {
	tx := s.tx
	defer s.endTransaction()
	if tx.refusal.IsZero() && s.simulated() {
		tx.refusal = s.decideEarlierStages()
	}
	if tx.refusal.IsZero() && tx.decision == nil {
		tx.refusal = tx.decideMessage(true)
	}
	if !tx.refusal.IsZero() {
		return wire.Answer{Reply: tx.refusal}
	}
	return tx.answer()
}

// refuse remembers a refusal for the rest of the transaction; r may be zero. In a session that Postfix simulates the answer
// has to wait for the end of the message.
func (s *session) refuse(c *wire.Command, r message.Reply) wire.Answer {
	s.tx.refusal = r
	if s.simulated() && c.Verb != wire.EndOfMessage {
		return wire.Answer{}
	}
	return wire.Answer{Reply: r}
}

// decideEarlierStages asks postern.connect, postern.mail and postern.rcpt for a simulated session. Such a session cannot
// refuse one recipient of several, so the first refusal refuses the message.
func (s *session) decideEarlierStages() message.Reply {
	facts := s.tx.facts
	envelope := *facts.Envelope
	to := envelope.To
	facts.Envelope = nil
	s.setFacts(&facts, engine.StageConnect)
	if r := s.decide(&facts).Reply; !r.IsZero() {
		return r
	}
	envelope.To, facts.Envelope = nil, &envelope
	s.setFacts(&facts, engine.StageMail)
	if r := s.decide(&facts).Reply; !r.IsZero() {
		return r
	}
	for i := range to {
		s.setFacts(&facts, engine.StageRcpt)
		envelope.To, facts.Recipient = to[:i], &to[i]
		if r := s.decide(&facts).Reply; !r.IsZero() {
			return r
		}
	}
	return message.Reply{}
}

// endTransaction forgets the open transaction, if there is one.
func (s *session) endTransaction() {
	if s.tx != nil {
		s.tx.content.release()
		s.tx = nil
	}
}

// End implements wire.Session: it logs and counts why the connection ends.
func (s *session) End(reason error) {
	var id []any
	if s.tx != nil {
		id = []any{"id", s.tx.facts.ID}
	}
	switch {
	case reason == nil && s.tx != nil:
		s.log.Debug("the mail server disconnected inside a transaction", id...)
	case reason == nil:
	case errors.Is(reason, wire.ErrProtocol):
		s.metrics.protocolErrors.WithLabelValues(s.Name).Inc()
		s.log.Warn("connection closed: the mail server broke the protocol", "err", reason)
	case errors.Is(reason, wire.ErrFrame):
		s.reporter.Met(s.log, limitFrame, s.limits.Frame, id...)
		s.log.Warn("connection closed: the mail server was silent for too long", "err", reason)
	case errors.Is(reason, wire.ErrIdle):
		s.reporter.Met(s.log, limitIdle, s.limits.Idle, id...)
		s.log.Warn("connection closed: the mail server was silent for too long", "err", reason)
	default:
		s.log.Warn("connection lost", "err", reason)
	}
	s.endTransaction()
}

// newID makes a transaction id, which holds until the mail server sends its queue id.
func (s *session) newID() string {
	var b [10]byte
	if _, err := io.ReadFull(s.random, b[:]); err != nil {
		_, _ = rand.Read(b[:]) // never fails
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}
