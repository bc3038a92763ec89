package smtpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/relay"
)

// hop changes the next hop.
func hop(f func(*recorder)) func(*Server, *Listener) {
	return func(s *Server, _ *Listener) { f(s.Relay.(*recorder)) }
}

// TestNextHopRefusesRecipient: the client gets the code, status and text of the next hop at RCPT; the other recipients get the
// message.
func TestNextHopRefusesRecipient(t *testing.T) {
	t.Parallel()
	s := start(t, hop(func(h *recorder) {
		h.rcpt = func(to message.Path) error {
			switch to.Local {
			case "nobody":
				return refusedBy("rcpt", 550, "5.1.1", "No such user\nhere")
			case "full":
				return refusedBy("rcpt", 452, "4.2.2", "Mailbox full")
			case "old":
				return refusedBy("rcpt", 554, "", "No")
			}
			return nil
		}
	}))
	s.talk(hello + `
		C: MAIL FROM:<alice@example.com>
		S: 250
		C: RCPT TO:<nobody@example.net>
		S: 550 5.1.1 No such user | here
		C: DATA
		S: 554 5.5.1 No valid recipients
		C: RCPT TO:<full@example.net>
		S: 452 4.2.2 Mailbox full
		C: RCPT TO:<bob@example.net>
		S: 250 2.1.5
		C: RCPT TO:<old@example.net>
		S: 554 5.0.0 No
	` + message1 + quit)
	if got := s.hop.got(); len(got) != 1 || len(got[0].to) != 1 || got[0].to[0].Local != "bob" {
		t.Errorf("%d messages", len(got))
	}
}

// TestNextHopFails: at each stage the client gets the truth, and never 250 for a message that no next hop has taken.
func TestNextHopFails(t *testing.T) {
	t.Parallel()
	down := &relay.Error{Hop: "test", Stage: "connect", Cause: errors.New("connection refused")}
	data := func(err error) func(*recorder) {
		return func(h *recorder) {
			h.data = func(context.Context, *letter) (message.Reply, error) { return message.Reply{}, err }
		}
	}
	const rcpt, sent = "C: MAIL FROM:<a@b.example>\nS: 250\nC: RCPT TO:<b@c.example>\n", "C: DATA\nS: 354\nW: \"x: y\\r\\n\\r\\n.\\r\\n\"\n"
	for name, tt := range map[string]struct {
		change func(*recorder)
		script string
		log    string
	}{
		"down": {func(h *recorder) { h.begin = func(relay.Envelope) error { return down } },
			rcpt + "S: 451 4.4.1\nC: RCPT TO:<d@c.example>\nS: 451 4.4.1\nC: DATA\nS: 554 5.5.1", "connection refused"},
		"MAIL refused": {func(h *recorder) {
			h.begin = func(relay.Envelope) error { return refusedBy("mail", 550, "5.7.1", "Not you") }
		}, rcpt + "S: 550 5.7.1 Not you", "Not you"},
		"lost at a second RCPT": {func(h *recorder) {
			h.rcpt = func(to message.Path) error {
				if to.Local == "d" {
					return &relay.Error{Reply: message.MustReply(451, "4.4.2", "It broke"), Hop: "test", Stage: "connect", Cause: io.EOF}
				}
				return nil
			}
		}, rcpt + "S: 250\nC: RCPT TO:<d@c.example>\nS: 451 4.4.2 It broke\nC: RCPT TO:<e@c.example>\nS: 451 4.4.2 It broke\n" + sent + "S: 451 4.4.2 It broke", "EOF"},
		"data refused":   {data(refusedBy("end-of-data", 554, "5.6.0", "Spam")), rcpt + "S: 250\n" + sent + "S: 554 5.6.0 Spam", "Spam"},
		"unknown error":  {data(io.ErrUnexpectedEOF), rcpt + "S: 250\n" + sent + "S: 451 4.4.1", "unexpected EOF"},
		"refusal of 250": {data(refusedBy("end-of-data", 250, "2.0.0", "Well")), rcpt + "S: 250\n" + sent + "S: 451 4.4.1", "Well"},
		"uncertain": {data(&relay.Error{Reply: message.MustReply(451, "4.4.2", "Perhaps"), Stage: "end-of-data", Uncertain: true}),
			rcpt + "S: 250\n" + sent + "S: 451 4.4.2 Perhaps", "possible duplicate"},
		"partial": {data(&relay.Error{Reply: message.MustReply(554, "5.0.0", "Not all"), Stage: "end-of-data", Partial: true}),
			rcpt + "S: 250\n" + sent + "S: 554 5.0.0 Not all", "for some recipients only"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, hop(tt.change))
			s.talk(hello + tt.script + "\nC: RSET\nS: 250" + quit)
			if s.hop.want(); !strings.Contains(s.log.String(), tt.log) {
				t.Errorf("the log does not say %q:\n%s", tt.log, s.log)
			}
			s.hop.ended()
		})
	}
}

