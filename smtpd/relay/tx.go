package relay

import (
	"context"
	"errors"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// smtpTx is a transaction over SMTP or LMTP.
type smtpTx struct {
	h     *SMTP
	env   Envelope
	began time.Time
	slot  bool           // it has one of h's; see SMTP.slot
	c     *conn          // nil before the first Rcpt and after the end
	utf8  bool           // MAIL had SMTPUTF8
	to    []message.Path // accepted
	over  *Error         // why it cannot go on
	ended bool           // Data or Abort has been called
}

var errEnded = errors.New("the transaction has ended already")

// fail ends the transaction for good, and the connection with it where it is in doubt.
func (t *smtpTx) fail(stage string, reply message.Reply, cause error, next bool) *Error {
	t.over = &Error{Reply: reply, Hop: t.h.name, Stage: stage, Cause: cause, next: next, over: true}
	t.release()
	return t.over
}

func (t *smtpTx) release() {
	if t.c != nil {
		t.h.pool.put(t.c)
		t.c = nil
	}
	if t.slot {
		t.h.leave()
		t.slot = false
	}
}

// Rcpt offers a recipient; the first one goes together with MAIL.
func (t *smtpTx) Rcpt(ctx context.Context, to message.Path, params message.Params) error {
	switch {
	case t.over != nil:
		return t.over
	case t.ended:
		return t.fail(stageRcpt, local(), errEnded, false)
	case t.c == nil:
		return t.first(ctx, to, params)
	}
	cmd, no := rcptCommand(nil, to, params, t.utf8, &t.c.caps)
	if no.code != 0 {
		return &Error{Reply: no.reply(), Hop: t.h.name, Stage: stageRcpt}
	}
	if err := t.c.send(ctx, 1, cmd); err != nil {
		return t.fail(stageRcpt, broken(), err, true)
	}
	return t.rcptReply(ctx, to)
}

// first gets a connection and sends MAIL and the first RCPT. A kept connection that turns out dead before it answered
// anything is replaced by a new one, once.
func (t *smtpTx) first(ctx context.Context, to message.Path, params message.Params) error {
	if err := t.h.slot(ctx); err != nil {
		return t.fail(stageConnect, busy(), err, true)
	}
	t.slot = true
	c, reused, err := t.h.get(ctx)
	if err != nil {
		return t.fail(stageConnect, unreachable(), err, true)
	}
	t.c = c
	both, n, e := t.commands(to, params)
	if e != nil {
		return e
	}
	r, err := t.mail(ctx, both, n)
	if reused && (err != nil && dead(err) || err == nil && r.code == 421) {
		c.doubt = true
		t.h.pool.put(c)
		t.c = nil
		t.h.pool.drop()
		if t.c, err = t.h.fresh(ctx); err != nil {
			return t.fail(stageConnect, unreachable(), err, true)
		}
		if both, n, e = t.commands(to, params); e != nil {
			return e
		}
		r, err = t.mail(ctx, both, n)
	}
	if err != nil {
		return t.fail(stageMail, broken(), err, true)
	}
	if r.class() != 2 {
		return t.mailRefused(ctx, r)
	}
	if t.c.owed == 0 { // lock-step
		if err := t.c.send(ctx, 1, both[n:]); err != nil {
			return t.fail(stageRcpt, broken(), err, true)
		}
	}
	return t.rcptReply(ctx, to)
}

// commands builds MAIL, n octets, and RCPT for the connection; what cannot be sent leaves it unused.
func (t *smtpTx) commands(to message.Path, params message.Params) (both []byte, n int, e *Error) {
	mail, utf8, no := mailCommand(make([]byte, 0, 512), t.env, &t.c.caps)
	if no.code != 0 {
		return nil, 0, t.fail(stageMail, no.reply(), nil, false)
	}
	t.utf8 = utf8
	both, no = rcptCommand(mail, to, params, utf8, &t.c.caps)
	if no.code != 0 {
		t.release()
		return nil, 0, &Error{Reply: no.reply(), Hop: t.h.name, Stage: stageRcpt}
	}
	return both, len(mail), nil
}

// mail sends MAIL, the first n octets, with RCPT in the same write where the next hop takes that (RFC 2920), and reads
// MAIL's reply.
func (t *smtpTx) mail(ctx context.Context, both []byte, n int) (serverReply, error) {
	replies := 2
	if !t.c.caps.pipelining {
		replies, both = 1, both[:n]
	}
	t.c.uses++
	if err := t.c.send(ctx, replies, both); err != nil {
		return serverReply{}, err
	}
	return t.c.read(ctx, t.c.times.command())
}

// mailRefused ends the transaction with MAIL's refusal, once the pipelined RCPT has been answered as well.
func (t *smtpTx) mailRefused(ctx context.Context, r serverReply) *Error {
	if t.c.owed > 0 && !t.c.doubt {
		if s, err := t.c.read(ctx, t.c.times.command()); err == nil && s.class() < 4 {
			t.c.doubt = true // a recipient without a sender
		}
	}
	if r.class() < 4 {
		t.c.doubt = true
		return t.fail(stageMail, broken(), protocolError(r.err().Error()), true)
	}
	return t.fail(stageMail, r.reply(), nil, r.class() == 4)
}

func (t *smtpTx) rcptReply(ctx context.Context, to message.Path) error {
	r, err := t.c.read(ctx, t.c.times.command())
	switch {
	case err != nil:
		return t.fail(stageRcpt, broken(), err, true)
	case r.class() == 2:
		t.to = append(t.to, to)
		return nil
	case r.class() == 3:
		t.c.doubt = true
		return t.fail(stageRcpt, broken(), protocolError(r.err().Error()), true)
	case r.code == 421:
		return t.fail(stageRcpt, r.reply(), nil, true)
	}
	return &Error{Reply: r.reply(), Hop: t.h.name, Stage: stageRcpt}
}

// Abort gives up. An open transaction is reset, so that the connection can be kept.
func (t *smtpTx) Abort() {
	if t.ended {
		return
	}
	t.ended = true
	if t.c != nil {
		t.h.o.Metrics.transaction(t.h.name, "aborted")
		t.c.reset()
		t.release()
	}
}
