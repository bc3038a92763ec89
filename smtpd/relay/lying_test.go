package relay

import (
	"crypto/tls"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// TestLies: a next hop that sends a wrong reply at a wrong time. The client gets no 250 unless the next hop accepted the message after
// the end of data, and a message that it may have is not tried again.
func TestLies(t *testing.T) {
	testenv.NotShort(t, "many time-outs")
	type say = map[string]string
	for _, tc := range []struct {
		name  string
		s     script
		stage string // "": the message arrives
		out   int
	}{
		{"greeted twice", script{say: say{"greeting": "220 fake.example\r\n220 fake.example\r\n"}}, stageConnect, lost},
		{"greeted with 250", script{say: say{"greeting": "250 fake.example\r\n"}}, stageConnect, lost},
		{"greeted with 354", script{say: say{"greeting": "354 Go on\r\n"}}, stageConnect, lost},
		{"greeted with 554", script{say: say{"greeting": "554 5.7.1 Not you\r\n"}}, stageConnect, lost},
		{"greeted with 421", script{say: say{"greeting": "421 4.3.2 Too busy\r\n"}}, stageConnect, lost},
		{"EHLO and MAIL answered at once", script{say: say{"EHLO": "250-fake.example\r\n250 PIPELINING\r\n250 Ok\r\n"}}, stageMail, lost},
		{"EHLO answered with 220", script{say: say{"EHLO": "220 fake.example\r\n"}}, stageConnect, lost},
		{"EHLO answered with 421", script{say: say{"EHLO": "421 4.3.2 No\r\n"}}, stageConnect, lost},
		{"one answer to MAIL and RCPT", script{say: say{"RCPT": ""}}, stageRcpt, lost},
		{"three answers to MAIL and RCPT", script{say: say{"RCPT": "250 2.1.5 Ok\r\n250 2.1.5 Ok\r\n"}}, stageRcpt, lost},
		{"MAIL answered with 354", script{say: say{"MAIL": "354 Go on\r\n"}}, stageMail, lost},
		{"DATA answered with 250", script{say: say{"DATA": "250 2.0.0 Ok\r\n"}}, stageData, lost},
		{"DATA answered with 334", script{say: say{"DATA": "334 Go on\r\n"}}, stageData, lost},
		{"DATA answered with 355", script{say: say{"DATA": "355 Go on\r\n"}}, stageData, lost},
		{"DATA answered with 354 and 250", script{say: say{"DATA": "354 Go on\r\n250 2.0.0 Ok: queued\r\n"}}, stageData, lost},
		{"DATA answered with 354 and half a 250", script{say: say{"DATA": "354 Go on\r\n25"}}, stageData, lost},
		{"DATA answered with 354 twice", script{say: say{"DATA": "354 Go on\r\n354 Go on\r\n"}}, stageData, lost},
		{"the message answered with 354", script{say: say{"dot": "354 Go on\r\n"}}, stageEnd, uncertain},
		{"the message answered with 250-", script{say: say{"dot": "250-2.0.0 Ok\r\n"}}, stageEnd, uncertain},
		{"the message answered with 250 and 554", script{say: say{"dot": "250-2.0.0 Ok\r\n554 5.0.0 No\r\n"}}, stageEnd, uncertain},
		{"the message answered without CR", script{say: say{"dot": "250 2.0.0 Ok\n"}}, stageEnd, uncertain},
		{"the message answered with NUL", script{say: say{"dot": "250 2.0.0 Ok\x00\r\n"}}, "", delivered},
		{"the message answered and 421 behind", script{say: say{"dot": "250 2.0.0 Ok\r\n421 4.3.2 Down\r\n"}}, "", delivered},
		{"QUIT and RSET hang", script{at: func(c *fakeConn, stage string) bool { return (stage == "QUIT" || stage == "RSET") && c.die(hangs) }}, "", delivered},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			hop, other := startHop(t, tc.s), startHop(t, script{})
			o := Options{Timeouts: Timeouts{Command: 2 * time.Second, Final: 500 * time.Millisecond}}
			if strings.HasPrefix(tc.name, "one answer") {
				o.Timeouts.Command = 300 * time.Millisecond
			}
			h := openHop(t, o, hop.url)
			began := time.Now()
			err := send(h, "X1", small)
			if out := outcome(err); out != tc.out || err != nil && failure(t, err).Stage != tc.stage {
				t.Errorf("outcome %b, %v; want %b at %q", out, err, tc.out, tc.stage)
			}
			// A message that may have been accepted is not offered to another hop; one that cannot have been is.
			err2 := send(&Failover{Hops: []Hop{openHop(t, o, hop.url), openHop(t, Options{}, other.url)}}, "X2", small)
			if want := map[int]int{lost: delivered}[tc.out]; want != 0 && outcome(err2) != want && tc.stage != stageEnd {
				t.Errorf("with another next hop: %v", err2)
			}
			_ = h.Close()
			if took := time.Since(began); took > long {
				t.Errorf("it took %v", took)
			}
			hop.stop()
			other.stop()
			for id, err := range map[string]error{"X1": err, "X2": err2} {
				here := hop.committed[id]
				if other.committed[id] > 0 && hop.whole[id] > 0 {
					t.Errorf("%s was given to both", id)
				}
				if err == nil && here+other.committed[id] != 1 {
					t.Errorf("%s is reported delivered, and %d have it", id, here+other.committed[id])
				}
				if outcome(err) == lost && hop.whole[id]+other.whole[id] > 0 && tc.stage != stageEnd {
					t.Errorf("%s was sent to its end, and is reported as lost", id)
				}
			}
		})
	}
}

