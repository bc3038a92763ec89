package relay

import (
	"fmt"
	"strings"

	"github.com/postern-mail/postern/internal/message"
)

// combine makes one reply of those for each recipient, by the rule in the package's documentation. result is how the
// transaction ended, as in the metrics: delivered, refused or partial.
func combine(to []recipient, replies []serverReply) (reply message.Reply, result string) {
	refused := 0
	for _, r := range replies {
		if r.class() != 2 {
			refused++
		}
	}
	switch {
	case refused == 0:
		return replies[0].reply(), resultDelivered
	case refused < len(replies):
		return split(worstReply(replies, true), to, replies), resultPartial
	case same(replies):
		return worstReply(replies, false).reply(), resultRefused
	}
	return split(worstReply(replies, false), to, replies), resultRefused
}

// worstReply is the refusal that decides: the first 5xx if some recipients have the message, else the first 4xx, else the
// first refusal.
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

// namesInReply is the number of recipients that a reply names.
const namesInReply = 8

// split writes a reply for recipients with different results: the deciding refusal, who was refused and who has the message.
func split(worst serverReply, to []recipient, replies []serverReply) message.Reply {
	var refused, have []string
	for i, r := range replies {
		if r.class() == 2 {
			have = append(have, to[i].path.String())
		} else {
			refused = append(refused, fmt.Sprintf("%s (%d)", to[i].path.String(), r.code))
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
