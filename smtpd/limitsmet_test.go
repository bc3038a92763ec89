package smtpd

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/message"
)

// counts gives the server metrics.
func counts(r *prometheus.Registry) func(*Server, *Listener) {
	return func(s *Server, _ *Listener) { s.Metrics = NewMetrics(r) }
}

// free checks that nothing is held any more.
func (s *site) free(t *testing.T, r *prometheus.Registry) {
	t.Helper()
	for _, name := range []string{"spool_memory_bytes", "spool_disk_bytes", "connections", "in_flight"} {
		if n := gather(t, r)["postern_submission_"+name]; n != 0 {
			t.Errorf("%s is %v", name, n)
		}
	}
}

// metTests are limits, each with a dialogue that hits it.
var metTests = []struct {
	limit  string
	set    func(*Limits)
	value  string // in the log
	script string // after EHLO
}{
	{"commands", func(l *Limits) { l.Commands = 3 }, "3", "C: NOOP\nS: 250\nC: RSET\nS: 250\nC: NOOP\nS: 421 4.7.0 Too many commands without a message\nEOF"},
	{"errors", func(l *Limits) { l.Errors = 1 }, "1", "C: FOO\nS: 500\nC: FOO\nS: 500\nS: 421 4.7.0 Too many errors\nEOF"},
	{"messages", func(l *Limits) { l.Messages = 2 }, "2", envelope + message1 + envelope + message1 + "C: MAIL FROM:<alice@example.com>\nS: 421 4.7.0 Too many messages on one connection\nEOF"},
	{"message_bytes", func(l *Limits) { l.MessageBytes = 99 }, "99", "C: MAIL FROM:<a@b.example> SIZE=100\nS: 552 5.3.4" + quit},
	{"message_bytes", func(l *Limits) { l.MessageBytes = 9 }, "9", envelope + "C: DATA\nS: 354\nC: Subject: x\nC:\nC: .\nS: 552 5.3.4" + quit},
	{"message_bytes", func(l *Limits) { l.MessageBytes = 9 }, "9", envelope + "W: \"BDAT 14\\r\\n" + head + "\"\nS: 552 5.3.4" + quit},
	{"recipients", func(l *Limits) { l.Recipients = 1 }, "1", envelope + "C: RCPT TO:<c@example.net>\nS: 452 4.5.3" + message1 + quit},
	{"recipients", func(l *Limits) { l.Recipients = 1 }, "1", "C: MAIL FROM:<a@b.example>\nS: 250\n" + manyRecipients + "S: 452 4.5.3" + quit},
	{"header_bytes", func(l *Limits) { l.Header.Bytes = 50 }, "50", envelope + "C: DATA\nS: 354\nC: A: 0123456789012345678901234567890\nC: B: 0123456789\nC:\nC: .\nS: 552 5.3.4 Message header" + quit},
	{"header_fields", func(l *Limits) { l.Header.Fields = 2 }, "2", envelope + "C: DATA\nS: 354\nC: A: b\nC: B: c\nC: C: d\nC:\nC: .\nS: 552 5.3.4 Message header" + quit},
	{"header_field_bytes", func(l *Limits) { l.Header.FieldBytes = 40 }, "40", envelope + "C: DATA\nS: 354\nC: From: 0123456789012345678901234567890123456789\nC:\nC: .\nS: 552 5.3.4 Message header" + quit},
	{"command_line", func(l *Limits) { l.CommandLine = 600 }, "600", "C: NOOP " + strings.Repeat("x", 594) + "\nS: 500 5.5.2 Line too long\nEOF"},
	{"line", func(l *Limits) { l.Line = 1000 }, "1000", envelope + "C: DATA\nS: 354\nC:\nC: " + strings.Repeat("x", 999) + "\nC: .\nS: 554 5.6.0 The message has a line of more than 1000 octets" + envelope + message1 + quit},
	{"line", func(l *Limits) { l.Line = 1000 }, "1000", envelope + "W: \"BDAT 1003 LAST\\r\\n\\r\\n" + strings.Repeat("x", 999) + "\\r\\n\"\nS: 554 5.6.0" + envelope + message1 + quit},
	{"line", func(l *Limits) { l.Line = 1000 }, "1000", envelope + "W: \"BDAT 602\\r\\n\\r\\n" + strings.Repeat("x", 600) + "\"\nS: 250\nW: \"BDAT 399 LAST\\r\\n" + strings.Repeat("x", 399) + "\"\nS: 554 5.6.0" + quit},
	{"chunks", func(l *Limits) { l.Chunks = 2 }, "2", envelope + "C: BDAT 0\nS: 250\nC: BDAT 0\nS: 250\nC: BDAT 0\nS: 554 5.5.0 Too many small chunks\nEOF"},
	{"memory", func(l *Limits) { l.SpoolMemoryTotal = 10 }, "10", envelope + message1 + quit},
	{"disk", func(l *Limits) { l.SpoolMemoryTotal, l.SpoolDisk = 10, 20 }, "20", envelope + "C: DATA\nS: 354\nC: Subject: longer than that\nC:\nC: .\nS: 452 4.3.1" + quit},
	{"disk", func(l *Limits) { l.SpoolMemoryTotal, l.SpoolDisk = 10, 20 }, "20", "C: MAIL FROM:<a@b.example> SIZE=21\nS: 452 4.3.1\nC: MAIL FROM:<a@b.example> SIZE=20\nS: 250" + quit},
	{"disk", func(l *Limits) { l.SpoolMemoryTotal, l.SpoolDisk = 10, 20 }, "20", envelope + "W: \"BDAT 14\\r\\n" + head + "\"\nS: 250\nW: \"BDAT 7\\r\\n01234\\r\\n\"\nS: 452 4.3.1" + quit},
}

