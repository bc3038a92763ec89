package relay

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// TestFailoverRules: after which failures of the first next hop the second is tried, and which are final.
func TestFailoverRules(t *testing.T) {
	type say = map[string]string
	for _, tc := range []struct {
		name string
		a, b say
		want string // the reply; "": it is delivered by b
	}{
		{"greeting 554", say{"greeting": "554 5.3.2 No\r\n"}, nil, ""},
		{"greeting 421", say{"greeting": "421 4.3.2 No\r\n"}, nil, ""},
		{"EHLO refused", say{"EHLO": "550 No\r\n", "HELO": "550 No\r\n"}, nil, ""},
		{"MAIL 451", say{"MAIL": "451 4.3.0 Later\r\n"}, nil, ""},
		{"MAIL 550", say{"MAIL": "550 5.7.1 No\r\n"}, nil, "550 5.7.1 No"},
		{"RCPT 450 speaks of one recipient", say{"RCPT": "450 4.2.0 Grey\r\n"}, nil, "450 4.2.0 Grey"},
		{"RCPT 550", say{"RCPT": "550 5.1.1 Nobody\r\n"}, nil, "550 5.1.1 Nobody"},
		{"RCPT 421", say{"RCPT": "421 4.3.2 Down\r\n"}, nil, ""},
		{"DATA 451", say{"DATA": "451 4.3.0 Later\r\n"}, nil, ""},
		{"DATA 554", say{"DATA": "554 5.7.1 No\r\n"}, nil, "554 5.7.1 No"},
		{"message 451", say{"dot": "451 4.3.0 Later\r\n"}, nil, "451 4.3.0 Later"},
		{"message 421", say{"dot": "421 4.3.2 Down\r\n"}, nil, "451 4.3.2 Down"},
		{"message 554", say{"dot": "554 5.6.0 No\r\n"}, nil, "554 5.6.0 No"},
		{"both down", say{"greeting": "554 No\r\n"}, say{"greeting": "554 No\r\n"}, unreached},
		{"both down, later", say{"DATA": "451 4.3.0 A\r\n"}, say{"DATA": "451 4.3.0 B\r\n"}, "451 4.3.0 B"},
		{"the second refuses who was accepted", say{"DATA": "451 4.3.0 Later\r\n"}, say{"RCPT TO:<carol@example.net>": "550 5.1.1 Nobody\r\n"},
			"451 4.4.0 The next mail server failed, and another did not accept the same recipients; try again later"},
		{"the second refuses the sender", say{"DATA": "451 4.3.0 Later\r\n"}, say{"MAIL": "550 5.7.1 Not you\r\n"},
			"451 4.4.0 The next mail server failed, and another did not accept the same recipients; try again later"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := startHop(t, script{say: tc.a}), startHop(t, script{say: tc.b})
			f := openHop(t, Options{}, a.url, b.url)
			err := send(f, "X1", small)
			got := ""
			if err != nil {
				e := failure(t, err)
				got = e.Reply.String()
				if e.Uncertain || e.Partial {
					t.Errorf("got %+v", e)
				}
			}
			_, _, _, atA := a.seen()
			_, _, _, atB := b.seen()
			if got != tc.want || len(atA) != 0 || len(atB) != 1-min(1, len(tc.want)) {
				t.Errorf("got %q, want %q; %d at a, %d at b", got, tc.want, len(atA), len(atB))
			}
		})
	}
}

// TestFailoverWhole: if the first next hop dies in the middle of the data, the second gets the same envelope, parameters and message. A
// refused recipient is not offered again.
func TestFailoverWhole(t *testing.T) {
	a := startHop(t, script{at: func(c *fakeConn, stage string) bool { return strings.HasPrefix(stage, "body") && c.die(resets) },
		say: map[string]string{"RCPT TO:<x@example.net> NOTIFY=NEVER": "550 5.1.1 Nobody\r\n"}})
	b := startHop(t, script{})
	f := openHop(t, Options{Dial: smallBuffer}, a.url, b.url)
	tx, _ := f.Begin(t.Context(), Envelope{From: path("<a@example.com>"), Params: message.Params{"RET": "HDRS", "ENVID": "QQ"}})
	for _, to := range []string{"<b@example.net>", "<x@example.net>", "<c@example.net>"} {
		if err := tx.Rcpt(t.Context(), path(to), message.Params{"NOTIFY": "NEVER"}); (err != nil) != strings.HasPrefix(to, "<x") {
			t.Fatal(to, err)
		}
	}
	text := letter("X1", large)
	if _, err := tx.Data(t.Context(), int64(len(text)), func() io.Reader { return strings.NewReader(text) }); err != nil {
		t.Fatal(err)
	}
	_, _, _, mails := b.seen()
	want := mail{"<a@example.com> RET=HDRS ENVID=QQ", "<b@example.net> NOTIFY=NEVER,<c@example.net> NOTIFY=NEVER", stuffed(text), 1, false}
	if len(mails) != 1 || mails[0] != want {
		t.Errorf("%d mails, from %s to %s", len(mails), mails[0].from, mails[0].to)
	}
}

