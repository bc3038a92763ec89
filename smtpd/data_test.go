package smtpd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testpipe"
)

// smuggled is a second transaction in the body of the first. A reader that ends the message too early takes it for commands.
const smuggled = "MAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\nFrom: evil@example.com\r\n\r\nevil\r\n.\r\n"

var endings = testpipe.Endings()

// splits are ways to cut octets into writes, because some readers see a CR and its LF only if they come together.
var splits = map[string]int{"whole": 1 << 20, "octets": 1, "pairs": 2, "threes": 3}

func TestBareEndOfDataEndsNothing(t *testing.T) {
	t.Parallel()
	for _, ending := range endings {
		for split, size := range splits {
			t.Run(fmt.Sprintf("%q/%s", ending, split), func(t *testing.T) {
				s := startPipe(t)
				c := s.talk(hello + envelope + "C: DATA\nS: 354")
				c.split("From: alice@example.com\r\n\r\nbody"+ending+smuggled, size)
				c.talk("S: 554 5.6.0\nEOF")
				s.hop.want()
			})
		}
	}
}

func TestBareEndOfDataInChunk(t *testing.T) {
	t.Parallel()
	for _, ending := range endings {
		if ending == "\r\n.\r" {
			continue // a CR at the end of a chunk may have its LF in the next one; see TestCRBetweenChunks
		}
		for split, size := range splits {
			t.Run(fmt.Sprintf("%q/%s", ending, split), func(t *testing.T) {
				s := startPipe(t)
				c := s.talk(hello + envelope)
				body := "From: alice@example.com\r\n\r\nbody" + ending
				c.split(fmt.Sprintf("BDAT %d LAST\r\n%s%s", len(body), body, smuggled), size)
				c.talk("S: 554 5.6.0\nEOF")
				s.hop.want()
			})
		}
	}
}

// split sends text in pieces of size octets. The server may have hung up before all of it is sent.
func (c *client) split(text string, size int) {
	for len(text) > 0 {
		n := min(size, len(text))
		if c.write(text[:n]) != nil {
			return
		}
		text = text[n:]
	}
}

// TestCRBetweenChunks: a CR at the end of a chunk is part of a line end if the next chunk begins with LF, and an error otherwise.
func TestCRBetweenChunks(t *testing.T) {
	t.Parallel()
	s := startPipe(t)
	s.talk(hello + envelope + `
		W: "BDAT 18\r\nSubject: x\r\n\r\none\r"
		S: 250 2.0.0 18 octets received
		W: "BDAT 6 LAST\r\n\ntwo\r\n"
		S: 250 2.0.0 Ok: queued
	` + quit)
	s.hop.want("one\r\ntwo\r\n")
	s.talk(hello + envelope + "W: \"BDAT 18\\r\\nSubject: x\\r\\n\\r\\none\\r\"\nS: 250 2.0.0\nW: \"BDAT 5 LAST\\r\\ntwo\\r\\n\"\nS: 554 5.6.0\nEOF")
	s.talk(hello + envelope + "W: \"BDAT 18 LAST\\r\\nSubject: x\\r\\n\\r\\none\\r\"\nS: 554 5.6.0\nEOF")
	s.hop.want("one\r\ntwo\r\n")
}

// TestDotStuffing: dot-stuffing is removed (RFC 5321 §4.5.2), for every way to cut the octets.
func TestDotStuffing(t *testing.T) {
	t.Parallel()
	for split, size := range splits {
		t.Run(split, func(t *testing.T) {
			s := startPipe(t)
			c := s.talk(hello + envelope + "C: DATA\nS: 354")
			c.split("Subject: dots\r\n\r\n..\r\n.a\r\n...b\r\nc.\r\n\r\n..\r\n.\r\nNOOP\r\n", size)
			c.talk("S: 250 2.0.0 Ok: queued\nS: 250 2.0.0 Ok" + quit)
			s.hop.want(".\r\na\r\n..b\r\nc.\r\n\r\n.\r\n")
		})
	}
}

func TestDotAlone(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.talk(hello + envelope + "C: DATA\nS: 354\nW: \".\\r\\n\"\nS: 250 2.0.0 Ok: queued" + quit)
	if got := s.hop.got(); len(got) != 1 || !strings.HasPrefix(string(got[0].body), "Received: ") {
		t.Errorf("got %d messages", len(got))
	}
}

// TestExactSize: RFC 1870 §6. go-smtp refuses a message of exactly the maximum.
func TestExactSize(t *testing.T) {
	t.Parallel()
	const most = 5000
	s := start(t, limits(func(l *Limits) { l.MessageBytes = most }))
	head := "Subject: x\r\n\r\n"
	full := head + strings.Repeat("..stuffed\r\n", (most-len(head))/10)
	full += strings.Repeat("x", most-2-len(head)-(most-len(head))/10*10) + "\r\n" // 5000 without the stuffing
	for _, extra := range []string{"", "x"} {
		c := s.talk(hello + envelope + "C: DATA\nS: 354")
		c.split(extra+full+".\r\n", 1<<20)
		want := "S: 250 2.0.0 Ok: queued"
		if extra != "" {
			want = "S: 552 5.3.4"
		}
		c.talk(want + envelope + message1 + quit) // the connection goes on
	}
	for _, extra := range []string{"", "x"} {
		body := extra + strings.ReplaceAll(full, "\r\n..", "\r\n.")
		c := s.talk(hello + envelope)
		c.split(fmt.Sprintf("BDAT %d LAST\r\n%s", len(body), body), 1<<20)
		want := "S: 250 2.0.0 Ok: queued"
		if extra != "" {
			want = "S: 552 5.3.4"
		}
		c.talk(want + envelope + message1 + quit)
	}
	s.talk(hello + `
		C: MAIL FROM:<alice@example.com> SIZE=5001
		S: 552 5.3.4
		C: MAIL FROM:<alice@example.com> SIZE=99999999999999999999
		S: 552 5.3.4
		C: MAIL FROM:<alice@example.com> SIZE=5000
		S: 250 2.1.0
	`)
}

// TestTooLargeGoesOn: the client gets 552 after its data, and the connection goes on.
func TestTooLargeGoesOn(t *testing.T) {
	t.Parallel()
	s := start(t, limits(func(l *Limits) { l.MessageBytes = 1000 }))
	c := s.talk(hello + envelope + "C: DATA\nS: 354")
	c.split(strings.Repeat(strings.Repeat("x", 998)+"\r\n", 3000)+".\r\n", 1<<16)
	c.talk("S: 552 5.3.4" + quit)
	s.hop.want()
}

// TestLongLines: lines of text may be longer than 1000 octets (RFC 5321 §4.5.3.1.6).
func TestLongLines(t *testing.T) {
	t.Parallel()
	s := start(t)
	body := strings.Repeat("x", 100_000) + "\r\n"
	c := s.talk(hello + envelope + "C: DATA\nS: 354")
	c.split("Subject: x\r\n\r\n"+body+".\r\n", 1<<20)
	c.talk("S: 250 2.0.0 Ok: queued" + quit)
	s.hop.want(body)
}