var manyRecipients = strings.Repeat("C: RCPT TO:<bad@@c>\nS: 501\n", 9) + "C: RCPT TO:<bob@example.net>\nS: 250\nC: RSET\nS: 250\nC: MAIL FROM:<a@b.example>\nS: 250\nC: RCPT TO:<bob@example.net>\n"

// TestLimitsAreMet: the reply to a client that hits a limit, the metric and the log line. Another client is still served, and
// nothing is held afterwards.
func TestLimitsAreMet(t *testing.T) {
	t.Parallel()
	for n, tc := range metTests {
		t.Run(fmt.Sprint(n, " ", tc.limit), func(t *testing.T) {
			t.Parallel()
			r := prometheus.NewRegistry()
			s := start(t, limits(tc.set), counts(r))
			other := s.talk(hello)
			s.talk(hello + tc.script)
			got := gather(t, r)
			for _, name := range countedLimits() {
				if n := got["postern_submission_limit_hits_total "+name]; (n > 0) != (name == tc.limit) && !(name == "memory" && tc.limit == "disk") {
					t.Errorf("%s was met %v times", name, n)
				}
			}
			if log := s.log.String(); !strings.Contains(log, `msg="limit met"`) || !strings.Contains(log, "limit="+tc.limit+" value="+tc.value+" client=127.0.0.1") {
				t.Errorf("log: %s", log)
			}
			other.talk("C: NOOP\nS: 250" + quit)
			s.stop()
			s.free(t, r)
		})
	}
}

// TestConnectionsAreMet: the limits of connections, in all and from one address, and of failed logins.
func TestConnectionsAreMet(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]func(*Limits){"connections": func(l *Limits) { l.Connections = 1 }, "connections_per_ip": func(l *Limits) { l.ConnectionsPerIP = 1 }} {
		r := prometheus.NewRegistry()
		s := start(t, limits(f), counts(r))
		inside := s.talk(hello)
		s.talk("S: 421 4.\nEOF")
		if n := gather(t, r)["postern_submission_limit_hits_total "+name]; n != 1 || !strings.Contains(s.log.String(), "limit="+name+" value=1 client=127.0.0.1") {
			t.Errorf("%s was met %v times, log %s", name, n, s.log)
		}
		inside.talk(envelope + message1 + quit)
		s.stop()
		s.free(t, r)
	}
	r := prometheus.NewRegistry()
	s := start(t, limits(func(l *Limits) { l.AuthFailures = 1 }), counts(r))
	s.talk(secure + "C: AUTH PLAIN {alice:guess}\nS: 421 4.7.0\nEOF")
	if n := gather(t, r)["postern_submission_limit_hits_total auth_failures"]; n != 1 {
		t.Errorf("auth_failures was met %v times", n)
	}
	s.talk(secure + "C: AUTH PLAIN {alice:secret}\nS: 235" + quit)
}

