package relay

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// TestReplies: the reply of a next hop at each stage is the reply for the client, cleaned. If it is not a reply, the client gets the
// reply for a broken connection.
func TestReplies(t *testing.T) {
	const broke = "451 4.4.2 The connection to the next mail server broke, try again later"
	for _, tc := range []struct {
		name, raw, want string
		kept            bool // the connection may serve another message
	}{
		{"plain", "550 5.7.1 No\r\n", "550 5.7.1 No", true},
		{"no status", "550 No\r\n", "550 No", true},
		{"several lines", "554-5.7.1 No,\r\n554-5.7.1 and no\r\n554 5.7.1 again\r\n", "554 5.7.1 No, and no again", true},
		{"status on the first line only", "554-5.7.1 No,\r\n554 never\r\n", "554 5.7.1 No, never", true},
		{"statuses that differ stay text", "554-5.7.1 No,\r\n554 5.1.1 never\r\n", "554 5.7.1 No, 5.1.1 never", true},
		{"status of another class stays text", "550 4.2.2 Full\r\n", "550 4.2.2 Full", true},
		{"status that is none stays text", "550 5.7.1000 No\r\n", "550 5.7.1000 No", true},
		{"status with zeros stays text", "550 5.07.1 No\r\n", "550 5.07.1 No", true},
		{"no text", "550\r\n", "550 ", true},
		{"no text but a space", "550 \r\n", "550 ", true},
		{"status alone", "550 5.7.1\r\n", "550 5.7.1 ", true},
		{"odd code", "599 Odd\r\n", "599 Odd", true},
		{"8-bit and control characters", "550 5.7.1 J\xc3\xbcrgen \x1b[31mred\x00\x7f\ttab\r\n", "550 5.7.1 J?rgen ?[31mred???tab", true},
		{"bare CR is no line end", "550 5.7.1 a\r250 b\r\n", "550 5.7.1 a?250 b", true},
		{"line of 2048 octets", "550 " + strings.Repeat("x", 2042) + "\r\n", "550 " + strings.Repeat("x", 506), true},
		{"line of 2049 octets", "550 " + strings.Repeat("x", 2043) + "\r\n", broke, false},
		{"100 lines", strings.Repeat("550-x\r\n", 99) + "550 x\r\n", "550 " + strings.Repeat("x ", 19) + "x", true},
		{"101 lines", strings.Repeat("550-x\r\n", 100) + "550 x\r\n", broke, false},
		{"codes that differ", "550-a\r\n250 b\r\n", broke, false},
		{"bare LF", "550 5.7.1 No\n", broke, false},
		{"no code", "No\r\n", broke, false},
		{"two digits", "55 No\r\n", broke, false},
		{"code too large", "600 No\r\n", broke, false},
		{"preliminary reply", "150 Wait\r\n", broke, false},
		{"letters in the code", "5x0 No\r\n", broke, false},
		{"no space", "550No\r\n", broke, false},
		{"empty line", "\r\n", broke, false},
		{"wrong class", "350 Hm\r\n", broke, false},
		{"421 is about the connection", "421 4.3.2 Down\r\n", "451 4.3.2 Down", false},
		{"421 with a status of no use", "421 5.3.2 Down\r\n", "451 5.3.2 Down", false},
	} {
		for _, stage := range []struct{ verb, stage string }{{"MAIL", stageMail}, {"RCPT", stageRcpt}, {"DATA", stageData}, {"dot", stageEnd}} {
			t.Run(tc.name+"/"+stage.verb, func(t *testing.T) {
				hop := startHop(t, script{say: map[string]string{stage.verb: tc.raw}})
				h := openHop(t, Options{}, hop.url)
				_, err := transfer(h, plainText, "<a@example.com>", nil, "<b@example.net>")
				e := failure(t, err)
				want := tc.want
				if unknown := stage.stage == stageEnd && (want == broke || tc.raw[0] == '3'); unknown != e.Uncertain {
					t.Errorf("uncertain: %v", e.Uncertain)
				} else if unknown {
					want = unsure().String()
				}
				if e.Reply.String() != want || e.Stage != stage.stage {
					t.Errorf("got %q at %s, want %q", e.Reply, e.Stage, want)
				}
				if kept := idleConns(h) == 1; kept != tc.kept {
					t.Errorf("the connection is kept: %v", kept)
				}
			})
		}
	}
}

