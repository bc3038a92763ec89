package smtpd

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// TestCommandLine: command lines have up to 2048 octets with their CRLF, whether they come whole or in pieces.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	for split, size := range map[string]int{"whole": 1 << 20, "pieces": 100} {
		t.Run(split, func(t *testing.T) {
			s := startPipe(t)
			c := s.talk(hello)
			c.split("NOOP "+strings.Repeat("x", 2048-7)+"\r\n", size)
			c.talk("S: 250 2.0.0")
			c.split("NOOP "+strings.Repeat("x", 2048-6)+"\r\n"+smuggled, size)
			c.talk("S: 500 5.5.2 Line too long\nEOF")
			s.hop.want()
		})
	}
}

// TestLongLineIsNotSkipped: a line that is too long ends the connection; what follows it is not read.
func TestLongLineIsNotSkipped(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.talk(secure)
	c.split("NOOP "+strings.Repeat("x", 3000)+"\r\nAUTH PLAIN "+expand("{alice:secret}")+"\r\n", 1<<20)
	c.talk("S: 500 5.5.2 Line too long\nEOF")
}

// TestAuthLine: an AUTH line and an answer may have 12288 octets (RFC 4954 §4). A long password must not end the connection.
func TestAuthLine(t *testing.T) {
	t.Parallel()
	for split, size := range map[string]int{"whole": 1 << 20, "pieces": 100} {
		t.Run(split, func(t *testing.T) {
			s := startPipe(t, limits(func(l *Limits) { l.AuthFailures = 10 }))
			c := s.talk(secure)
			c.split("AUTH PLAIN "+expand("{alice:"+strings.Repeat("x", 2000)+"}")+"\r\n", size) // fits into a small buffer
			c.talk("S: 535 5.7.8")
			long := expand("{alice:" + strings.Repeat("x", 9190) + "}") // 12264
			c.split("AUTH PLAIN "+long+"\r\n", size)
			c.talk("S: 535 5.7.8\nC: AUTH PLAIN\nS: 334")
			c.split(long+"\r\n", size)
			c.talk("S: 535 5.7.8\nC: NOOP\nS: 250\nC: AUTH PLAIN\nS: 334")
			c.split(strings.Repeat("x", 12287)+"\r\n", size)
			c.talk("S: 500 5.5.2 Line too long\nEOF")
		})
	}
}

// TestBareLineEnds: a command line ends in CRLF (RFC 5321 §2.3.8).
func TestBareLineEnds(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"NOOP\nNOOP\r\n", "NOOP\rNOOP\r\n", "NOOP\r\r\nNOOP\r\n", "\nNOOP\r\n"} {
		s := startPipe(t)
		c := s.talk(hello)
		c.write(line)
		c.talk("S: 500 5.5.2\nEOF")
	}
}

// TestErrorsLimit: all refused commands count; go-smtp counts only unknown and short ones.
func TestErrorsLimit(t *testing.T) {
	t.Parallel()
	s := start(t, limits(func(l *Limits) { l.Errors = 10 }))
	for line, want := range map[string]string{
		"FOO": "500 5.5.2", "": "500 5.5.2", "EHLO a\tb": "501 5.5.4", "MAIL FROM:x": "501 5.5.4", "RCPT TO:<x>": "503 5.5.1", "DATA": "503 5.5.1",
		"EXPN x": "502 5.5.1", "VRFY": "501 5.5.4", "RSET x": "501 5.5.4", "BDAT 0": "503 5.5.1", "AUTH PLAIN": "530 5.7.0", " NOOP": "500 5.5.2",
		"NOOP \xff": "501 5.5.4",
	} {
		c := s.talk(hello)
		for range 11 {
			c.refused(line, want)
		}
		c.talk("S: 421 4.7.0 Too many errors\nEOF")
	}
}

