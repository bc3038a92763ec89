package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// recited is a next hop that sends all its replies at once and ignores commands.
type recited struct {
	net.Conn // nil: what is not below panics
	says     io.Reader
	heard    bytes.Buffer
}

func (c *recited) Read(b []byte) (int, error)       { return c.says.Read(b) }
func (c *recited) Write(b []byte) (int, error)      { return c.heard.Write(b) }
func (c *recited) Close() error                     { return nil }
func (c *recited) SetDeadline(time.Time) error      { return nil }
func (c *recited) SetReadDeadline(time.Time) error  { return nil }
func (c *recited) SetWriteDeadline(time.Time) error { return nil }
func (c *recited) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "recited", Net: "unix"} }
func (c *recited) RemoteAddr() net.Addr             { return c.LocalAddr() }

var replyLine = regexp.MustCompile(`^([2-5][0-9][0-9])(?:([ -])[^\r\n]*)?\r\n`)

// repliesIn is a second reader of replies: it returns the codes up to the first that is not a reply.
func repliesIn(s string) (codes []int) {
	code, begun := "", false
	for {
		m := replyLine.FindStringSubmatch(s)
		if m == nil || begun && m[1] != code {
			return codes
		}
		s, code, begun = s[len(m[0]):], m[1], m[2] == "-"
		if !begun {
			n, _ := strconv.Atoi(code)
			codes = append(codes, n)
		}
	}
}

// FuzzNextHop sends arbitrary replies in a whole transaction. Data returns 250 only if, by another reader of replies, the hop accepted
// the sender, the recipient and, after its 354, the message, which it then received once and unchanged. Otherwise the error has a
// refusal that can be sent to a client. A parameter goes only to a hop that offered it.
func FuzzNextHop(f *testing.F) {
	const greeting, ehlo = "220 x\r\n", "250-x\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-DSN\r\n250 8BITMIME\r\n"
	for _, s := range []string{
		greeting + ehlo + "250 a\r\n250 b\r\n354 go\r\n250 2.0.0 Ok\r\n", greeting + "250 x\r\n250 a\r\n250 b\r\n354 go\r\n250 Ok\r\n221 bye\r\n", greeting + ehlo + "250 a\r\n550 5.1.1 no\r\n", greeting + ehlo + "250 a\r\n250 b\r\n250 go\r\n250 Ok\r\n",
		greeting + ehlo + "250 a\r\n250 b\r\n354 go\r\n", greeting + "502 no\r\n250 x\r\n250 a\r\n250 b\r\n354 go\r\n250 Ok\r\n", "554 no\r\n", "220-x\r\n220 y\r\n" + ehlo + "421 a\r\n", greeting + ehlo + "250 a\r\n250 b\r\n354 go\r\n354 more\r\n",
		greeting + ehlo + "250 a\r\n250 b\r\n354 go\r\n550-5.7.1 a\r\n550 5.7.1 b\r\n", greeting + ehlo + "350 a\r\n250 b\r\n", greeting + "250-x\r\n250-SIZE 1\r\n250 AUTH PLAIN\r\n250 a\r\n250 b\r\n", greeting + ehlo + "250 a\r\n250 b\r\n354 go\r\n250-2.0.0 \x00\xff\r\n250 2.0.0 x\r\n",
		greeting + ehlo + "250 a\n250 b\r\n354 go\r\n250 Ok\r\n", greeting + ehlo + "250 a\r\n250 b\r\n354-go\r\n250 Ok\r\n", greeting + ehlo + strings.Repeat("250-a\r\n", 200), greeting + ehlo + "550 a\r\n250 b\r\n354 go\r\n250 Ok\r\n",
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, says []byte, lmtp bool) {
		hop := &recited{says: bytes.NewReader(says)}
		h := newSMTP("hop", "tcp", "hop:25", "hop", Options{Hello: "us.example", StartTLS: StartTLSOff, Dial: func(context.Context, string, string) (net.Conn, error) {
			if hop.heard.Len() > 0 {
				return nil, errors.New("once only")
			}
			return hop, nil
		}})
		h.lmtp = lmtp
		defer h.Close()
		ctx, body := context.Background(), "X: y\r\n\r\n.dot\r\n"
		tx, err := h.Begin(ctx, Envelope{ID: "Q1", From: path("<a@b.example>"), Params: message.Params{"SIZE": "15", "RET": "HDRS"}})
		if err != nil {
			t.Fatal(err)
		}
		var r message.Reply
		if err = tx.Rcpt(ctx, path("<c@d.example>"), message.Params{"NOTIFY": "NEVER"}); err == nil {
			r, err = tx.Data(ctx, int64(len(body)), func() io.Reader { return strings.NewReader(body) })
		}
		tx.Abort()
		heard, codes := hop.heard.String(), repliesIn(string(says))
		offers := strings.ToUpper(string(says))
		if strings.Contains(heard, " RET=") && !strings.Contains(offers, "DSN") || strings.Contains(heard, " SIZE=") && !strings.Contains(offers, "SIZE") {
			t.Fatalf("%q: was told %q", says, heard)
		}
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Reply.Code() < 400 || e.Reply.Code() > 599 || !printableReply(e.Reply) {
				t.Fatalf("%q: %#v", says, err)
			}
			return
		}
		at := 5 // greeting, EHLO, MAIL, RCPT, DATA
		if len(codes) > 1 && codes[1]/100 == 5 && !lmtp {
			at++ // HELO
		}
		if len(codes) <= at || codes[0] != 220 || codes[at-1] != 354 || codes[at]/100 != 2 || codes[at-2]/100 != 2 || codes[at-3]/100 != 2 || r.Code() != codes[at] || !printableReply(r) {
			t.Fatalf("%q, replies %v: our client is told %v", says, codes, r)
		}
		if n := strings.Count(heard, "DATA\r\n"+stuffed(body)); n != 1 || strings.Count(heard, "\r\n.\r\n") != 1 {
			t.Fatalf("%q: the hop heard %q", says, heard)
		}
	})
}

func printableReply(r message.Reply) bool {
	for line := range strings.SplitSeq(strings.TrimSuffix(string(r.AppendTo(nil)), "\r\n"), "\r\n") {
		if line == "" || len(line) > 510 || strings.ContainsFunc(line, func(c rune) bool { return c < ' ' || c > '~' }) {
			return false
		}
	}
	return true
}
