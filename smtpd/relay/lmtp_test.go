package relay

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// TestLMTP: replies for each recipient (RFC 2033 §4.2), and the one reply for the client that is made of them.
func TestLMTP(t *testing.T) {
	const (
		ok, full  = "250 2.1.5 Ok\r\n", "452 4.2.2 Full\r\n"
		none, bad = "550 5.1.1 Nobody\r\n", "554-5.6.0 Bad\r\n554 5.6.0 mail\r\n"
		a, b, c   = "<a@example.net>", "<b@example.net>", "<c@example.net>"
	)
	for _, tc := range []struct {
		name    string
		replies [3]string
		want    string
		out     int
	}{
		{"all", [3]string{"250 2.0.0 First\r\n", ok, ok}, "250 2.0.0 First", delivered},
		{"nobody, all alike", [3]string{bad, bad, bad}, "554 5.6.0 Bad mail", lost},
		{"nobody, for several reasons: another try harms nobody", [3]string{none, full, bad},
			"452 4.2.2 Full Not delivered to <a@example.net> (550) Not delivered to <b@example.net> (452) Not delivered to <c@example.net> (554)", lost},
		{"nobody, for several good reasons", [3]string{none, bad, bad},
			"550 5.1.1 Nobody Not delivered to <a@example.net> (550) Not delivered to <b@example.net> (554) Not delivered to <c@example.net> (554)", lost},
		{"one refused", [3]string{ok, none, ok}, "550 5.1.1 Nobody Not delivered to <b@example.net> (550) Delivered to <a@example.net> Delivered to <c@example.net>", partial},
		{"one refused for now", [3]string{full, ok, ok}, "452 4.2.2 Full Not delivered to <a@example.net> (452) Delivered to <b@example.net> Delivered to <c@example.net>", partial},
		{"mixed: another try would deliver twice", [3]string{full, none, ok},
			"550 5.1.1 Nobody Not delivered to <a@example.net> (452) Not delivered to <b@example.net> (550) Delivered to <c@example.net>", partial},
		{"421 as the last", [3]string{ok, ok, "421 4.3.2 Down\r\n"},
			"451 4.3.2 Down Not delivered to <c@example.net> (421) Delivered to <a@example.net> Delivered to <b@example.net>", partial},
		{"no answer for the last", [3]string{ok, none, ""}, unsure().String(), uncertain},
		{"no answer but for the first", [3]string{none, "", ""}, unsure().String(), uncertain},
		{"nonsense", [3]string{ok, "what\r\n", ok}, unsure().String(), uncertain},
		{"wrong class", [3]string{ok, "354 Go on\r\n", ok}, unsure().String(), uncertain},
	} {
		for _, unix := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/unix=%v", tc.name, unix), func(t *testing.T) {
				hop := startHop(t, script{lmtp: true, unix: unix,
					say: map[string]string{"dot " + a: tc.replies[0], "dot " + b: tc.replies[1], "dot " + c: tc.replies[2], "RCPT TO:<x@example.net>": none},
					at:  func(_ *fakeConn, stage string) bool { return stage == "answered" }})
				h := openHop(t, Options{}, hop.url)
				tx, _ := h.Begin(t.Context(), Envelope{From: path("<>")})
				for _, to := range []string{a, "<x@example.net>", b, c} { // a recipient refused at RCPT gets no reply later
					if err := tx.Rcpt(t.Context(), path(to), nil); (err != nil) != (to == "<x@example.net>") {
						t.Fatal(to, err)
					}
				}
				reply, err := tx.Data(t.Context(), -1, func() io.Reader { return strings.NewReader(plainText) })
				if err != nil {
					reply = failure(t, err).Reply
				}
				if reply.String() != tc.want || outcome(err) != tc.out {
					t.Errorf("got %q, outcome %b, %+v\nwant %q", reply, outcome(err), err, tc.want)
				}
				if _, lines, _, _ := hop.seen(); lines[0] != "LHLO localhost" {
					t.Errorf("said %q", lines)
				}
			})
		}
	}
}

// TestLMTPKept: once all replies are read, the connection is used for the next message.
func TestLMTPKept(t *testing.T) {
	hop := startHop(t, script{lmtp: true, say: map[string]string{"dot <carol@example.net>": "550 5.1.1 Nobody\r\n"}})
	h := openHop(t, Options{}, hop.url)
	for i := range 3 {
		if e := failure(t, send(h, fmt.Sprintf("X%d", i), small)); !e.Partial {
			t.Errorf("got %v", e)
		}
	}
	if conns, _, _, mails := hop.seen(); conns != 1 || len(mails) != 3 {
		t.Errorf("%d connections, %d mails", conns, len(mails))
	}
}

// TestLMTPNames: a reply names a limited number of recipients, and no address can break it.
func TestLMTPNames(t *testing.T) {
	say, to := map[string]string{}, []string(nil)
	for i := range 30 {
		r := fmt.Sprintf("<%02d-é@example.net>", i)
		to = append(to, r)
		if i%2 == 0 {
			say["dot "+r] = "550-5.1.1 One\r\n550-5.1.1 two\r\n550 5.1.1 three\r\n"
		}
	}
	hop := startHop(t, script{lmtp: true, say: say})
	_, err := transfer(openHop(t, Options{}, hop.url), plainText, "<é@example.com>", nil, to...)
	e := failure(t, err)
	lines := e.Reply.Lines()
	if !e.Partial || len(lines) != 20 || e.Reply.Status() != "5.1.1" || slices.Contains(lines, "three") {
		t.Errorf("got %q", lines)
	}
	for _, want := range []string{"One", "two", "Not delivered to <00-?@example.net> (550)", "Not delivered to and 7 others", "Delivered to <15-?@example.net>", "Delivered to and 7 others"} {
		if !slices.Contains(lines, want) {
			t.Errorf("%q is missing in %q", want, lines)
		}
	}
}

// TestLMTPKilled: if the connection ends between two replies, it is not known who has the message.
func TestLMTPKilled(t *testing.T) {
	for _, how := range ways {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			hop := startHop(t, script{lmtp: true, say: map[string]string{"dot <carol@example.net>": ""},
				at: func(c *fakeConn, stage string) bool { return stage == "answered" && c.die(how) }})
			b := startHop(t, script{lmtp: true})
			k := killing{at: "dot"}
			ha, hb := openHop(t, k.options(how), hop.url), openHop(t, Options{}, b.url)
			got := repeat(times, func(id string) error { return send(&Failover{Hops: []Hop{ha, hb}}, id, small) })
			_, _ = ha.Close(), hb.Close()
			hop.stop()
			b.stop()
			honest(t, got, hop, b)
			for id, err := range got {
				if want := map[bool]int{true: partial, false: uncertain}[how == says421]; outcome(err) != want {
					t.Errorf("%s: %v", id, err)
				}
			}
			if len(b.mails) > 0 {
				t.Errorf("the other next hop has got %d of them", len(b.mails))
			}
		})
	}
}
