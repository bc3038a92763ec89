package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// Begin implements Hop. Nothing is sent before the first Rcpt, so that MAIL and RCPT go in one write.
func (h *SMTP) Begin(_ context.Context, env Envelope) (Tx, error) {
	return &smtpTx{h: h, env: env, began: time.Now()}, nil
}

// smtpTx is a transaction over SMTP or LMTP.
type smtpTx struct {
	h        *SMTP
	env      Envelope
	began    time.Time
	slot     bool        // it has one of h's slots
	c        *conn       // nil before the first Rcpt and after the end
	utf8     bool        // MAIL had SMTPUTF8
	to       []recipient // accepted
	restarts int         // how often it has begun again
	over     *Error      // why it cannot go on
	ended    bool        // Data or Abort has been called
}

// maxRestarts bounds how often a transaction begins again because the next hop closed its connection.
const maxRestarts = 10

// fail ends the transaction. next says that another target may be tried.
func (t *smtpTx) fail(stage string, reply message.Reply, cause error, next bool) *Error {
	return t.settle(t.failure(stage, reply, cause, next))
}

// failure is an error that is to end the transaction.
func (t *smtpTx) failure(stage string, reply message.Reply, cause error, next bool) *Error {
	return &Error{Reply: reply, Hop: t.h.name, Stage: stage, Cause: cause, next: next, over: true}
}

// lost is the failure of the connection before anything of the message was sent.
func (t *smtpTx) lost(stage string, err error) *Error {
	e := t.failure(stage, broken(), err, true)
	e.closed = dead(err)
	return e
}

// refused is the next hop's refusal r. over says that it is about the whole transaction.
func (t *smtpTx) refused(stage string, r serverReply, over bool) *Error {
	if r.class() < 4 {
		t.c.doubt = true
		return t.lost(stage, protocolError(r.err().Error()))
	}
	e := &Error{Reply: r.reply(), Hop: t.h.name, Stage: stage, over: over || r.code == 421, closed: r.closing()}
	e.next = e.over && r.class() == 4
	if e.closed {
		t.c.doubt = true
	}
	return e
}

