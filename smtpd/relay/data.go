package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// Data sends the message. Every way out of it ends the transaction.
func (t *smtpTx) Data(ctx context.Context, size int64, body func() io.Reader) (message.Reply, error) {
	defer func() { // something has panicked in the middle of the message: the connection is lost, its slot must not be
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
	t.h.o.Metrics.done(t.h.name, "delivered", time.Since(t.began))
	return reply, nil
}

// begin brings the dialogue to 354, or refuses what the next hop cannot take before anything of it is sent.
func (t *smtpTx) begin(ctx context.Context, size int64, body func() io.Reader) *Error {
	switch {
	case t.over != nil:
		return t.over
	case t.ended:
		return t.fail(stageData, local(), errEnded, false)
	case t.c == nil || len(t.to) == 0:
		return t.refuse(noRecipients("").Reply, nil)
	}
	if no := t.c.caps.tooBig(size); no.code != 0 {
		return t.refuse(no.reply(), nil)
	}
	if !t.c.caps.eightBit {
		switch has, err := eightBit(body()); {
		case err != nil:
			return t.refuse(local(), err)
		case has:
			return t.refuse(message.MustReply(554, "5.6.3",
				"The message has 8-bit text, which the next mail server does not take (8BITMIME); send it as quoted-printable or base64"), nil)
		}
	}
	if err := t.c.send(ctx, 1, []byte("DATA\r\n")); err != nil {
		return t.fail(stageData, broken(), err, true)
	}
	r, err := t.c.read(ctx, t.c.times.command())
	switch {
	case err != nil:
		return t.fail(stageData, broken(), err, true)
	case r.code == 354:
		return nil
	case r.class() < 4:
		t.c.doubt = true
		return t.fail(stageData, broken(), protocolError(r.err().Error()), true)
	}
	t.c.reset()
	return t.fail(stageData, r.reply(), nil, r.class() == 4)
}

// refuse ends the transaction for a reason of our own before DATA.
func (t *smtpTx) refuse(reply message.Reply, cause error) *Error {
	if t.c != nil {
		t.c.reset()
	}
	return t.fail(stageData, reply, cause, false)
}

// errEarly: an answer came before the end of data.
var errEarly = errors.New("the next hop answered before the end of the message")

// send writes the message and its end of data. Unless that was reached, the connection is closed without it, and nothing
// can have been accepted.
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
	case err != nil && n < len(last): // without its last octet it is no end of data: nobody has the message
		return t.cut(ctx, err)
	case err != nil:
		return t.uncertain(err)
	}
	return nil
}

// cut ends a transaction that broke in the middle of the data. The next hop may have said why.
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

// uncertain: the end of data is, or may be, on its way and no answer came. The log says so here, so that no caller can
// forget to.
func (t *smtpTx) uncertain(cause error) *Error {
	t.c.doubt = true
	e := t.fail(stageEnd, unsure(), cause, false)
	e.Uncertain = true
	t.h.o.Log.Error("no answer after the end of data: the message may have been delivered and will be sent again",
		"id", t.env.ID, "hop", t.h.name, "recipients", len(t.to), "error", cause)
	t.h.o.Metrics.done(t.h.name, "uncertain", time.Since(t.began))
	return e
}

// final reads the answer to the message (RFC 5321 §4.1.1.4).
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
	t.h.o.Metrics.done(t.h.name, "refused", time.Since(t.began))
	return message.Reply{}, t.fail(stageEnd, r.reply(), nil, false)
}
