package smtpd

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testpipe"
)

// TestResetsEndTheTransaction: after all that ends a transaction, RCPT and DATA without MAIL are refused. Postfix accepted them
// after a reject at the end of data until 2026-08.
func TestResetsEndTheTransaction(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"RSET": "C: RSET\nS: 250", "EHLO": "C: EHLO again.example\nS: 250", "HELO": "C: HELO again.example\nS: 250", "DATA": message1[1:],
		"failed DATA": "C: DATA\nS: 354\nW: \"Subject: no\\r\\n\\r\\n.\\r\\n\"\nS: 550 5.7.1 no",
		"large DATA":  "C: DATA\nS: 354\nW: \"" + strings.Repeat("x", 200) + "\\r\\n.\\r\\n\"\nS: 552 5.3.4",
		"BDAT":        `W: "BDAT 14 LAST\r\n` + head + "\"\nS: 250",
		"failed BDAT": `W: "BDAT 15 LAST\r\nSubject: no\r\n\r\n` + "\"\nS: 550 5.7.1 no",
		"large BDAT":  `W: "BDAT 200\r\n` + strings.Repeat("x", 200) + "\"\nS: 552 5.3.4",
		"BDAT, RSET":  `W: "BDAT 14\r\n` + head + "\"\nS: 250\nC: RSET\nS: 250",
		"BDAT, EHLO":  `W: "BDAT 14\r\n` + head + "\"\nS: 250\nC: EHLO x\nS: 250",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, limits(func(l *Limits) { l.MessageBytes = 100 }), rules(t, "message", `reject contains "no" if input.message.header.subject[_] == "no"`))
			c := s.talk(hello + envelope + script)
			before := len(s.hop.got())
			s.hop.ended()
			c.talk(`
				C: RCPT TO:<bob@example.net>
				S: 503 5.5.1 MAIL first
				C: DATA
				S: 503 5.5.1 MAIL first
				C: BDAT 0 LAST
				S: 503 5.5.1 MAIL and RCPT first
				C: MAIL FROM:<carol@example.com>
				S: 250 2.1.0
				C: DATA
				S: 503 5.5.1 RCPT first
				C: RSET
				S: 250
			` + envelope + message1 + quit)
			if got := s.hop.got(); len(got) != before+1 || len(got[before].to) != 1 {
				t.Errorf("%d messages, then %d", before, len(got))
			}
		})
	}
}