// TestDowntime: a hop that failed is not used for a pause that grows, then it is tried again. If all are down, all are tried.
func TestDowntime(t *testing.T) {
	m, reg := newMetrics(t)
	now := time.Unix(1_000_000_000, 0)
	var a, b flaky
	f := &Failover{Hops: []Hop{&a, &b}, Metrics: m, Now: func() time.Time { return now }}
	step := func(what string, ok bool, triesA, triesB int) {
		t.Helper()
		a.tries, b.tries = 0, 0
		if err := send(f, "X", small); (err == nil) != ok || a.tries != triesA || b.tries != triesB {
			t.Errorf("%s: %v, a tried %d times and b %d times", what, err, a.tries, b.tries)
		}
	}
	step("both well", true, 1, 0)
	a.down = true
	step("a fails", true, 1, 1)
	step("a is passed over", true, 0, 1)
	now = now.Add(2 * time.Second) // more than 1 s and a fifth
	step("a is tried again, and fails", true, 1, 1)
	now = now.Add(1500 * time.Millisecond) // less than 2 s without a fifth
	step("a is passed over for longer", true, 0, 1)
	for range 20 {
		now = now.Add(2 * time.Minute)
		step("but never for long", true, 1, 1)
	}
	b.down = true
	now = now.Add(time.Second)
	step("all are tried, those that are down last", false, 1, 1)
	a.down = false
	step("all are down, so all are tried", true, 1, 0)
	b.tries, b.down = 0, true
	step("a is as before", true, 1, 0)
	if got := counted(t, reg); got["hop_up"] != 1 {
		t.Errorf("counted %v", got)
	}
}

// flaky is a Hop that can be down.
type flaky struct {
	down  bool
	tries int
}

func (f *flaky) String() string                                { return fmt.Sprintf("flaky:%p", f) }
func (f *flaky) Close() error                                  { return nil }
func (f *flaky) Extensions(context.Context) (Extensions, bool) { return Extensions{}, false }
func (f *flaky) Begin(_ context.Context, _ Envelope) (Tx, error) {
	f.tries++
	if f.down {
		return nil, &Error{Reply: unreachable(), Hop: f.String(), Stage: stageConnect, next: true, over: true}
	}
	return taker{}, nil
}

// taker is a transaction that accepts everything.
type taker struct{}

func (taker) Rcpt(context.Context, message.Path, message.Params) error { return nil }
func (taker) Abort()                                                   {}
func (taker) Data(context.Context, int64, func() io.Reader) (message.Reply, error) {
	return message.MustReply(250, "2.0.0", "Ok"), nil
}

// TestUnreachable: if no process listens, the error comes at once, and a Maildir as the last target takes the message.
func TestUnreachable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "smtp://" + ln.Addr().String()
	_ = ln.Close()
	wantError(t, send(openHop(t, Options{}, closed), "X1", small), stageConnect, unreached)
	wantError(t, send(&Failover{}, "X1", small), stageConnect, unreached)
	dir := t.TempDir()
	if err := send(openHop(t, Options{}, closed, "lmtp+unix:///nonexistent/socket", "maildir:"+dir), "X1", small); err != nil || len(filesIn(t, dir, "new")) != 1 {
		t.Errorf("the Maildir did not take it: %v", err)
	}
}

// TestOrder: a call in the wrong order is an error at every kind of Hop, and delivers nothing.
func TestOrder(t *testing.T) {
	hop := startHop(t, script{})
	dir := t.TempDir()
	smtp, maildir := openHop(t, Options{}, hop.url), openHop(t, Options{}, "maildir:"+dir)
	for name, h := range map[string]Hop{"SMTP": smtp, "Maildir": maildir, "Failover": &Failover{Hops: []Hop{smtp, maildir}}} {
		body := func() io.Reader { return strings.NewReader(plainText) }
		tx, _ := h.Begin(t.Context(), Envelope{From: path("<>")})
		_, err := tx.Data(t.Context(), -1, body)
		if e := failure(t, err); e.Reply.String() != "554 5.5.1 No valid recipients" {
			t.Errorf("%s: Data without recipients: %v", name, e)
		}
		for end, f := range map[string]func(Tx){"Abort": Tx.Abort, "Data": func(tx Tx) { _, _ = tx.Data(t.Context(), -1, body) }} {
			tx, _ := h.Begin(t.Context(), Envelope{From: path("<>")})
			if err := tx.Rcpt(t.Context(), path("<b@example.net>"), nil); err != nil {
				t.Fatal(err)
			}
			f(tx)
			if err := tx.Rcpt(t.Context(), path("<b@example.net>"), nil); err == nil {
				t.Errorf("%s: Rcpt after %s", name, end)
			}
			if _, err := tx.Data(t.Context(), -1, body); err == nil {
				t.Errorf("%s: Data after %s", name, end)
			}
			tx.Abort()
		}
	}
	if _, _, _, mails := hop.seen(); len(mails) != 2 || len(filesIn(t, dir, "new")) != 1 {
		t.Errorf("%d mails, %d files", len(mails), len(filesIn(t, dir, "new")))
	}
}
