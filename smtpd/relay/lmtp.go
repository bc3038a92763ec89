package relay

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// finalEach reads the answer for each accepted recipient (RFC 2033 §4.2) and makes one of them by the rule in the package's
// documentation.
func (t *smtpTx) finalEach(ctx context.Context) (message.Reply, *Error) {
	replies := make([]serverReply, len(t.to))
	refused := 0
	for i := range replies {
		r, err := t.c.read(ctx, t.c.times.final())
		if err == nil && r.class() == 3 {
			err = protocolError(r.err().Error())
		}
		if err != nil {
			return message.Reply{}, t.uncertain(fmt.Errorf("%d of %d recipients were answered for: %w", i, len(t.to), err))
		}
		if replies[i] = r; r.class() != 2 {
			refused++
		}
	}
	if refused == 0 {
		return replies[0].reply(), nil
	}
	worst := worstReply(replies, refused < len(replies))
	if refused == len(replies) && same(replies) {
		t.h.o.Metrics.done(t.h.name, "refused", time.Since(t.began))
		return message.Reply{}, t.fail(stageEnd, worst.reply(), nil, false)
	}
	e := t.fail(stageEnd, t.split(worst, replies), nil, false)
	e.Partial = refused < len(replies)
	if e.Partial {
		t.h.o.Log.Error("some recipients have the message and others do not", "id", t.env.ID, "hop", t.h.name, "reply", e.Reply.String())
		t.h.o.Metrics.done(t.h.name, "partial", time.Since(t.began))
	} else {
		t.h.o.Metrics.done(t.h.name, "refused", time.Since(t.began))
	}
	return message.Reply{}, e
}

// worstReply is the refusal that decides: 5xx where somebody has the message, else 4xx; the first of that class, or
// the first refusal.
func worstReply(replies []serverReply, some bool) serverReply {
	want := 4
	if some {
		want = 5
	}
	var first *serverReply
	for i := range replies {
		switch r := &replies[i]; {
		case r.class() == want:
			return *r
		case r.class() != 2 && first == nil:
			first = r
		}
	}
	return *first
}

func same(replies []serverReply) bool {
	for _, r := range replies[1:] {
		if r.code != replies[0].code || strings.Join(r.lines, "\n") != strings.Join(replies[0].lines, "\n") {
			return false
		}
	}
	return true
}

// namesInReply bounds how many recipients a reply names.
const namesInReply = 8

// split words a reply in which the recipients fared differently: the deciding refusal, who was refused and who has it.
func (t *smtpTx) split(worst serverReply, replies []serverReply) message.Reply {
	var refused, have []string
	for i, r := range replies {
		if r.class() == 2 {
			have = append(have, t.to[i].String())
		} else {
			refused = append(refused, fmt.Sprintf("%s (%d)", t.to[i].String(), r.code))
		}
	}
	code := worst.reply().Code()
	status, text := splitStatus(code/100, worst.lines)
	lines := append(text[:min(len(text), 2)], naming("Not delivered to ", refused)...)
	lines = append(lines, naming("Delivered to ", have)...)
	m, err := message.NewReply(code, status, strings.Join(lines, "\n"))
	if err != nil {
		return worst.reply()
	}
	return m
}

func naming(what string, names []string) []string {
	more := len(names) - namesInReply
	lines := make([]string, 0, namesInReply+1)
	for _, n := range names[:min(len(names), namesInReply)] {
		lines = append(lines, what+n)
	}
	if more > 0 {
		lines = append(lines, fmt.Sprintf("%sand %d others", what, more))
	}
	return lines
}