// TestNextHopsReplyIsTheClients: the client gets the next hop's 250 unchanged, with an enhanced status added if it has none.
func TestNextHopsReplyIsTheClients(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ status, text, want string }{
		{"2.6.0", "Queued as 42\nfor bob", "250 2.6.0 Queued as 42 | for bob"}, {"", "Queued", "250 2.0.0 Queued"},
		{"2.0.0", "bell \a, eight \xff, CR \r500 x", "250 2.0.0 bell ?, eight ?, CR  | 500 x"},
	} {
		s := start(t, hop(func(h *recorder) {
			h.data = func(context.Context, *letter) (message.Reply, error) {
				return message.NewReply(250, tt.status, tt.text)
			}
		}))
		s.talk(hello + envelope + "C: DATA\nS: 354\nW: \"x: y\\r\\n\\r\\n.\\r\\n\"\nS: " + tt.want + quit)
	}
}

// TestSpooling: a message larger than memory goes to a file without a name, and memory stays flat.
func TestSpooling(t *testing.T) {
	const lines = 32 << 10
	block := []byte(strings.Repeat(strings.Repeat("z", 1022)+"\r\n", 1024))
	for name, order := range map[string]string{"DATA": "C: DATA\nS: 354", "BDAT": fmt.Sprintf("C: BDAT %d LAST", lines*1024+14)} {
		t.Run(name, func(t *testing.T) {
			var peak runtime.MemStats
			s := start(t, limits(func(l *Limits) { l.MessageBytes, l.SpoolMemory = 64<<20, 64<<10 }), hop(func(h *recorder) { h.discards = true }))
			s.hop.data = func(_ context.Context, m *letter) (message.Reply, error) {
				runtime.ReadMemStats(&peak)
				return message.MustReply(250, "2.0.0", "Ok"), nil
			}
			c := s.talk(hello + envelope)
			var before runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			c.talk(order)
			c.write("Subject: x\r\n\r\n")
			for range lines / 1024 {
				if _, err := c.conn.Write(block); err != nil { // without allocations of the client
					t.Fatal(err)
				}
			}
			if name == "DATA" {
				c.write(".\r\n")
			}
			c.talk("S: 250 2.0.0 Ok" + quit)
			// All allocations, including garbage, are far smaller than the message.
			if grown := peak.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
				t.Errorf("%d octets were allocated for a message of %d", grown, lines*1024)
			}
			if names, err := os.ReadDir(s.SpoolDir); err != nil || len(names) > 0 {
				t.Errorf("left in the spool: %v %v", names, err)
			}
		})
	}
}

// TestSpoolBytes: what is read from the file is what was written, and the file is gone.
func TestSpoolBytes(t *testing.T) {
	t.Parallel()
	body := ""
	for i := range 3000 {
		body += fmt.Sprintf("line %d\r\n", i)
	}
	for name, total := range map[string]int64{"own": 1 << 20, "total": 1} { // "total": other messages use all of the memory
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, limits(func(l *Limits) { l.SpoolMemory, l.SpoolMemoryTotal = 8<<10, total }))
			c := s.talk(hello + envelope + "C: DATA\nS: 354")
			c.split("Subject: x\r\n\r\n"+body+".\r\n", 777)
			c.talk("S: 250 2.0.0 Ok" + quit)
			s.hop.want(body)
			if n := s.place.InMemory.Used() + s.place.OnDisk.Used(); n != 0 {
				t.Errorf("%d octets are still taken", n)
			}
		})
	}
}

// TestFullDisk: the client gets 452 after its data, and the connection goes on.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	s := start(t, func(s *Server, _ *Listener) { s.SpoolDir = "/nonexistent/spool" })
	big := strings.Repeat(strings.Repeat("x", 998)+"\r\n", 300)
	c := s.talk(hello + envelope + "C: DATA\nS: 354")
	c.split("Subject: x\r\n\r\n"+big+".\r\n", 1<<20)
	c.talk("S: 452 4.3.1" + envelope)
	c.split(fmt.Sprintf("BDAT %d LAST\r\n%s", len(big), big), 1<<20)
	c.talk("S: 452 4.3.1" + envelope + message1 + quit)
	s.hop.want("one\r\n")
}
