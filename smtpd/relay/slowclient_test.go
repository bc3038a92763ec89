package relay

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/message"
)

const says451 = "451" // 451 4.4.2 in reply to the next command

const timedOut = " 4.4.2 fake.example Error: timeout exceeded\r\n"

// expire ends all connections of the hop as if their time of waiting for a command had run out. Each is waiting for one.
func (h *fakeHop) expire(how string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for nc := range h.open {
		switch how {
		case resets:
			_ = nc.(*net.TCPConn).SetLinger(0)
		case says421:
			_, _ = io.WriteString(nc, "421"+timedOut)
		}
		_ = nc.Close()
	}
}

// slowTransfer is a transaction of a client that is so slow between RCPT and the end of its data that the next hop's time runs out.
func slowTransfer(t *testing.T, h Hop, hop *fakeHop, how string, meanwhile func()) error {
	t.Helper()
	tx, err := h.Begin(t.Context(), Envelope{From: path("<alice@example.com>"), Params: message.Params{"BODY": "8BITMIME"}, ID: "T1"})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Abort()
	for _, to := range []string{"<bob@example.net>", "<nobody@example.net>", "<carol@example.net>"} {
		if err := tx.Rcpt(t.Context(), path(to), nil); (err != nil) != (to == "<nobody@example.net>") {
			t.Fatal(to, err)
		}
	}
	if how != says451 {
		hop.expire(how)
	}
	meanwhile()
	text := letter("X9", small)
	_, err = tx.Data(t.Context(), int64(len(text)), func() io.Reader { return strings.NewReader(text) })
	return err
}

// idlesOut is a next hop that refuses nobody@example.net, and whose first connections run out of time.
func idlesOut(t *testing.T, s script, how string, connections int) *fakeHop {
	s.say = map[string]string{"RCPT TO:<nobody@example.net>": "550 5.1.1 Nobody\r\n"}
	if how == says451 {
		s.at = func(c *fakeConn, stage string) bool {
			return stage == "DATA" && c.done == 0 && c.n <= connections && (c.write("451"+timedOut) || true)
		}
	}
	return startHop(t, s)
}

// TestSlowClient: if the next hop closes the connection before the message is sent, the transaction begins again there, and the message
// is delivered once. A second next hop is not asked, and the first is not marked down. See people/upload in the shared cases.
func TestSlowClient(t *testing.T) {
	kinds := map[string]script{
		"pipelining": {}, "lock-step": {caps: without("PIPELINING")}, "LMTP": {lmtp: true}, "LMTP on a unix socket": {lmtp: true, unix: true},
		"TLS": {tls: testCA().server("127.0.0.1")},
	}
	for kind, s := range kinds {
		for _, how := range []string{closes, resets, says421, says451} {
			for _, kept := range []bool{false, true} {
				if how == says421 && s.tls != nil || how == resets && s.unix || how == says451 && kept {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/kept %v", kind, how, kept), func(t *testing.T) {
					t.Parallel()
					a, b := idlesOut(t, s, how, 1), startHop(t, s)
					m, reg := newMetrics(t)
					f := openHop(t, Options{Metrics: m}, a.url, b.url).(*Failover)
					conns, mails := 2, 1
					if kept {
						mails++
						if err := send(f, "X0", small); err != nil {
							t.Fatal(err)
						}
					}
					if err := slowTransfer(t, f, a, how, func() {}); err != nil {
						t.Fatal(err)
					}
					stillFirst(t, f, reg, 1)
					gotConns, lines, _, got := a.seen()
					if last := got[len(got)-1]; gotConns != conns || len(got) != mails || last.to != "<bob@example.net>,<carol@example.net>" ||
						last.from != "<alice@example.com> BODY=8BITMIME" || last.raw != stuffed(letter("X9", small)) || last.conn != 2 {
						t.Errorf("%d connections, %d mails, the last %+v", gotConns, len(got), last)
					}
					if n := strings.Count(strings.Join(lines, "\n"), "nobody"); n != 1 {
						t.Errorf("the refused recipient was offered %d times", n)
					}
					// The next message, a quick one.
					if err := send(f, "X10", small); err != nil {
						t.Fatal(err)
					}
					if n, _, _, _ := b.seen(); n != 0 || a.committed["X10"] != 1 {
						t.Errorf("%d connections to the second next hop", n)
					}
				})
			}
		}
	}
}