// TestFloods: go-smtp accepts 20,000 NOOPs. Here all commands that lead nowhere are counted. A message resets the count.
func TestFloods(t *testing.T) {
	t.Parallel()
	s := startPipe(t, limits(func(l *Limits) { l.Recipients = 2 }))
	for name, lines := range map[string]string{
		"NOOP": "NOOP", "VRFY": "VRFY x", "HELP": "HELP", "RSET": "RSET", "EHLO": "EHLO x", "HELO": "HELO x",
		"MAIL": "MAIL FROM:<a@b.example>\r\nRSET", "RCPT": "RCPT TO:<b@c.example>", "all": "NOOP\r\nRSET\r\nVRFY x\r\nMAIL FROM:<>\r\nRCPT TO:<b@c.example>",
	} {
		t.Run(name, func(t *testing.T) {
			c := s.talk(hello + "C: MAIL FROM:<a@b.example>\nS: 250")
			c.split(strings.Repeat(lines+"\r\n", 1000), 1<<20)
			for n := 0; ; n++ {
				reply, err := c.reply()
				if err != nil || n > 300 {
					t.Fatalf("after %d replies: %q %v", n, reply, err)
				}
				if strings.HasPrefix(reply, "421 4.7.0") {
					break
				}
			}
			c.talk("EOF")
		})
	}
	c := s.talk(hello)
	for range 3 {
		c.talk(strings.Repeat("C: NOOP\nS: 250\n", 80) + envelope + message1)
	}
}

// TestRecipientLimit: 452 4.5.3 asks the client to send the rest in another transaction (RFC 5321 §4.5.3.1.10).
func TestRecipientLimit(t *testing.T) {
	t.Parallel()
	s := start(t, limits(func(l *Limits) { l.Recipients = 2 }))
	s.talk(hello + envelope + `
		C: RCPT TO:<carol@example.net>
		S: 250 2.1.5
		C: RCPT TO:<dave@example.net>
		S: 452 4.5.3
	` + message1 + envelope + message1 + quit)
	if got := s.hop.got(); len(got) != 2 || len(got[0].to) != 2 {
		t.Errorf("%d messages", len(got))
	}
}

// TestConnectionCap: the limits of connections in all and per address.
func TestConnectionCap(t *testing.T) {
	t.Parallel()
	s := start(t, limits(func(l *Limits) { l.Connections = 2 }))
	a, b := s.talk("S: 220"), s.talk("S: 220")
	s.talk("S: 421 4.3.2 Too many connections, try again later\nEOF")
	a.talk(quit)
	s.eventually("S: 220 ")
	b.talk(quit)

	s = start(t, limits(func(l *Limits) { l.ConnectionsPerIP = 2 }))
	a, _ = s.talk("S: 220"), s.talk("S: 220")
	s.talk("S: 421 4.7.0 Too many connections from your address\nEOF")
	a.talk(quit)
	s.eventually("S: 220 ")
}

// eventually connects until the greeting is the one wanted, because a connection counts until the server has closed it.
func (s *site) eventually(want string) {
	s.t.Helper()
	var err error
	for range 1000 {
		c := s.connect()
		if err = c.line(want); err == nil {
			return
		}
		c.conn.Close()
	}
	s.t.Error(err)
}

// TestConnectionCapWithoutAddress: connections of clients without an IP address, on a unix socket, have no limit per address.
func TestConnectionCapWithoutAddress(t *testing.T) {
	t.Parallel()
	s := startPipe(t, limits(func(l *Limits) { l.ConnectionsPerIP = 2 }))
	for range 5 {
		s.talk("S: 220")
	}
}

// TestNotAMailClient: a browser that was tricked into connecting must not get as far as the commands in its request.
func TestNotAMailClient(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.talk("S: 220")
	c.split("POST / HTTP/1.1\r\nHost: mail.example.com\r\n\r\nEHLO x\r\n"+smuggled, 1<<20)
	c.talk("S: 421 4.7.0\nEOF")
	s.hop.want()
}

// TestIDs: ids are unique, also if they are made at the same time, and sort by time.
func TestIDs(t *testing.T) {
	t.Parallel()
	var n ids
	if err := n.seed(strings.NewReader("\xff\xff\xff\xff")); err != nil {
		t.Fatal(err)
	}
	if err := n.seed(strings.NewReader("")); err == nil {
		t.Error("no randomness, and no error")
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	seen := map[string]bool{}
	for i := range 4 {
		wg.Go(func() {
			for range 1000 {
				id := n.next(time.UnixMilli(int64(i)))
				mu.Lock()
				seen[id] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 4000 {
		t.Errorf("%d ids", len(seen))
	}
}