func idleConns(h Hop) int {
	p := &h.(*SMTP).pool
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

// TestGoodReply: a positive reply to the message is returned as well, with any text.
func TestGoodReply(t *testing.T) {
	for raw, want := range map[string]string{
		"250 2.0.0 Ok: queued as 4F2\r\n":         "250 2.0.0 Ok: queued as 4F2",
		"250-2.6.0 Ok,\r\n250 2.6.0 4F2\r\n":      "250 2.6.0 Ok, 4F2",
		"250\r\n":                                 "250 ",
		"252 Whatever\r\n":                        "252 Whatever",
		"250 5.0.0 A status of another class\r\n": "250 5.0.0 A status of another class",
	} {
		hop := startHop(t, script{say: map[string]string{"dot": raw}})
		got, err := transfer(openHop(t, Options{}, hop.url), plainText, "<a@example.com>", nil, "<b@example.net>")
		if err != nil || got.String() != want {
			t.Errorf("%q: got %q, %v", raw, got, err)
		}
	}
}

// TestEndless: a reply that never ends, fast or slow, takes limited memory and time.
func TestEndless(t *testing.T) {
	for name, s := range map[string]struct {
		line  string
		pause time.Duration
		first string // a wanted beginning of the cause
	}{
		"lines":        {"250-x\r\n", 0, "the next hop does not speak SMTP: a reply has too many lines"},
		"one line":     {"xxxxxxxx", 0, "the next hop does not speak SMTP: a reply line is too long"},
		"slow":         {"2", 20 * time.Millisecond, ""},
		"slow lines":   {"250-x\r\n", 20 * time.Millisecond, ""},
		"slow answers": {"250-", 20 * time.Millisecond, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hop := startHop(t, script{at: func(c *fakeConn, stage string) bool {
				if stage != "MAIL" {
					return false
				}
				for began := time.Now(); time.Since(began) < long; time.Sleep(s.pause) {
					if c.write(s.line) {
						break
					}
				}
				return true
			}})
			h := openHop(t, Options{Timeouts: Timeouts{Command: 300 * time.Millisecond}}, hop.url)
			began := time.Now()
			e := failure(t, send(h, "X1", small))
			if e.Reply.Code() != 451 || s.first != "" && e.Stage == stageMail && !strings.HasPrefix(e.Cause.Error(), s.first) {
				t.Errorf("got %v", e)
			}
			if d := time.Since(began); d > long/2 {
				t.Errorf("it took %v", d)
			}
		})
	}
}

// TestSplitReplies: a reply is read the same for all ways to cut it into segments.
func TestSplitReplies(t *testing.T) {
	const raw = "250-2.1.0 Ok,\r\n250-2.1.0 and\r\n250 2.1.0 on\r\n"
	for name, r := range map[string]io.Reader{
		"octets":       iotest.OneByteReader(strings.NewReader(raw)),
		"halves":       iotest.HalfReader(strings.NewReader(raw)),
		"with the end": iotest.DataErrReader(strings.NewReader(raw)),
	} {
		got, err := readReply(bufio.NewReaderSize(r, maxReplyLine))
		if err != nil || fmt.Sprint(got) != "{250 [2.1.0 Ok, 2.1.0 and 2.1.0 on]}" || got.reply().String() != "250 2.1.0 Ok, and on" {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for i := range len(raw) {
		if got, err := readReply(bufio.NewReaderSize(strings.NewReader(raw[:i]), maxReplyLine)); err == nil {
			t.Errorf("%q was read as %v", raw[:i], got)
		}
	}
}

// FuzzServerReply: for all input the reply is limited, safe to write and to log, and stable.
func FuzzServerReply(f *testing.F) {
	for _, s := range []string{"250 Ok\r\n", "250-a\r\n250 b\r\n", "550 5.7.1 No\r\n", "554-5.7.1 a\r\n554 5.1.1 b\r\n", "421 4.3.2 x\r\n", "250-\x00\r\n", "35\n", "550\r\n250 x\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		rd := bufio.NewReaderSize(bytes.NewReader(b), maxReplyLine)
		r, err := readReply(rd)
		if err != nil {
			return
		}
		if r.code < 200 || r.code > 599 || len(r.lines) == 0 || len(r.lines) > maxReplyLines {
			t.Fatalf("read as %d with %d lines", r.code, len(r.lines))
		}
		for _, l := range r.lines {
			if len(l) > maxReplyLine || strings.ContainsFunc(l, func(c rune) bool { return c < ' ' || c > '~' }) {
				t.Fatalf("a line is %q", l)
			}
		}
		m := r.reply()
		if m.Code() != r.code && r.code != 421 && r.class() != 3 {
			t.Fatalf("%d became %s", r.code, m)
		}
		again, err := readReply(bufio.NewReaderSize(bytes.NewReader(m.AppendTo(nil)), maxReplyLine))
		if err != nil || again.reply().String() != m.String() {
			t.Fatalf("%q is written as %q and reads as %q, %v", b, m, again.reply(), err)
		}
	})
}