// settle ends the transaction if e is about the whole of it.
func (t *smtpTx) settle(e *Error) *Error {
	if e.over {
		t.over = e
		t.release()
	}
	return e
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

// Rcpt implements Tx. The first recipient is sent together with MAIL.
func (t *smtpTx) Rcpt(ctx context.Context, to message.Path, params message.Params) error {
	switch {
	case t.over != nil:
		return t.over
	case t.ended:
		return t.fail(stageRcpt, local(), errEnded, false)
	}
	r := recipient{to, params}
	var e *Error
	if t.c == nil {
		e = t.first(ctx, r)
	} else if e = t.offer(ctx, r); t.again(e) {
		e = t.restart(ctx, &r)
	}
	if e != nil {
		return t.settle(e)
	}
	t.to = append(t.to, r)
	return nil
}

// first gets a connection and sends MAIL and the first RCPT. If a kept connection turns out to be closed before it answers, a
// new one replaces it, once.
func (t *smtpTx) first(ctx context.Context, r recipient) *Error {
	if err := t.h.slot(ctx); err != nil {
		return t.failure(stageConnect, busy(), err, true)
	}
	t.slot = true
	c, reused, err := t.h.connection(ctx)
	if err != nil {
		return t.failure(stageConnect, unreachable(), err, true)
	}
	t.c = c
	e := t.start(ctx, r)
	if e == nil || !reused || !e.closed || e.Stage != stageMail {
		return e
	}
	t.h.pool.drop()
	if e := t.reconnect(ctx); e != nil {
		return e
	}
	return t.start(ctx, r)
}

// again reports whether the transaction may begin again at the same next hop after e. It may if the next hop has closed the
// connection, or said that it will, before anything of the message was sent. Usually its time for an idle connection had run out
// while the client was sending, which says nothing against it.
func (t *smtpTx) again(e *Error) bool { return e != nil && e.closed && t.restarts < maxRestarts }

// restart begins the transaction again on a new connection, with the recipients that were accepted, and then with more; nil: no
// more. If one that was accepted is refused now, only the whole message can still be refused, with 451: at its next attempt the
// client gets the next hop's own reply for that recipient, and the others get the message.
func (t *smtpTx) restart(ctx context.Context, more *recipient) *Error {
	t.restarts++
	t.h.o.Metrics.restart(t.h.name)
	t.h.o.Log.Info("the next hop closed the connection before the message was sent; the transaction begins again there",
		"id", t.env.ID, "hop", t.h.name, "recipients", len(t.to), "restarts", t.restarts)
	if e := t.reconnect(ctx); e != nil {
		return e
	}
	step := t.start
	for _, r := range t.to {
		e := step(ctx, r)
		if e != nil && !e.next {
			if t.c != nil {
				t.c.reset()
			}
			return t.failure(e.Stage, changed(), e, false)
		}
		if e != nil {
			return e
		}
		step = t.offer
	}
	if more == nil {
		return nil
	}
	return step(ctx, *more)
}

// reconnect replaces a connection that the next hop has closed.
func (t *smtpTx) reconnect(ctx context.Context) *Error {
	t.c.doubt = true
	t.h.pool.put(t.c)
	t.c = nil
	c, err := t.h.fresh(ctx)
	if err != nil {
		return t.failure(stageConnect, unreachable(), err, true)
	}
	t.c = c
	return nil
}

// start sends MAIL and the first RCPT.
func (t *smtpTx) start(ctx context.Context, to recipient) *Error {
	both, n, e := t.commands(to)
	if e != nil {
		return e
	}
	r, err := t.mail(ctx, both, n)
	if err != nil {
		return t.lost(stageMail, err)
	}
	if r.class() != 2 {
		return t.mailRefused(ctx, r)
	}
	if t.c.owed == 0 { // lock-step
		if err := t.c.send(ctx, 1, both[n:]); err != nil {
			return t.lost(stageRcpt, err)
		}
	}
	return t.rcptReply(ctx)
}

// commands builds MAIL, which takes n octets, and RCPT. If one of them cannot be sent, the connection stays unused.
func (t *smtpTx) commands(to recipient) (both []byte, n int, e *Error) {
	mail, utf8, no := mailCommand(make([]byte, 0, 512), t.env, &t.c.caps)
	if no.code != 0 {
		return nil, 0, t.failure(stageMail, no.reply(), nil, false)
	}
	t.utf8 = utf8
	both, no = rcptCommand(mail, to.path, to.params, utf8, &t.c.caps)
	if no.code != 0 {
		t.release()
		return nil, 0, &Error{Reply: no.reply(), Hop: t.h.name, Stage: stageRcpt}
	}
	return both, len(mail), nil
}

// mail sends MAIL, the first n octets, and reads its reply. RCPT is in the same write if the next hop allows it (RFC 2920).
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

// mailRefused is MAIL's refusal, after the reply to a pipelined RCPT has been read.
func (t *smtpTx) mailRefused(ctx context.Context, r serverReply) *Error {
	if t.c.owed > 0 && !t.c.doubt {
		if s, err := t.c.read(ctx, t.c.times.command()); err == nil && s.class() < 4 {
			t.c.doubt = true // it accepted a recipient without a sender
		}
	}
	return t.refused(stageMail, r, true)
}

// offer sends RCPT in a transaction that has begun.
func (t *smtpTx) offer(ctx context.Context, to recipient) *Error {
	cmd, no := rcptCommand(nil, to.path, to.params, t.utf8, &t.c.caps)
	if no.code != 0 {
		return &Error{Reply: no.reply(), Hop: t.h.name, Stage: stageRcpt}
	}
	if err := t.c.send(ctx, 1, cmd); err != nil {
		return t.lost(stageRcpt, err)
	}
	return t.rcptReply(ctx)
}

func (t *smtpTx) rcptReply(ctx context.Context) *Error {
	r, err := t.c.read(ctx, t.c.times.command())
	switch {
	case err != nil:
		return t.lost(stageRcpt, err)
	case r.class() == 2:
		return nil
	}
	return t.refused(stageRcpt, r, false)
}

// Abort implements Tx. An open transaction is reset, so that the connection can be kept.
func (t *smtpTx) Abort() {
	if t.ended {
		return
	}
	t.ended = true
	if t.c != nil {
		t.h.o.Metrics.transaction(t.h.name, resultAborted)
		t.c.reset()
		t.release()
	}
}

// Data implements Tx.
func (t *smtpTx) Data(ctx context.Context, size int64, body func() io.Reader) (message.Reply, error) {
	defer func() { // after a panic in the middle of the message the connection is lost, but its slot must not be
		if t.c != nil {
			t.c.doubt = true
			t.release()
		}
	}()
	if e := t.begin(ctx, size, body); e != nil {
		t.ended = true
		return message.Reply{}, e
	}
	t.ended = true
	if e := t.send(ctx, size, body()); e != nil {
		return message.Reply{}, e
	}
	var (
		reply message.Reply
		e     *Error
	)
	if t.h.lmtp {
		reply, e = t.finalEach(ctx)
	} else {
		reply, e = t.final(ctx)
	}
	t.release()
	if e != nil {
		return message.Reply{}, e
	}
	t.h.o.Metrics.done(t.h.name, resultDelivered, time.Since(t.began))
	return reply, nil
}

// begin sends DATA and waits for 354. Since RCPT the client may have been sending for minutes, so that the next hop may have
// closed the connection meanwhile.
func (t *smtpTx) begin(ctx context.Context, size int64, body func() io.Reader) *Error {
	switch {
	case t.over != nil:
		return t.over
	case t.ended:
		return t.fail(stageData, local(), errEnded, false)
	case t.c == nil || len(t.to) == 0:
		if t.c != nil {
			t.c.reset()
		}
		return t.fail(stageData, noRecipients("").Reply, nil, false)
	}
	e := t.data(ctx, size, body)
	if t.again(e) {
		if e = t.restart(ctx, nil); e == nil {
			e = t.data(ctx, size, body)
		}
	}
	if e != nil {
		return t.settle(e)
	}
	return nil
}

// data sends DATA. A message that the next hop cannot take is refused before.
func (t *smtpTx) data(ctx context.Context, size int64, body func() io.Reader) *Error {
	if reply, err := t.unfit(size, body); !reply.IsZero() {
		t.c.reset()
		return t.failure(stageData, reply, err, false)
	}
	if err := t.c.send(ctx, 1, []byte("DATA\r\n")); err != nil {
		return t.lost(stageData, err)
	}
	r, err := t.c.read(ctx, t.c.times.command())
	switch {
	case err != nil:
		return t.lost(stageData, err)
	case r.code == 354:
		return nil
	}
	e := t.refused(stageData, r, true)
	t.c.reset()
	return e
}

// unfit refuses a message that the next hop cannot take. The reply is zero if it can.
func (t *smtpTx) unfit(size int64, body func() io.Reader) (message.Reply, error) {
	if no := t.c.caps.tooBig(size); no.code != 0 {
		return no.reply(), nil
	}
	if t.env.asksUTF8() && !t.utf8 {
		switch has, err := hasEightBit(&headerReader{r: body()}); {
		case err != nil:
			return local(), err
		case has:
			return refusedUTF8().reply(), nil
		}
	}
	if !t.c.caps.eightBit {
		switch has, err := hasEightBit(body()); {
		case err != nil:
			return local(), err
		case has:
			return message.MustReply(554, "5.6.3",
				"The message has 8-bit text, which the next mail server does not take (8BITMIME); send it as quoted-printable or base64"), nil
		}
	}
	return message.Reply{}, nil
}

var errEarly = errors.New("the next hop answered before the end of the message")

// send writes the message and its end of data. If it fails before the end of data, the connection is closed, and nothing can
// have been accepted.
func (t *smtpTx) send(ctx context.Context, size int64, body io.Reader) *Error {
	block := t.h.blocks.Get().(*[]byte)
	defer t.h.blocks.Put(block)
	c := t.c
	var lost error
	w := blockWriter{dots: true, buf: (*block)[:0], flush: func(b []byte) error {
		_, lost = c.write(ctx, c.times.block(), b)
		return lost
	}}
	_, err := io.Copy(&w, body)
	if err == nil && size >= 0 && w.n != size {
		err = fmt.Errorf("the message has %d octets and should have %d", w.n, size)
	}
	last, endErr := w.end()
	if err == nil {
		err = endErr
	}
	if err == nil {
		if early, ok := c.waiting(); early && ok {
			lost = errEarly
		}
	}
	switch {
	case lost != nil:
		return t.cut(ctx, lost)
	case err != nil:
		c.doubt = true
		reply := local()
		if errors.Is(err, errLineEnd) {
			reply = message.MustReply(554, "5.6.0", "The message has a line end that is not CRLF")
		}
		return t.fail(stageData, reply, err, false)
	}
	c.owed = 1
	if t.h.lmtp {
		c.owed = len(t.to)
	}
	switch n, err := c.write(ctx, c.times.block(), last); {
	case err != nil && n < len(last): // the end of data is not complete without its last octet, so the message was not taken
		return t.cut(ctx, err)
	case err != nil:
		return t.uncertain(err)
	}
	return nil
}

// cut ends a transaction that broke in the middle of the data. If the next hop has sent a reply, it says why.
func (t *smtpTx) cut(ctx context.Context, lost error) *Error {
	c := t.c
	c.owed++
	r, err := c.read(ctx, step{limitCommand, min(c.times.Command, abortTime)})
	c.doubt = true
	if err == nil && r.class() > 3 {
		return t.fail(stageData, r.reply(), lost, r.class() == 4)
	}
	return t.fail(stageData, broken(), lost, true)
}

// uncertain ends a transaction whose end of data was, or may have been, sent without a reply. It logs this, so that no caller
// can forget to.
func (t *smtpTx) uncertain(cause error) *Error {
	t.c.doubt = true
	e := t.fail(stageEnd, unsure(), cause, false)
	e.Uncertain = true
	t.h.o.Log.Error("no answer after the end of data: the message may have been delivered and will be sent again",
		"id", t.env.ID, "hop", t.h.name, "recipients", len(t.to), "error", cause)
	t.h.o.Metrics.done(t.h.name, resultUncertain, time.Since(t.began))
	return e
}

// final reads the reply to the message (RFC 5321 §4.1.1.4).
func (t *smtpTx) final(ctx context.Context) (message.Reply, *Error) {
	r, err := t.c.read(ctx, t.c.times.final())
	switch {
	case err != nil:
		return message.Reply{}, t.uncertain(err)
	case r.class() == 2:
		return r.reply(), nil
	case r.class() == 3:
		return message.Reply{}, t.uncertain(protocolError(r.err().Error()))
	}
	t.h.o.Metrics.done(t.h.name, resultRefused, time.Since(t.began))
	return message.Reply{}, t.fail(stageEnd, r.reply(), nil, false)
}

// finalEach reads the reply for each accepted recipient (RFC 2033 §4.2) and combines them.
func (t *smtpTx) finalEach(ctx context.Context) (message.Reply, *Error) {
	replies := make([]serverReply, len(t.to))
	for i := range replies {
		r, err := t.c.read(ctx, t.c.times.final())
		if err == nil && r.class() == 3 {
			err = protocolError(r.err().Error())
		}
		if err != nil {
			return message.Reply{}, t.uncertain(fmt.Errorf("%d of %d recipients were answered for: %w", i, len(t.to), err))
		}
		replies[i] = r
	}
	reply, result := combine(t.to, replies)
	if result == resultDelivered {
		return reply, nil
	}
	t.h.o.Metrics.done(t.h.name, result, time.Since(t.began))
	e := t.fail(stageEnd, reply, nil, false)
	if result == resultPartial {
		e.Partial = true
		t.h.o.Log.Error("some recipients have the message and others do not", "id", t.env.ID, "hop", t.h.name, "reply", e.Reply.String())
	}
	return message.Reply{}, e
}
