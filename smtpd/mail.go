package smtpd

import (
	"log/slog"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/relay"
)

// transaction is one message under way, from an accepted MAIL to its end.
type transaction struct {
	id     string
	log    *slog.Logger
	start  time.Time
	until  time.Time      // by the system's clock: it must have come whole; see Limits.Transaction
	policy *engine.Policy // every question of the transaction goes to one snapshot
	memo   engine.Memo
	from   message.Path
	params message.Params
	rcpts  []engine.Recipient
	tried  bool // a recipient was offered, taken or not

	// The transaction at the next hop, once there is a reason for one.
	hop     relay.Tx
	offered []engine.Recipient // accepted by the next hop, in order
	failed  error              // the next hop is lost to this transaction: every recipient hears the same

	// The message.
	spool   *message.Spool
	sink    *sink
	ends    lineEnds
	chunks  int   // BDAT commands
	refused error // the octets themselves are refused
}

func (t *transaction) utf8() bool {
	_, ok := t.params["SMTPUTF8"]
	return ok
}

func (t *transaction) facts(stage engine.Stage) *engine.Transaction {
	return &engine.Transaction{
		ID: t.id, Stage: stage, Policy: t.policy, Memo: &t.memo,
		Envelope: &engine.Envelope{From: t.from, FromParams: t.params, To: t.rcpts},
	}
}

// close frees what the transaction holds, the next hop last: that is somebody else's code. It delivers nothing, unless it
// has said that it did.
func (t *transaction) close(s *session) {
	if t.spool != nil {
		t.spool.Close()
		t.spool = nil
	}
	s.srv.Metrics.transaction(-1)
	if t.hop != nil {
		t.hop.Abort()
		t.hop = nil
	}
}

// MAIL opens a transaction (RFC 5321 §4.1.1.2) and pins the policy for the whole of it.
func (s *session) MAIL(from message.Path, params message.Params) message.Reply {
	now := s.srv.now()
	t := &transaction{id: s.srv.ids.next(now), start: now, policy: s.srv.Engine.Pin(s.identity()), from: from, params: params}
	t.until = time.Now().Add(s.limits.Transaction)
	t.log = s.log.With("id", t.id)
	d := s.decide(t.facts(engine.StageMail))
	if d.Verdict == engine.Reject || d.Verdict == engine.Defer {
		r := orFailure(d.Reply)
		t.log.Info("sender refused", "login", s.login(), "from", from.String(), "reply", r.String())
		return r
	}
	s.tx = t
	s.srv.Metrics.transaction(1)
	return say(250, "2.1.0", "Ok")
}

// RCPT adds a recipient (RFC 5321 §4.1.1.3), if policy and the next hop take it.
func (s *session) RCPT(to message.Path, params message.Params) message.Reply {
	t := s.tx
	rcpt := engine.Recipient{Path: to, Params: params}
	facts := t.facts(engine.StageRcpt)
	facts.Recipient = &rcpt
	d := s.decide(facts)
	if d.Verdict == engine.Reject || d.Verdict == engine.Defer {
		r := orFailure(d.Reply)
		t.log.Info("recipient refused", "login", s.login(), "to", to.String(), "reply", r.String())
		return r
	}
	if t.ready(to) {
		if err := s.offer(rcpt); err != nil {
			r, _ := hopError(err)
			t.log.Info("recipient refused by the next hop", "to", to.String(), "reply", r.String(), "error", err)
			return r
		}
	}
	t.rcpts = append(t.rcpts, rcpt)
	return say(250, "2.1.5", "Ok")
}

// ready says whether an address can go to the next hop as it is. What lacks a domain (RFC 6409 §6.1) gets one from policy,
// which answers at the end of the message only.
func (t *transaction) ready(to message.Path) bool {
	return to.Domain != "" && (t.from.Null || t.from.Domain != "")
}

// offer gives one recipient to the next hop, opening the transaction there first.
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
	if _, e := hopError(err); e == nil || e.Stage != "rcpt" { // not this recipient: the transaction is lost
		t.hop.Abort()
		t.hop, t.offered, t.failed = nil, nil, err
	}
	return err
}

// hopParams are the parameters for the next hop. BODY=8BITMIME always: whether a message has 8-bit octets shows only when
// it is here, often without having been declared, and the next hop's MAIL is given long before. Where the message turns
// out to need it and the next hop does not have it, relay refuses before anything is sent.
func hopParams(p message.Params) message.Params {
	out := message.Params{"BODY": "8BITMIME"}
	for _, key := range []string{"SMTPUTF8", "SIZE", "RET", "ENVID"} {
		if v, ok := p[key]; ok {
			out[key] = v
		}
	}
	return out
}

func (s *session) login() string {
	if s.auth == nil {
		return ""
	}
	return s.auth.Login
}

// identity is whose transaction it is, for what is tried on some before it comes to all.
func (s *session) identity() string {
	if s.auth != nil {
		return s.auth.Login
	}
	return s.client.IP.String()
}