// stillFirst wants the first hop to be up, and a number of restarts to be counted.
func stillFirst(t *testing.T, f *Failover, reg *prometheus.Registry, restarts float64) {
	t.Helper()
	if got := counted(t, reg); got["restarts_total"] != restarts || got["hop_up"] != 2 {
		t.Errorf("counted %v", got)
	}
	if order := f.order(); !slices.Equal(order, []int{0, 1}) {
		t.Errorf("the order is now %v", order)
	}
}

// TestSlowClientRefused: what happens if the next hop answers otherwise the second time. The client never gets a reply that would lose
// the message for a recipient that was accepted.
func TestSlowClientRefused(t *testing.T) {
	type say = map[string]string
	for name, tt := range map[string]struct {
		then  say
		want  string // the reply; "": it is delivered
		moves bool   // to the second next hop
	}{
		"another recipient is refused for good":        {say{"RCPT TO:<carol@example.net>": "550 5.1.1 Nobody\r\n"}, changed().String(), false},
		"the first recipient is refused for now":       {say{"RCPT TO:<bob@example.net>": "450 4.2.0 Grey\r\n"}, changed().String(), false},
		"the sender is refused for good":               {say{"MAIL": "550 5.7.1 Not you\r\n"}, changed().String(), false},
		"the sender is refused for now":                {say{"MAIL": "451 4.3.0 Later\r\n"}, "451 4.3.0 Later", true},
		"the message is refused":                       {say{"DATA": "554 5.7.1 No\r\n"}, "554 5.7.1 No", false},
		"it says good-bye again at once":               {say{"RCPT": "421 4.3.2 Down\r\n"}, "451 4.3.2 Down", true},
		"it says good-bye again at DATA":               {say{"DATA": "421 4.4.2 Too slow\r\n"}, "451 4.4.2 Too slow", true},
		"it is not there any more":                     {say{"greeting": "554 No\r\n"}, unreached, true},
		"a recipient is refused with a bad connection": {say{"RCPT TO:<carol@example.net>": "451 4.4.2 Bad\r\n"}, changed().String(), false},
	} {
		for _, two := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, two %v", name, two), func(t *testing.T) {
				t.Parallel()
				a, b := idlesOut(t, script{}, closes, 1), idlesOut(t, script{}, closes, 0)
				urls, want := []string{a.url}, tt.want
				if two {
					urls = append(urls, b.url)
				}
				h := openHop(t, Options{}, urls...)
				err := slowTransfer(t, h, a, closes, func() {
					a.note(func() {
						for k, v := range tt.then {
							a.say[k] = v
						}
					})
				})
				if two && tt.moves {
					want = ""
				}
				got := ""
				if err != nil {
					got = failure(t, err).Reply.String()
				}
				conns, _, _, atA := a.seen()
				_, _, _, atB := b.seen()
				if got != want || conns != 2 || len(atA) != 0 || (len(atB) == 1) != (want == "") {
					t.Errorf("got %q, want %q; %d connections; %d mails at the first, %d at the second", got, want, conns, len(atA), len(atB))
				}
				// A connection that the refusal has not closed is put in order, and kept.
				if reset := a.said("RSET"); reset != (tt.want == changed().String() && tt.then["RCPT TO:<carol@example.net>"] != "451 4.4.2 Bad\r\n" || name == "the message is refused") {
					t.Errorf("RSET: %v", reset)
				}
				if f, ok := h.(*Failover); ok && (f.order()[0] == 0) == tt.moves {
					t.Errorf("the order is now %v", f.order())
				}
			})
		}
	}
}