// TestTimesAreMet: each time-out is counted by its own name, and nothing is held afterwards.
func TestTimesAreMet(t *testing.T) {
	const after = "S: 421 4.4.2\nEOF"
	for name, tc := range map[string]struct {
		limit, script string
		took          time.Duration
		set           func(*Limits)
	}{
		"idle":          {"idle", hello + after, 5 * time.Minute, nil},
		"half a line":   {"idle", hello + "W: \"NOO\"\n" + after, 5 * time.Minute, nil},
		"in RCPT":       {"idle", hello + envelope + after, 5 * time.Minute, nil},
		"AUTH":          {"idle", secure + "C: AUTH LOGIN\nS: 334\n" + after, 5 * time.Minute, nil},
		"data":          {"data", hello + envelope + "C: DATA\nS: 354\nC: x: y\n" + after, 3 * time.Minute, nil},
		"chunk":         {"data", hello + envelope + "C: BDAT 100\nC: x: y\n" + after, 3 * time.Minute, nil},
		"refused chunk": {"data", hello + "C: BDAT 100\nC: x: y\n" + after, 3 * time.Minute, nil},
		"transaction":   {"transaction", hello + envelope + after, time.Minute, func(l *Limits) { l.Transaction = time.Minute }},
		"message":       {"transaction", hello + envelope + "C: DATA\nS: 354\nC: x: y\n" + after, time.Minute, func(l *Limits) { l.Transaction = time.Minute }},
		"chunks":        {"transaction", hello + envelope + "C: BDAT 6\nC: x: y\nS: 250\n" + after, time.Minute, func(l *Limits) { l.Transaction = time.Minute }},
		"handshake":     {"handshake", hello + "C: STARTTLS\nS: 220\nEOF", 30 * time.Second, nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := prometheus.NewRegistry()
				s := startPipe(t, counts(r), limits(func(l *Limits) {
					if tc.set != nil {
						tc.set(l)
					}
				}))
				began := time.Now()
				s.talk(tc.script)
				if took := time.Since(began); took < tc.took || took > tc.took+10*time.Second {
					t.Errorf("it took %v", took)
				}
				s.stop()
				got := gather(t, r)
				for _, name := range countedLimits() {
					if n := got["postern_submission_limit_hits_total "+name]; n != map[bool]float64{true: 1}[name == tc.limit] {
						t.Errorf("%s was met %v times", name, n)
					}
				}
				s.free(t, r)
			})
		})
	}
}

// TestDribble: a client that sends an octet now and then gets no more time for a command, a handshake or a message.
func TestDribble(t *testing.T) {
	for name, tc := range map[string]struct {
		script string
		most   time.Duration
		piece  string
	}{
		"command":   {hello, 5 * time.Minute, "x"},
		"message":   {hello + envelope + "C: DATA\nS: 354", 2 * time.Hour, strings.Repeat("x", 1100) + "\r\n"}, // more than data asks for
		"handshake": {hello + "C: STARTTLS\nS: 220", 30 * time.Second, "\x16"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := startPipe(t)
				c := s.talk(tc.script)
				began := time.Now()
				for c.write(tc.piece) == nil && time.Since(began) < 3*tc.most {
					time.Sleep(tc.most / 100)
				}
				if took := time.Since(began); took > tc.most+tc.most/10 {
					t.Errorf("it took %v", took)
				}
				s.hop.want()
			})
		})
	}
}

// TestShutdownInterruptsHandshakes: a client that does not shake hands, or sends no PROXY header, does not delay Shutdown.
func TestShutdownInterruptsHandshakes(t *testing.T) {
	for name, tc := range map[string]struct {
		script, after string
		change        func(*Server, *Listener)
	}{
		"STARTTLS": {hello + "C: STARTTLS\nS: 220", "EOF", nil},
		"implicit": {"", "EOF", func(_ *Server, l *Listener) { l.TLS = true }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := startPipe(t, func(s *Server, l *Listener) {
					if tc.change != nil {
						tc.change(s, l)
					}
				})
				c := s.talk(tc.script)
				time.Sleep(time.Second)
				began := time.Now()
				s.stop()
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("Shutdown took %v", took)
				}
				c.talk(tc.after)
			})
		})
	}
	t.Run("PROXY", func(t *testing.T) {
		t.Parallel()
		s := start(t, trusting)
		c := s.connect()
		c.write("PROXY TCP4 ")
		for range 1000 { // until the server reads it
			if len(s.table.all()) > 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		c.talk("S: 421 4.3.2 The server is shutting down\nEOF")
	})
}