// TestResetHangs: if a next hop does not answer RSET, an aborted transaction takes at most five seconds, and its connection is closed.
func TestResetHangs(t *testing.T) {
	testenv.NotShort(t, "several seconds")
	for _, how := range []string{hangs, dribbles, closes, resets, garbage} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			hop := startHop(t, script{at: func(c *fakeConn, stage string) bool { return stage == "RSET" && c.die(how) }})
			h := openHop(t, Options{}, hop.url)
			tx, _ := h.Begin(t.Context(), Envelope{From: path("<>")})
			if err := tx.Rcpt(t.Context(), path("<b@example.net>"), nil); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			tx.Abort()
			if took := time.Since(began); took > 2*abortTime {
				t.Errorf("it took %v", took)
			}
			if n := idleConns(h); n != 0 {
				t.Errorf("%d connections are kept", n)
			}
			if err := send(h, "X1", small); err != nil {
				t.Errorf("the next message: %v", err)
			}
		})
	}
}

// TestSips: a next hop that reads the message octet by octet. If a block takes too long, the message goes to another hop.
func TestSips(t *testing.T) {
	testenv.NotShort(t, "several seconds")
	for _, under := range []*tls.Config{nil, testCA().server("127.0.0.1")} {
		t.Run(fmt.Sprintf("TLS=%v", under != nil), func(t *testing.T) {
			t.Parallel()
			hop := startHop(t, script{tls: under, at: func(c *fakeConn, stage string) bool {
				if stage != "354" {
					return false
				}
				var b [1]byte
				for began := time.Now(); time.Since(began) < long; time.Sleep(5 * time.Millisecond) {
					if _, err := io.ReadFull(c.raw, b[:]); err != nil {
						return true
					}
				}
				return true
			}})
			other := startHop(t, script{})
			h := openHop(t, Options{Timeouts: Timeouts{Block: 300 * time.Millisecond, Command: 5 * time.Second}, Dial: smallBuffer}, hop.url)
			began := time.Now()
			if err := send(&Failover{Hops: []Hop{h, openHop(t, Options{}, other.url)}}, "X1", large); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > long/2 {
				t.Errorf("it took %v", took)
			}
			if _, _, _, mails := other.seen(); len(mails) != 1 {
				t.Errorf("%d messages at the other next hop", len(mails))
			}
		})
	}
}

// TestCapabilitiesChange: a next hop that offers less on its second connection. The commands follow what that connection offers.
func TestCapabilitiesChange(t *testing.T) {
	first := true
	hop := startHop(t, script{at: func(c *fakeConn, stage string) bool {
		switch {
		case stage == "EHLO" && !first:
			return c.write("250-fake.example\r\n250 8BITMIME\r\n") || c.dialogue() // no PIPELINING, DSN, SMTPUTF8 or SIZE
		case stage == "MAIL" && first && c.done == 1: // the kept connection is dead
			first = false
			return true
		}
		return false
	}})
	h := openHop(t, Options{}, hop.url)
	if err := send(h, "X1", small); err != nil {
		t.Fatal(err)
	}
	text := letter("X2", small)
	tx, _ := h.Begin(t.Context(), Envelope{From: path("<a@example.com>"), Params: map[string]string{"RET": "HDRS", "SIZE": fmt.Sprint(len(text))}})
	for _, to := range []string{"<b@example.net>", "<c@example.net>"} {
		if err := tx.Rcpt(t.Context(), path(to), map[string]string{"NOTIFY": "FAILURE"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tx.Data(t.Context(), int64(len(text)), func() io.Reader { return strings.NewReader(text) }); err != nil {
		t.Fatal(err)
	}
	if e := failure(t, transferWith(h, "<é@example.com>", nil, "<b@example.net>", nil, plainText)); e.Reply.Status() != "5.6.7" {
		t.Errorf("SMTPUTF8 of the first connection was believed: %v", e)
	}
	conns, _, _, mails := hop.seen()
	if want := (mail{"<a@example.com>", "<b@example.net>,<c@example.net>", stuffed(text), 2, false}); conns != 2 || len(mails) != 2 || mails[1] != want {
		t.Errorf("%d connections, the second mail from %s to %s", conns, mails[len(mails)-1].from, mails[len(mails)-1].to)
	}
}
