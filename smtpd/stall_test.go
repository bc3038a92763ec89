package smtpd

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// bubble runs a test in which time passes as soon as all goroutines wait.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, f)
}

// TestDataStallIsNotCommands: the rest of a stalled message is not read. go-smtp answers a stall in DATA with 554 and then reads
// the rest of the body as commands.
func TestDataStallIsNotCommands(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := startPipe(t)
		c := s.talk(hello + envelope + "C: DATA\nS: 354\nC: From: alice@example.com\nC:\nC: body")
		time.Sleep(s.Limits.Data + time.Second)
		c.split(smuggled+".\r\n"+smuggled, 1<<20)
		c.talk("S: 421 4.4.2\nEOF")
		s.hop.want()
	})
}

// TestBDATStallIsNotCommands: the same in a chunk.
func TestBDATStallIsNotCommands(t *testing.T) {
	for _, last := range []string{"", " LAST"} {
		t.Run("BDAT"+last, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := startPipe(t)
				c := s.talk(hello + envelope + "C: BDAT 1000" + last + "\nC: From: alice@example.com\nC:\nC: body")
				time.Sleep(s.Limits.Data + time.Second)
				c.split(smuggled+smuggled, 1<<20)
				c.talk("S: 421 4.4.2\nEOF")
				s.hop.want()
			})
		})
	}
}

// TestRefusedChunkStall: a refused chunk is read too, within the same time.
func TestRefusedChunkStall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := startPipe(t)
		c := s.talk(hello + "C: BDAT 1000\nC: NOOP")
		time.Sleep(s.Limits.Data + time.Second)
		c.split(smuggled, 1<<20)
		c.talk("S: 421 4.4.2\nEOF")
	})
}

// TestSlowClientIsNotCut: the time-out counts from the last kilobyte; go-smtp's counts from DATA.
func TestSlowClientIsNotCut(t *testing.T) {
	for name, begin := range map[string]string{"DATA": "C: DATA\nS: 354", "BDAT": "C: BDAT 30772 LAST"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := startPipe(t)
				c := s.talk(hello + envelope + begin)
				c.split("Subject: slow\r\n\r\n", 1)
				line := strings.Repeat("x", 1023) + "\r\n"
				for range 30 { // each kilobyte is just in time, and all of them take longer than any deadline from the start
					time.Sleep(s.Limits.Data - time.Second)
					c.split(line, 100)
				}
				if name == "DATA" {
					c.split(".\r\n", 1)
				} else {
					c.split("end\r\n", 1)
				}
				c.talk("S: 250 2.0.0 Ok: queued" + quit)
				if n := len(s.hop.got()); n != 1 {
					t.Errorf("%d messages", n)
				}
			})
		})
	}
}

// TestTricklingClientIsCut: an octet now and then does not prolong the time.
func TestTricklingClientIsCut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := startPipe(t)
		c := s.talk(hello + envelope + "C: DATA\nS: 354")
		begin := time.Now()
		for range 100 {
			time.Sleep(s.Limits.Data / 10)
			if c.write("x") != nil {
				break
			}
		}
		if took := time.Since(begin); took > s.Limits.Data+s.Limits.Data/5 {
			t.Errorf("it took %v", took)
		}
		c.talk("S: 421 4.4.2\nEOF")
	})
}

// TestIdle: a whole command must arrive in time, in every state of the session. Single octets do not prolong the time.
func TestIdle(t *testing.T) {
	for name, script := range map[string]string{
		"fresh": "S: 220", "EHLO": hello, "MAIL": hello + "C: MAIL FROM:<>\nS: 250", "RCPT": hello + envelope,
		"half a command": hello + envelope + `W: "NOO"`, "between chunks": hello + envelope + "W: \"BDAT 3\\r\\nA: \"\nS: 250",
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := startPipe(t)
				c := s.talk(script)
				begin := time.Now()
				c.talk("S: 421 4.4.2 Timeout")
				if took := time.Since(begin); took != s.Limits.Idle {
					t.Errorf("it took %v", took)
				}
				c.split(smuggled, 1<<20)
				c.talk("EOF")
				s.hop.want()
			})
		})
	}
}

// TestHandshakeTimeout: a client that does not shake hands is disconnected.
func TestHandshakeTimeout(t *testing.T) {
	for name, implicit := range map[string]bool{"STARTTLS": false, "implicit": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := startPipe(t, func(_ *Server, l *Listener) { l.TLS = implicit })
				script := hello + "C: STARTTLS\nS: 220"
				if implicit {
					script = ""
				}
				c := s.talk(script)
				begin := time.Now()
				c.talk("EOF")
				if took := time.Since(begin); took < s.Limits.Handshake || took > s.Limits.Handshake+10*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// TestTimeoutIsLoggedAsSuch: the log has what the client was told, once, by DATA and by BDAT.
func TestTimeoutIsLoggedAsSuch(t *testing.T) {
	for name, script := range map[string]string{"DATA": "C: DATA\nS: 354\n", "BDAT": "C: BDAT 10\n"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := startPipe(t)
				s.talk(hello + envelope + script + "S: 421 4.4.2\nEOF")
				s.stop()
				if log := s.log.String(); strings.Count(log, "message deferred") != 1 || !strings.Contains(log, "421 4.4.2") || strings.Contains(log, "storage") {
					t.Errorf("log: %s", log)
				}
			})
		})
	}
}