// TestNothingIsHeld: many transactions that end in all ways but the ordinary one, while others go on, leave no memory and no disk
// in use.
func TestNothingIsHeld(t *testing.T) {
	t.Parallel()
	r := prometheus.NewRegistry()
	s := start(t, counts(r), limits(func(l *Limits) {
		l.SpoolMemory, l.SpoolMemoryTotal, l.MessageBytes, l.ConnectionsPerIP = 8<<10, 64<<10, 64<<10, 200
	}), func(s *Server, _ *Listener) { s.Log = slog.New(slog.DiscardHandler) })
	s.hop.data = func(_ context.Context, m *letter) (message.Reply, error) {
		if strings.Contains(string(m.body), "panic") {
			panic("a storm")
		}
		return message.Reply{}, nil
	}
	body := strings.Repeat(strings.Repeat("y", 98)+"\r\n", 300) // in a file
	ways := map[string]func(*client){
		"cut in DATA":  func(c *client) { c.write("DATA\r\nSubject: x\r\n\r\n" + body); c.conn.Close() },
		"cut in BDAT":  func(c *client) { c.write("BDAT 60000\r\nSubject: x\r\n\r\n" + body); c.conn.Close() },
		"RSET":         func(c *client) { c.write("BDAT 30000\r\n" + body + "RSET\r\nQUIT\r\n") },
		"EHLO":         func(c *client) { c.write("BDAT 30000\r\n" + body + "EHLO x\r\nQUIT\r\n") },
		"between":      func(c *client) { c.write("BDAT 30000\r\n" + body); c.conn.Close() },
		"bare CR":      func(c *client) { c.write("DATA\r\nSubject: x\r\n\r\n" + body + "a\rb") },
		"too large":    func(c *client) { c.write("DATA\r\nSubject: x\r\n\r\n" + body + body + body + ".\r\nQUIT\r\n") },
		"large header": func(c *client) { c.write("DATA\r\n" + strings.Repeat("a: b\r\n", 2000) + ".\r\nQUIT\r\n") },
		"panic":        func(c *client) { c.write("DATA\r\nSubject: panic\r\n\r\n" + body + ".\r\n") },
		"small, panic": func(c *client) { c.write("DATA\r\nSubject: panic\r\n\r\n.\r\n") },
		"taken":        func(c *client) { c.write("DATA\r\nSubject: x\r\n\r\n" + body + ".\r\nQUIT\r\n") },
	}
	done := make(chan error)
	for _, way := range ways {
		for range 8 {
			go func() {
				conn, err := s.dial()
				if err == nil {
					c := &client{t: t, conn: conn}
					conn.SetDeadline(time.Now().Add(patience))
					c.write("EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<b@c.example>\r\n")
					way(c)
					conn.(*net.TCPConn).CloseWrite()
					buf := make([]byte, 1024)
					for err == nil {
						_, err = conn.Read(buf)
					}
					err = nil
					conn.Close()
				}
				done <- err
			}()
		}
	}
	for range 8 * len(ways) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	s.talk(hello + envelope + message1 + quit)
	s.stop()
	s.free(t, r)
	s.hop.ended()
	if n := len(s.hop.got()); n != 9 {
		t.Errorf("%d messages were taken", n)
	}
}

// TestDiskIsShared: while messages under way use all of the disk, another one gets 452 and its connection goes on. Those under
// way are accepted, and then there is room again.
func TestDiskIsShared(t *testing.T) {
	t.Parallel()
	r := prometheus.NewRegistry()
	s := start(t, counts(r), limits(func(l *Limits) { l.SpoolMemory, l.SpoolMemoryTotal, l.SpoolDisk = 4<<10, 4<<10, 100_000 }))
	body := strings.Repeat(strings.Repeat("z", 98)+"\r\n", 900)
	first := s.talk(hello + envelope + "C: DATA\nS: 354")
	first.write("Subject: first\r\n\r\n" + body)
	for range 2000 { // until the server has read it
		if gather(t, r)["postern_submission_spool_disk_bytes"] > 80_000 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	second := s.talk(hello + "C: MAIL FROM:<a@b.example> SIZE=90000\nS: 452 4.3.1" + envelope + "C: DATA\nS: 354")
	second.split("Subject: second\r\n\r\n"+body+".\r\n", 1<<20)
	second.talk("S: 452 4.3.1 Insufficient system storage" + envelope + message1)
	first.talk("C: .\nS: 250 2.0.0 Ok: queued" + quit)
	second.talk("C: MAIL FROM:<a@b.example> SIZE=90000\nS: 250\nC: RCPT TO:<b@c.example>\nS: 250\nC: DATA\nS: 354")
	second.split("Subject: again\r\n\r\n"+body+".\r\n", 1<<20)
	second.talk("S: 250 2.0.0 Ok: queued" + quit)
	s.stop()
	s.free(t, r)
}

// TestSlowReader: a client that does not take its replies is disconnected, and that is counted.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	r := prometheus.NewRegistry()
	s := start(t, counts(r), limits(func(l *Limits) { l.Write, l.Commands = 50*time.Millisecond, 1<<30 }))
	c := s.talk(hello)
	c.conn.(*net.TCPConn).SetReadBuffer(1)
	flood := strings.Repeat("HELP\r\n", 1000)
	for began := time.Now(); time.Since(began) < patience; {
		if c.write(flood) != nil {
			break
		}
	}
	s.talk(hello + quit)
	s.stop()
	got := gather(t, r)
	if write, idle := got["postern_submission_limit_hits_total write"], got["postern_submission_limit_hits_total idle"]; write != 1 || idle != 0 {
		t.Errorf("write was hit %v times, idle %v times", write, idle)
	}
}

