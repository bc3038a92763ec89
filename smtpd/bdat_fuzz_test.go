package smtpd

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/message"
)

// FuzzBdat: a message in chunks, for every way to cut it, is accepted or refused as by DATA, and the next hop gets the same
// bytes. A message without a line end at its end is refused or completed, and never joined with what follows.
func FuzzBdat(f *testing.F) {
	for _, m := range []string{
		"x: y\r\n\r\nbody\r\n", "x: y\r\n\r\n.\r\n..\r\n.x\r\n", "x: y\r\n\r\nbare\nLF\r\n", "x: y\r\n\r\nbare\rCR\r\n", "x: y\r\n\r\nNUL\x00\r\n", "\r\n", "x: y\r\n", "no header\r\n", "x: y\r\n\r\nno end", "x: y\r\n\r\nhalf\r", "x: y\r\n\r\n\r\n.\r\nMAIL FROM:<evil@example.com>\r\n",
		"x: y\r\n\r\n" + strings.Repeat("0123456789", 400) + "\r\n", "x: \xff\r\n\r\n\xc3\xbc\r\n", " x: y\r\n", "x : y\r\n\r\n", "From: a@b.example\r\nFrom: b@c.example\r\n\r\n", "", "\n.\n", "\r\n.\r\n",
	} {
		f.Add([]byte(m), []byte{})
		f.Add([]byte(m), []byte{0, 3, 0, 1, 200})
	}
	s := startPipe(f, limits(func(l *Limits) { l.MessageBytes, l.SpoolMemory = 3000, 1<<10 }), func(s *Server, _ *Listener) { s.Log, s.TLS = nil, nil })
	const begin = "EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<b@c.example>\r\n"
	f.Fuzz(func(t *testing.T, msg, cuts []byte) {
		if len(msg) > 4000 || len(cuts) > 64 {
			return
		}
		var chunks strings.Builder
		rest := msg
		for _, n := range cuts {
			n := min(int(n), len(rest))
			fmt.Fprintf(&chunks, "BDAT %d\r\n%s", n, rest[:n])
			rest = rest[n:]
		}
		fmt.Fprintf(&chunks, "BDAT %d LAST\r\n%s", len(rest), rest)
		s.outcome(t, begin+chunks.String()+"NOOP\r\nQUIT\r\n")
		letters := s.hop.got()
		if len(letters) > 1 || len(letters) == 1 && !tailOf(letters[0].body, msg) {
			t.Fatalf("%q in chunks: the next hop got %q", msg, bodies(letters))
		}
		clean := message.CheckLines(msg) == nil && bytes.IndexByte(msg, 0) < 0
		if !clean && len(letters) > 0 && bytes.HasSuffix(msg, []byte("\r\n")) {
			t.Fatalf("%q was taken", msg)
		}
		if !clean || !bytes.HasSuffix(msg, []byte("\r\n")) {
			return
		}
		stuffed := strings.ReplaceAll("\r\n"+string(msg), "\r\n.", "\r\n..")[2:]
		s.outcome(t, begin+"DATA\r\n"+stuffed+".\r\nNOOP\r\nQUIT\r\n")
		whole := s.hop.got()
		if fmt.Sprintf("%q", afterReceived(letters)) != fmt.Sprintf("%q", afterReceived(whole)) {
			t.Fatalf("%q in chunks: the next hop got %q, by DATA %q", msg, bodies(letters), bodies(whole))
		}
	})
}

// tailOf: the message comes after the Received field, perhaps with a line end that it did not have.
func tailOf(got, msg []byte) bool {
	return bytes.HasSuffix(got, msg) || bytes.HasSuffix(got, append(bytes.TrimSuffix(bytes.Clone(msg), []byte("\r\n")), "\r\n"...))
}

func bodies(letters []*letter) (out []string) {
	for _, l := range letters {
		out = append(out, string(l.body))
	}
	return out
}

// afterReceived returns messages without the Received field, which contains the time.
func afterReceived(letters []*letter) (out []string) {
	for _, l := range letters {
		_, rest, _ := strings.Cut(string(l.body), "+0000\r\n")
		out = append(out, rest)
	}
	return out
}
