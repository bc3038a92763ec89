package smtpd

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// bdat receives one chunk (RFC 3030 §2). Chunks are the guard's alone: they go into the message as they come, and at the
// last one the library is given a DATA, so that a message takes one way however it was sent, on one goroutine.
//
// The octets of a chunk are always taken, also of one that is refused, because the next command comes behind them. Only a
// command whose size cannot be read ends the connection: where its chunk ends cannot be known.
func (g *guard) bdat(arg string) {
	size, last, ok := chunkSize(arg)
	if !ok {
		g.hangUp(replySyntax("The syntax is BDAT size [LAST]"))
		return
	}
	if size > g.s.limits.endless() {
		g.s.met(limitMessageBytes, g.s.limits.MessageBytes)
		g.hangUp(tooLarge(g.s.limits.MessageBytes))
		return
	}
	tx := g.s.tx
	if tx == nil || len(tx.rcpts) == 0 {
		r := replySequence("MAIL and RCPT first")
		if tx != nil {
			r = noRecipients(tx)
		}
		if g.chunk(size, nil) {
			g.refuse(r)
		}
		return
	}
	tx.chunks++
	if tx.sink == nil {
		tx.receive(g.s)
	}
	if !g.chunk(size, tx) {
		return
	}
	switch {
	case tx.refused != nil:
		g.s.cut(tx.refused)
	case int64(tx.chunks) > int64(g.s.limits.Chunks)+tx.sink.size/1024: // tiny chunks cost as much as large ones
		g.s.met(limitChunks, g.s.limits.Chunks)
		r := say(554, "5.5.0", "Too many small chunks")
		g.s.outcome("", r, nil)
		g.hangUp(r)
	case last:
		tx.endLine()
		g.hand(verbDATA, "DATA")
	case tx.sink.err != nil: // the rest need not be sent; RFC 3030 §2: the transaction is over
		r := g.s.refuse(tx.sink.err)
		g.hand(verbRSET, "RSET")
		g.override = r
	default:
		g.send(say(250, "2.0.0", strconv.FormatInt(size, 10)+" octets received"))
	}
}

// chunk reads the octets of a chunk, into tx where there is one. It reports whether the connection goes on.
func (g *guard) chunk(size int64, tx *transaction) bool {
	p := pace{window: g.s.limits.Data, end: time.Now().Add(g.s.limits.Transaction)}
	if tx != nil {
		p.end = tx.until
	}
	var err error
	if tx == nil || tx.refused != nil {
		_, err = g.readChunk(size, nil, nil, &p)
	} else {
		tx.refused, err = g.readChunk(size, tx.sink, &tx.ends, &p)
	}
	switch {
	case err == nil:
		return true
	case tx == nil:
		g.broken(err, limitData, g.s.limits.Data)
	default:
		g.s.cut(err)
	}
	return false
}

func chunkSize(arg string) (size int64, last, ok bool) {
	number, rest, more := strings.Cut(arg, " ")
	if more && !strings.EqualFold(rest, "LAST") {
		return 0, false, false
	}
	if len(number) > 15 || strings.Trim(number, "0123456789") != "" {
		return 0, false, false
	}
	size, err := strconv.ParseInt(number, 10, 64)
	return size, more, err == nil
}

// refusal is the reply to a message that could not be taken.
//
// A bare CR, bare LF or NUL makes it 554 5.6.0, "other or undefined media error" (RFC 3463 §3.7): the message itself is
// wrong (RFC 5321 §2.3.8), another try would not mend it, and the connection ends because the client does not agree with us
// on where lines end, and so perhaps not on where messages do.
func refusal(err error, l Limits) message.Reply {
	switch {
	case errors.Is(err, errBareCR), errors.Is(err, errBareLF), errors.Is(err, errNUL):
		return say(554, "5.6.0", "The message has a "+err.Error()+"; lines must end in CR LF")
	case errors.Is(err, message.ErrTooLarge), errors.Is(err, errEndless):
		return tooLarge(l.MessageBytes)
	case errors.Is(err, errLine): // RFC 5322 §2.1.1
		return say(554, "5.6.0", "The message has a line of more than "+strconv.Itoa(l.Line)+" octets")
	}
	return say(452, "4.3.1", "Insufficient system storage, try again later")
}

func tooLarge(limit int64) message.Reply {
	return say(552, "5.3.4", "Message size exceeds the limit of "+strconv.FormatInt(limit, 10)+" octets")
}
