package smtpd

import (
	"strings"
	"testing"
)

// head is the header of a message in chunks, 14 octets.
const head = "Subject: x\\r\\n\\r\\n"

// TestBDATInOneWrite: a command and its chunk in one write. The line limit of go-smtp would end the connection.
func TestBDATInOneWrite(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.talk(hello + envelope)
	body := strings.Repeat(strings.Repeat("y", 98)+"\r\n", 1000)
	c.split("BDAT 100014 LAST\r\nSubject: x\r\n\r\n"+body+"NOOP\r\n", 1<<20)
	c.talk("S: 250 2.0.0 Ok: queued\nS: 250 2.0.0 Ok" + quit)
	s.hop.want(body)
}

// TestBDATPipelined: chunks and commands of a whole transaction in one write (RFC 3030 §4.2, RFC 2920).
func TestBDATPipelined(t *testing.T) {
	t.Parallel()
	for split, size := range splits {
		t.Run(split, func(t *testing.T) {
			s := startPipe(t)
			c := s.talk(hello)
			c.split("MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nBDAT 14\r\nSubject: x\r\n\r\nBDAT 0\r\nBDAT 5\r\none\r\n"+
				"BDAT 3\r\ntwoBDAT 0 LAST\r\nRSET\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n", size)
			c.talk(`
				S: 250 2.1.0
				S: 250 2.1.5
				S: 250 2.0.0 14 octets
				S: 250 2.0.0 0 octets
				S: 250 2.0.0 5 octets
				S: 250 2.0.0 3 octets
				S: 250 2.0.0 Ok: queued
				S: 250 2.0.0 Ok
				S: 250 2.1.0
				S: 250 2.1.5
				S: 354
				W: "Subject: y\r\n\r\nthree\r\n.\r\n"
				S: 250 2.0.0 Ok: queued
			` + quit)
			s.hop.want("one\r\ntwo\r\n", "three\r\n") // the last line gets a line end, as by DATA
		})
	}
}

// TestBDATLineOfDots: dots mean nothing in chunks; relay adds dot-stuffing.
func TestBDATLineOfDots(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.talk(hello + envelope + `W: "BDAT 27 LAST\r\n` + head + `.\r\n..\r\n.\r\nx\r\n"
		S: 250 2.0.0 Ok: queued` + quit)
	s.hop.want(".\r\n..\r\n.\r\nx\r\n")
}

// TestBDATThenRSET: in go-smtp, the goroutine that reads the chunks may outlive the reset. Here there is no such goroutine. For
// the race detector.
func TestBDATThenRSET(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.talk(hello)
	for range 20 {
		c.talk(envelope + `
			W: "BDAT 14\r\n` + head + `BDAT 3\r\none"
			S: 250 2.0.0
			S: 250 2.0.0
			C: RSET
			S: 250 2.0.0
			C: BDAT 0 LAST
			S: 503 5.5.1
		`)
		if s.hop.want(); t.Failed() {
			return
		}
	}
	c.talk(quit)
}

// TestBDATOrder: commands that are not allowed between chunks (RFC 3030 §2, §3).
func TestBDATOrder(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.talk(hello + `
		W: "BDAT 6\r\nNOOP\r\n"
		S: 503 5.5.1 MAIL and RCPT first
		C: MAIL FROM:<alice@example.com>
		S: 250
		W: "BDAT 6 LAST\r\nNOOP\r\n"
		S: 503 5.5.1 RCPT first
		C: RCPT TO:<>
		S: 501 5.1.3
		W: "BDAT 6 LAST\r\nNOOP\r\n"
		S: 554 5.5.1 No valid recipients
		C: RCPT TO:<bob@example.net>
		S: 250
		W: "BDAT 14\r\n` + head + `"
		S: 250 2.0.0 14 octets
		C: DATA
		S: 503 5.5.1 DATA cannot follow BDAT
		C: RCPT TO:<carol@example.net>
		S: 503 5.5.1
		C: MAIL FROM:<alice@example.com>
		S: 503 5.5.1
		C: NOOP
		S: 250
		W: "bdat 5 last\r\none\r\n"
		S: 250 2.0.0 Ok: queued
		C: BDAT 0 LAST
		S: 503 5.5.1
	` + quit)
	s.hop.want("one\r\n")
}

// TestBDATAfterFailure: the chunks that a pipelining client sends after one that failed are read and refused. They are never read
// as commands or as a message (RFC 3030 §2).
func TestBDATAfterFailure(t *testing.T) {
	t.Parallel()
	s := start(t, limits(func(l *Limits) { l.MessageBytes = 20 }))
	s.talk(hello + envelope + `
		W: "BDAT 14\r\n` + head + `BDAT 10\r\n0123456789BDAT 6\r\nRSET\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n"
		S: 250 2.0.0 14 octets
		S: 552 5.3.4
		S: 503 5.5.1
		S: 503 5.5.1
		S: 250 2.0.0 Ok
	` + envelope + `
		W: "BDAT 19 LAST\r\n` + head + `one\r\n"
		S: 250 2.0.0 Ok: queued
	` + quit)
	s.hop.want("one\r\n")
}

// TestBDATSyntax: if the size of a chunk cannot be read, it is not known where the next command begins.
func TestBDATSyntax(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"", " ", " x", " -1", " +1", " 1 FIRST", " 1 LAST LAST", " 0x1", " 1e1", " 1  LAST", " 9999999999999999", " 99999999999999999999", " LAST", " 1LAST"} {
		t.Run(arg, func(t *testing.T) {
			s := startPipe(t)
			c := s.talk(hello + envelope)
			c.split("BDAT"+arg+"\r\n"+smuggled, 1<<20)
			reply, err := c.reply()
			if err != nil || reply[:9] != "501 5.5.4" {
				t.Errorf("got %q %v", reply, err)
			}
			c.talk("EOF")
			s.hop.want()
		})
	}
	s := startPipe(t)
	s.talk(hello + envelope + "C: BDAT 999999999999999 LAST\nS: 552 5.3.4\nEOF")
}

// TestTinyChunks: tiny chunks exhausted the memory of Postfix. Here the number of chunks is limited.
func TestTinyChunks(t *testing.T) {
	t.Parallel()
	s := startPipe(t)
	c := s.talk(hello + envelope)
	c.split(strings.Repeat("BDAT 0\r\n", 2000), 1<<20)
	n := 0
	for {
		reply, err := c.reply()
		if err != nil {
			t.Fatal(err)
		}
		if reply[:3] != "250" {
			if reply[:9] != "554 5.5.0" || n < 100 {
				t.Errorf("got %q after %d", reply, n)
			}
			break
		}
		n++
	}
	c.talk("EOF")
}

// TestBDATRefusalIsCounted: a message that is refused for its octets is logged, by DATA and by BDAT.
func TestBDATRefusalIsCounted(t *testing.T) {
	for name, script := range map[string]string{"DATA": "C: DATA\nS: 354\nW: \"a\\rb\"", "BDAT": `W: "BDAT 3\r\na\rb"`, "last": `W: "BDAT 2 LAST\r\na\r"`} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := startPipe(t)
				s.talk(hello + envelope + script + "\nS: 554 5.6.0\nEOF")
				s.stop()
				if log := s.log.String(); strings.Count(log, "message rejected") != 1 {
					t.Errorf("log: %s", log)
				}
			})
		})
	}
}