// TestHandshakeIsCounted: a handshake that takes too long is counted under implicit TLS, where no reply is possible.
func TestHandshakeIsCounted(t *testing.T) {
	t.Parallel()
	r := prometheus.NewRegistry()
	s := start(t, counts(r), limits(func(l *Limits) { l.Handshake = 50 * time.Millisecond }), func(_ *Server, l *Listener) { l.TLS = true })
	c := s.connect()
	c.talk("EOF")
	if n := gather(t, r)["postern_submission_limit_hits_total handshake"]; n != 1 {
		t.Errorf("handshake was met %v times", n)
	}
}

// TestUnusedConnectionsAreMet: connections that end without a login or a message count for about a second more, and too many of them are
// refused. Connections that were used do not count.
func TestUnusedConnectionsAreMet(t *testing.T) {
	t.Parallel()
	r := prometheus.NewRegistry()
	s := start(t, limits(func(l *Limits) { l.UnusedPerIP = 1 }), counts(r))
	for range 5 {
		s.talk(hello + envelope + message1 + quit)
		s.talk(secure + "C: AUTH PLAIN {alice:secret}\nS: 235" + quit)
	}
	if n := gather(t, r)["postern_submission_limit_hits_total unused_per_ip"]; n != 0 {
		t.Errorf("connections that were used counted %v times as too many", n)
	}
	greeting := ""
	for tries := 0; !strings.HasPrefix(greeting, "421") && tries < 50; tries++ { // on a busy machine, the first has been forgotten when the second comes
		conn, err := s.dial()
		if err != nil {
			t.Fatal(err)
		}
		if greeting, err = bufio.NewReader(conn).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	if n := gather(t, r)["postern_submission_limit_hits_total unused_per_ip"]; n != 1 || greeting != "421 4.7.0 Too many connections from your address\r\n" ||
		!strings.Contains(s.log.String(), "limit=unused_per_ip value=1 client=127.0.0.1") {
		t.Errorf("unused_per_ip was met %v times, the reply is %q, log %s", n, greeting, s.log)
	}
	time.Sleep(2 * unusedTime)
	s.talk(hello + quit)
	s.stop()
	s.free(t, r)
}

// TestUnusedTime: a connection that was not used counts for half of unusedTime at least, and twice of it at most. Networks that have
// nothing any more are forgotten.
func TestUnusedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, limits := new(connections), &Limits{ConnectionsPerIP: 3, UnusedPerIP: 2}
		here, there := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
		add := func(from netip.Prefix, want string) {
			t.Helper()
			if got := table.addFrom(from, limits); got != want {
				t.Errorf("one more from %s: %q, want %q", from, got, want)
			}
		}
		for range 2 {
			add(here, "")
			table.remove(nil, here, true)
		}
		add(here, "unused_per_ip")
		add(there, "")
		table.remove(nil, there, false)
		time.Sleep(unusedTime/2 - time.Millisecond)
		add(here, "unused_per_ip")
		time.Sleep(unusedTime + 2*time.Millisecond)
		for range 3 {
			add(here, "")
		}
		add(here, "connections_per_ip")
		for range 3 {
			table.remove(nil, here, false)
		}
		if len(table.network) != 0 {
			t.Errorf("these networks are still counted: %v", table.network)
		}
	})
}