// TestSlowClientBetweenRecipients: the time may run out before each RCPT as well. The number of new beginnings is limited.
func TestSlowClientBetweenRecipients(t *testing.T) {
	hop := startHop(t, script{say: map[string]string{"RCPT TO:<first@example.net>": "550 5.1.1 Nobody\r\n"}})
	m, reg := newMetrics(t)
	h := openHop(t, Options{Metrics: m}, hop.url)
	tx, _ := h.Begin(t.Context(), Envelope{From: path("<alice@example.com>")})
	if err := tx.Rcpt(t.Context(), path("<first@example.net>"), nil); err == nil {
		t.Fatal("it was to be refused")
	}
	for i := range maxRestarts {
		hop.expire(says421)
		if err := tx.Rcpt(t.Context(), path(fmt.Sprintf("<r%d@example.net>", i)), nil); err != nil {
			t.Fatal(i, err)
		}
	}
	text := letter("X1", small)
	if _, err := tx.Data(t.Context(), -1, func() io.Reader { return strings.NewReader(text) }); err != nil {
		t.Fatal(err)
	}
	_, _, _, mails := hop.seen()
	if len(mails) != 1 || strings.Count(mails[0].to, "@") != maxRestarts || mails[0].conn != maxRestarts+1 {
		t.Errorf("got %+v", mails)
	}
	tx, _ = h.Begin(t.Context(), Envelope{From: path("<alice@example.com>")})
	var err error
	for i := 0; err == nil && i < 2*maxRestarts; i++ {
		err = tx.Rcpt(t.Context(), path(fmt.Sprintf("<r%d@example.net>", i)), nil)
		hop.expire(closes)
	}
	wantError(t, err, stageRcpt, "451 4.4.2 The connection to the next mail server broke, try again later")
	if got := counted(t, reg); got["restarts_total"] != 2*maxRestarts || got["connections_in_use"] != 0 {
		t.Errorf("counted %v", got)
	}
}

// TestFarewellInBuffer: a 421 that came in one packet with the reply before it is not taken for the reply to the next command.
func TestFarewellInBuffer(t *testing.T) {
	for reply, want := range map[string]string{
		"250 2.1.5 Ok\r\n421 4.4.2 Bye\r\n": "", "250 2.1.5 Ok\r\n42": "",
		"250 2.1.5 Ok\r\n354 Go on\r\n": "451 4.4.2 The connection to the next mail server broke, try again later",
	} {
		hop := startHop(t, script{caps: without("PIPELINING"), at: func(c *fakeConn, stage string) bool {
			return stage == "RCPT" && c.n == 1 && (c.write(reply) || true)
		}})
		err := send(openHop(t, Options{}, hop.url), "X1", small)
		if want == "" && strings.HasSuffix(reply, "\n") && err != nil {
			t.Errorf("%q: %v", reply, err)
		}
		if want != "" {
			wantError(t, err, stageRcpt, want)
		}
		if n := hop.committed["X1"]; err == nil && n != 1 || err != nil && n != 0 {
			t.Errorf("%q: %v, and it was committed %d times", reply, err, n)
		}
	}
}

// TestSilentHopIsDown: a next hop that does not answer DATA has no idle time-out; it hangs, and the next one is tried.
func TestSilentHopIsDown(t *testing.T) {
	a := startHop(t, script{at: func(c *fakeConn, stage string) bool { return stage == "DATA" && c.die(hangs) }})
	b := startHop(t, script{})
	f := openHop(t, Options{Timeouts: Timeouts{Command: 300 * time.Millisecond}}, a.url, b.url).(*Failover)
	if err := send(f, "X1", small); err != nil {
		t.Fatal(err)
	}
	if conns, _, _, _ := a.seen(); conns != 1 || f.order()[0] != 1 || b.committed["X1"] != 1 {
		t.Errorf("%d connections, order %v", conns, f.order())
	}
}