// TestTwoMessages: nothing of the first message is left when the second comes.
func TestTwoMessages(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.talk(hello + envelope + message1 + `
		C: MAIL FROM:<carol@example.com> SMTPUTF8
		S: 250
		C: RCPT TO:<dave@example.net> NOTIFY=NEVER
		S: 250
		C: RCPT TO:<erin@example.net>
		S: 250
		C: DATA
		S: 354
		W: "Subject: two\r\n\r\ntwo\r\n.\r\n"
		S: 250 2.0.0 Ok: queued as 2
	` + envelope + message1 + quit)
	s.hop.want("one\r\n", "two\r\n", "one\r\n")
	var got []string
	for _, m := range s.hop.got() {
		for _, to := range m.to {
			got = append(got, fmt.Sprint(m.env.From, to.Path, m.env.Params, to.Params))
		}
	}
	want := []string{
		"<alice@example.com> <bob@example.net> map[BODY:8BITMIME] map[]",
		"<carol@example.com> <dave@example.net> map[BODY:8BITMIME SMTPUTF8:] map[NOTIFY:NEVER]",
		"<carol@example.com> <erin@example.net> map[BODY:8BITMIME SMTPUTF8:] map[]",
		"<alice@example.com> <bob@example.net> map[BODY:8BITMIME] map[]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// model is what a session should know, for TestEverySequence.
type model struct {
	hello, mail, chunks bool
	rcpts, accepted     int
}

// step returns the codes that a command should get, and what the client sends after 354.
func (m *model) step(op string) (codes []string, follow string) {
	ready := m.mail && m.rcpts > 0
	reset := func() { m.mail, m.chunks, m.rcpts = false, false, 0 }
	switch {
	case op == "EHLO x":
		m.hello = true
		reset()
	case op == "RSET":
		reset()
	case op == "MAIL FROM:<a@b.example>":
		if !m.hello || m.mail {
			return []string{"503"}, ""
		}
		m.mail = true
	case op == "RCPT TO:<b@c.example>":
		if !m.mail || m.chunks {
			return []string{"503"}, ""
		}
		m.rcpts++
	case !ready, op == "DATA" && m.chunks, op == "DATA large" && m.chunks:
		return []string{"503"}, ""
	case op == "DATA":
		reset()
		m.accepted++
		return []string{"354", "250"}, "x: y\r\n\r\n.\r\n"
	case op == "DATA large":
		reset()
		return []string{"354", "552"}, strings.Repeat("x", 50) + "\r\n.\r\n"
	case strings.HasPrefix(op, "BDAT 40"):
		reset()
		return []string{"552"}, ""
	case strings.Contains(op, "LAST"):
		reset()
		m.accepted++
	default:
		m.chunks = true
	}
	return []string{"250"}, ""
}

// TestEverySequence compares every sequence of three of these commands, in each state of a session, with the model. The commands
// are pipelined in one write.
func TestEverySequence(t *testing.T) {
	t.Parallel()
	const mail, rcpt = "MAIL FROM:<a@b.example>", "RCPT TO:<b@c.example>"
	ops := []string{"EHLO x", mail, rcpt, "DATA", "DATA large", "BDAT 6\r\nx: y\r\n", "BDAT 6 LAST\r\nx: y\r\n", "BDAT 40\r\n" + strings.Repeat("x", 40), "RSET"}
	s := startPipe(t, limits(func(l *Limits) { l.MessageBytes = 30 }), func(s *Server, _ *Listener) { s.Log = nil })
	accepted := 0
	for _, state := range [][]string{nil, {"EHLO x", mail}, {"EHLO x", mail, rcpt}} {
		for n := range len(ops) * len(ops) * len(ops) {
			three := []string{ops[n%len(ops)], ops[n/len(ops)%len(ops)], ops[n/len(ops)/len(ops)]}
			m, input, want := &model{}, "", []string{"220"}
			// The last two commands are always the same, and show the state that is left.
			for _, op := range slices.Concat(state, three, []string{rcpt, "DATA"}) {
				codes, follow := m.step(op)
				line, _, _ := strings.Cut(op, " large")
				if !strings.HasPrefix(op, "BDAT") {
					line += "\r\n"
				}
				input, want = input+line+follow, append(want, codes...)
			}
			accepted += m.accepted
			if got := s.codes(input); !slices.Equal(got, want) {
				t.Fatalf("%q:\ngot  %v\nwant %v", input, got, want)
			}
		}
	}
	if n := len(s.hop.got()); n != accepted {
		t.Errorf("%d messages at the next hop, %d were accepted", n, accepted)
	}
	s.hop.ended()
}

// codes are those of all replies to input.
func (s *site) codes(input string) []string {
	s.t.Helper()
	replies, err := s.replies(input)
	if err != nil {
		s.t.Fatal(err)
	}
	var codes []string
	for _, r := range replies {
		codes = append(codes, r[:3])
	}
	return codes
}

// replies are those to input that comes in these pieces and then ends.
func (s *site) replies(pieces ...string) ([]string, error) {
	conn, err := s.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	for _, p := range pieces {
		io.WriteString(conn, p)
	}
	conn.(*testpipe.End).CloseWrite()
	all, err := io.ReadAll(conn)
	if err != nil {
		return nil, err
	}
	return cutReplies(string(all))
}

// cutReplies cuts the output of a server into replies, each of which must be well-formed.
func cutReplies(all string) ([]string, error) {
	var replies, lines []string
	for line := range strings.Lines(all) {
		if lines = append(lines, line); len(line) > 3 && line[3] == '-' {
			continue
		}
		r, err := wellFormed(lines)
		if err != nil {
			return nil, err
		}
		replies, lines = append(replies, r), nil
	}
	if lines != nil {
		return nil, fmt.Errorf("half a reply: %q", lines)
	}
	return replies, nil
}
