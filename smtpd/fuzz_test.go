package smtpd

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/wire"
)

// states are the octets that bring a session into a state, in which the octets of the fuzzer begin.
var states = []string{
	"",
	"EHLO x\r\n",
	"EHLO x\r\nMAIL FROM:<a@b.example> SMTPUTF8\r\n",
	"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<b@c.example>\r\n",
	"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<b@c.example>\r\nDATA\r\n",
	"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<b@c.example>\r\nBDAT 20\r\n",
	"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<b@c.example>\r\nBDAT 6\r\nx: y\r\n",
}

// FuzzSession: for all octets in all states, nothing panics, every reply is well-formed, the client gets 250 for exactly the
// messages that the next hop gets, and the next hop gets no bare CR, bare LF or NUL, and no address that can be read in two ways
// (recorder). The result is the same if the octets come one by one.
func FuzzSession(f *testing.F) {
	s := startPipe(f, limits(func(l *Limits) { l.MessageBytes, l.Recipients, l.SpoolMemory = 3000, 5, 8<<10 }), func(s *Server, _ *Listener) {
		s.Log, s.TLS = nil, nil // the result of octets after STARTTLS depends on when they come
	})
	s.hop.rcpt = func(to message.Path) error {
		if to.Local == "r" {
			return refusedBy("rcpt", 550, "5.1.1", "No such user")
		}
		return nil
	}
	for i, e := range endings {
		f.Add(byte(4), []byte("x: y\r\n\r\nbody"+e+smuggled))
		f.Add(byte(5+i%2), []byte("x: y\r\n\r\nbody"+e+smuggled))
	}
	f.Fuzz(func(t *testing.T, state byte, input []byte) {
		text := states[int(state)%len(states)] + string(input)
		whole := s.outcome(t, text)
		if octets := s.outcome(t, strings.Split(text, "")...); octets != whole {
			t.Errorf("%q at once gives\n%s\none octet at a time\n%s", text, whole, octets)
		}
	})
}

// outcome of a session: replies and messages.
func (s *site) outcome(t *testing.T, pieces ...string) string {
	s.hop.mu.Lock()
	s.hop.t, s.hop.letters = t, nil
	s.hop.mu.Unlock()
	replies, err := s.replies(pieces...)
	if err != nil {
		t.Fatal(err)
	}
	queued := 0
	for _, r := range replies {
		if strings.HasPrefix(r, "250 2.0.0 Ok: queued as ") {
			queued++
		}
	}
	letters := s.hop.got()
	if queued != len(letters) {
		t.Errorf("%d messages were taken, the client was told %d: %q", len(letters), queued, replies)
	}
	out := strings.Join(replies, "\n")
	for _, fault := range []error{wire.ErrBareLF, wire.ErrNUL} { // of two faults either may be seen first
		out = strings.ReplaceAll(out, "The message has a "+fault.Error(), "The message has a "+wire.ErrBareCR.Error())
	}
	for _, m := range letters {
		_, rest, _ := bytes.Cut(m.body, []byte("+0000\r\n")) // the end of Received
		out += fmt.Sprintf("\n%v %v %v %q", m.env.From, m.env.Params, m.to, rest)
	}
	return out
}

// TestSessionsAreIndifferentToCuts checks the second promise of the fuzzer on the most important dialogues: every ending in every
// state.
func TestSessionsAreIndifferentToCuts(t *testing.T) {
	t.Parallel()
	s := startPipe(t, func(s *Server, _ *Listener) { s.Log, s.TLS = nil, nil })
	for i, state := range states {
		for _, e := range slices.Concat(endings, []string{"\r\n.\r\n", "\r\n..\r\n.\r\n", "\r\n"}) {
			text := state + "x: y\r\n\r\nbody" + e + smuggled
			if whole, octets := s.outcome(t, text), s.outcome(t, strings.Split(text, "")...); whole != octets {
				t.Errorf("state %d, %q:\n%s\nbut one octet at a time\n%s", i, e, whole, octets)
			}
		}
	}
}
