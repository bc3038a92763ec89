package relay

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/message"
)

const plainText = "Subject: test\r\n\r\nhello\r\n"

// TestCommands: the exact commands for envelopes with parameters. A parameter on no list is dropped.
func TestCommands(t *testing.T) {
	all := message.Params{"BODY": "8bitmime", "SIZE": "24", "RET": "hdrs", "ENVID": "QQ+3D1", "SMTPUTF8": "",
		"AUTH": "<>", "REQUIRETLS": "", "HOLDFOR": "10", "X": "1\r\nRSET"}
	for _, tc := range []struct {
		name       string
		caps       []string
		from       string
		mail, rcpt message.Params
		want       []string
	}{
		{"nothing", allCaps, "<>", nil, nil, []string{"MAIL FROM:<>", "RCPT TO:<bob@example.net>"}},
		{"everything", allCaps, "<a@example.com>", all, message.Params{"NOTIFY": "success,Failure", "ORCPT": "rfc822;bob@example.net", "RRVS": "x", "BY": "1;R"},
			[]string{"MAIL FROM:<a@example.com> SMTPUTF8 BODY=8BITMIME SIZE=24 RET=HDRS ENVID=QQ+3D1",
				"RCPT TO:<bob@example.net> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;bob@example.net"}},
		{"what a poor server takes", []string{}, "<a@example.com>", message.Params{"BODY": "8BITMIME", "SIZE": "24", "RET": "FULL", "ENVID": "x"},
			message.Params{"NOTIFY": "FAILURE,DELAY", "ORCPT": "rfc822;x"}, []string{"MAIL FROM:<a@example.com>", "RCPT TO:<bob@example.net>"}},
		{"no report", without("DSN"), "<a@example.com>", message.Params{"RET": "FULL", "ENVID": "x"}, message.Params{"NOTIFY": "NEVER"},
			[]string{"MAIL FROM:<a@example.com>", "RCPT TO:<bob@example.net>"}},
		{"a report of failure", without("DSN"), "<a@example.com>", nil, message.Params{"NOTIFY": "failure"}, []string{"MAIL FROM:<a@example.com>", "RCPT TO:<bob@example.net>"}},
		{"SMTPUTF8 that nothing needs", without("SMTPUTF8"), "<a@example.com>", message.Params{"SMTPUTF8": "", "BODY": "8BITMIME"}, message.Params{"ORCPT": "utf-8;jörg+2B€@example.net"},
			[]string{"MAIL FROM:<a@example.com> BODY=8BITMIME", `RCPT TO:<bob@example.net> ORCPT=utf-8;j\x{F6}rg+2B\x{20AC}@example.net`}},
		{"7 bits", allCaps, "<a@example.com>", message.Params{"BODY": "7BIT"}, nil, []string{"MAIL FROM:<a@example.com>", "RCPT TO:<bob@example.net>"}},
		{"a path that needs SMTPUTF8 says so by itself", allCaps, "<é@example.com>", nil, message.Params{"ORCPT": "utf-8;é@example.com"},
			[]string{"MAIL FROM:<é@example.com> SMTPUTF8", "RCPT TO:<bob@example.net> ORCPT=utf-8;é@example.com"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			hop := startHop(t, script{caps: tc.caps})
			h := openHop(t, Options{Hello: "postern.example"}, hop.url)
			if err := transferWith(h, tc.from, tc.mail, "<bob@example.net>", tc.rcpt, plainText); err != nil {
				t.Fatal(err)
			}
			want := append(append([]string{"EHLO postern.example"}, tc.want...), "DATA")
			if _, lines, _, _ := hop.seen(); !slices.Equal(lines, want) || hop.faults != nil {
				t.Errorf("got  %q %q\nwant %q", lines, hop.faults, want)
			}
		})
	}
}

// transferWith sends to one recipient with parameters.
func transferWith(h Hop, from string, mail message.Params, to string, rcpt message.Params, text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), long)
	defer cancel()
	tx, err := h.Begin(ctx, Envelope{From: path(from), Params: mail, ID: "T2"})
	if err != nil {
		return err
	}
	defer tx.Abort()
	if err := tx.Rcpt(ctx, path(to), rcpt); err != nil {
		return err
	}
	_, err = tx.Data(ctx, int64(len(text)), func() io.Reader { return strings.NewReader(text) })
	return err
}

// without is allCaps except for the named ones.
func without(names ...string) []string {
	return slices.DeleteFunc(slices.Clone(allCaps), func(c string) bool {
		word, _, _ := strings.Cut(c, " ")
		return slices.Contains(names, word)
	})
}

// TestLacking: if a message needs what the next hop lacks, or has an invalid parameter, it is refused and nothing of it is sent.
func TestLacking(t *testing.T) {
	type P = message.Params
	eight := "Subject: test\r\n\r\nJ\xfcrgen\r\n"
	for _, tc := range []struct {
		name       string
		caps       []string
		from, to   string
		mail, rcpt P
		text       string
		stage      string
		want       string // beginning of the reply
		sent       string // the last command that may have come, by its verb
	}{
		{"SMTPUTF8 sender", without("SMTPUTF8"), "<é@example.com>", "<b@example.net>", nil, nil, plainText, stageMail, "550 5.6.7", "EHLO"},
		{"SMTPUTF8 recipient", without("SMTPUTF8"), "<a@example.com>", "<é@example.net>", P{"SMTPUTF8": ""}, nil, plainText, stageRcpt, "550 5.6.7", "EHLO"},
		{"SMTPUTF8 header", without("SMTPUTF8"), "<a@example.com>", "<b@example.net>", P{"SMTPUTF8": ""}, nil, "X: é\r\n\r\nx\r\n", stageData, "550 5.6.7", "RSET"},
		{"SMTPUTF8 in the last of many fields", without("SMTPUTF8"), "<a@example.com>", "<b@example.net>", P{"SMTPUTF8": ""}, nil, strings.Repeat("X: y\r\n z\r\n", 10_000) + "é: x\r\n\r\nx\r\n", stageData, "550 5.6.7", "RSET"},
		{"SMTPUTF8 after short lines", without("SMTPUTF8"), "<a@example.com>", "<b@example.net>", P{"SMTPUTF8": ""}, nil, "X: y\r\n \r\nY: é\r\n\r\nx\r\n", stageData, "550 5.6.7", "RSET"},
		{"SMTPUTF8 header without an end", without("SMTPUTF8"), "<a@example.com>", "<b@example.net>", P{"SMTPUTF8": ""}, nil, "X: é\r\n", stageData, "550 5.6.7", "RSET"},
		{"SMTPUTF8 recipient in a transaction without", allCaps, "<a@example.com>", "<é@example.net>", nil, nil, plainText, stageRcpt, "553 5.6.7", "EHLO"},
		{"8-bit message", without("8BITMIME"), "<a@example.com>", "<b@example.net>", P{"BODY": "8BITMIME"}, nil, eight, stageData, "554 5.6.3", "RSET"},
		{"8-bit message that was not said to be one", without("8BITMIME"), "<a@example.com>", "<b@example.net>", nil, nil, eight, stageData, "554 5.6.3", "RSET"},
		{"8-bit octet at the end of a large one", without("8BITMIME"), "<a@example.com>", "<b@example.net>", nil, nil, letter("X", 100_000) + eight, stageData, "554 5.6.3", "RSET"},
		{"NOTIFY=SUCCESS", without("DSN"), "<a@example.com>", "<b@example.net>", nil, P{"NOTIFY": "DELAY,SUCCESS"}, plainText, stageRcpt, "555 5.3.3", "EHLO"},
		{"SIZE said", []string{"SIZE 100"}, "<a@example.com>", "<b@example.net>", P{"SIZE": "101"}, nil, plainText, stageMail, "552 5.3.4", "EHLO"},
		{"SIZE not said", []string{"SIZE 100"}, "<a@example.com>", "<b@example.net>", nil, nil, letter("X", 200), stageData, "552 5.3.4", "RSET"},
		{"BINARYMIME", append([]string{"BINARYMIME", "CHUNKING"}, allCaps...), "<a@example.com>", "<b@example.net>", P{"BODY": "BINARYMIME"}, nil, plainText, stageMail, "554 5.6.3", "EHLO"},
		{"BODY", allCaps, "<a@example.com>", "<b@example.net>", P{"BODY": "8BITMIME\r\nRSET"}, nil, plainText, stageMail, "501 5.5.4", "EHLO"},
		{"SIZE empty", allCaps, "<a@example.com>", "<b@example.net>", P{"SIZE": ""}, nil, plainText, stageMail, "501 5.5.4", "EHLO"},
		{"SIZE signed", allCaps, "<a@example.com>", "<b@example.net>", P{"SIZE": "+1"}, nil, plainText, stageMail, "501 5.5.4", "EHLO"},
		{"SIZE beyond", allCaps, "<a@example.com>", "<b@example.net>", P{"SIZE": "99999999999999999999"}, nil, plainText, stageMail, "501 5.5.4", "EHLO"},
		{"RET", allCaps, "<a@example.com>", "<b@example.net>", P{"RET": "ALL"}, nil, plainText, stageMail, "501 5.5.4", "EHLO"},
		{"ENVID bare", allCaps, "<a@example.com>", "<b@example.net>", P{"ENVID": "a=b"}, nil, plainText, stageMail, "501 5.5.4", "EHLO"},
		{"ENVID cut", allCaps, "<a@example.com>", "<b@example.net>", P{"ENVID": "a+2"}, nil, plainText, stageMail, "501 5.5.4", "EHLO"},
		{"ENVID long", allCaps, "<a@example.com>", "<b@example.net>", P{"ENVID": strings.Repeat("a", 101)}, nil, plainText, stageMail, "501 5.5.4", "EHLO"},
		{"NOTIFY=SUCCESS, FAILURE", without("DSN"), "<a@example.com>", "<b@example.net>", nil, P{"NOTIFY": "SUCCESS,FAILURE"}, plainText, stageRcpt, "555 5.3.3", "EHLO"},
		{"NOTIFY", allCaps, "<a@example.com>", "<b@example.net>", nil, P{"NOTIFY": "NEVER,SUCCESS"}, plainText, stageRcpt, "501 5.5.4", "EHLO"},
		{"NOTIFY twice", allCaps, "<a@example.com>", "<b@example.net>", nil, P{"NOTIFY": "DELAY,DELAY"}, plainText, stageRcpt, "501 5.5.4", "EHLO"},
		{"ORCPT without type", allCaps, "<a@example.com>", "<b@example.net>", nil, P{"ORCPT": "b@example.net"}, plainText, stageRcpt, "501 5.5.4", "EHLO"},
		{"ORCPT with a command", allCaps, "<a@example.com>", "<b@example.net>", nil, P{"ORCPT": "rfc822;b>\r\nRCPT TO:<x@example.org>"}, plainText, stageRcpt, "501 5.5.4", "EHLO"},
		{"ORCPT with a parameter", allCaps, "<é@example.com>", "<b@example.net>", nil, P{"ORCPT": "utf-8;b NOTIFY=NEVER"}, plainText, stageRcpt, "501 5.5.4", "EHLO"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			hop := startHop(t, script{caps: tc.caps})
			h := openHop(t, Options{}, hop.url)
			e := failure(t, transferWith(h, tc.from, tc.mail, tc.to, tc.rcpt, tc.text))
			if e.Stage != tc.stage || !strings.HasPrefix(e.Reply.String(), tc.want+" ") || e.Uncertain {
				t.Errorf("got %q at %s, want %s at %s", e.Reply, e.Stage, tc.want, tc.stage)
			}
			_ = h.Close()
			hop.stop()
			last := ""
			for _, l := range hop.lines {
				if verb, _, _ := strings.Cut(l, " "); verb != "QUIT" {
					last = verb
				}
			}
			if hop.said("DATA") || last != tc.sent || !hop.said("QUIT") {
				t.Errorf("the next hop got %q", hop.lines)
			}
		})
	}
}

// TestQuoting: a quoted local part that looks like the rest of a command stays in its quotes, and what would end the
// command is not sent. go-smtp takes the quotes off; a client that then writes the address bare sends mail to evil.example.
func TestQuoting(t *testing.T) {
	const trap = `<"victim@evil.example> ORCPT=rfc822;x"@good.example>`
	hop := startHop(t, script{})
	h := openHop(t, Options{}, hop.url)
	if err := transferWith(h, trap, nil, trap, nil, plainText); err != nil {
		t.Fatal(err)
	}
	if _, _, _, mails := hop.seen(); mails[0].from != trap || mails[0].to != trap {
		t.Errorf("got MAIL FROM:%s, RCPT TO:%s", mails[0].from, mails[0].to)
	}
	for i, local := range []string{"a\r\nRSET", "a\x00b", "a\nb", "\x7f"} {
		bad := message.Path{Mailbox: message.Mailbox{Local: local, Domain: "example.net"}}
		tx, err := h.Begin(t.Context(), Envelope{From: path("<>")})
		if err != nil {
			t.Fatal(err)
		}
		if e := failure(t, tx.Rcpt(t.Context(), bad, nil)); e.Reply.Code() != 553 {
			t.Errorf("%d: recipient %q: %v", i, local, e)
		}
		tx.Abort()
		tx, _ = h.Begin(t.Context(), Envelope{From: bad})
		if e := failure(t, tx.Rcpt(t.Context(), path("<b@example.net>"), nil)); e.Reply.Code() != 553 {
			t.Errorf("%d: sender %q: %v", i, local, e)
		}
	}
}

// TestLockStep: a next hop without PIPELINING gets one command at a time (RFC 2920 §3.1), and HELO if it does not know EHLO.
func TestLockStep(t *testing.T) {
	for name, s := range map[string]script{
		"no PIPELINING": {caps: without("PIPELINING")},
		"no EHLO":       {caps: []string{}, say: map[string]string{"EHLO": "502 5.5.1 What?\r\n", "HELO": "250 fake.example\r\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			hop := startHop(t, s)
			h := openHop(t, Options{}, hop.url)
			for i := range 3 {
				if err := send(h, fmt.Sprint(i), small); err != nil {
					t.Fatal(err)
				}
			}
			if conns, lines, _, mails := hop.seen(); len(mails) != 3 || conns != 1 || hop.faults != nil {
				t.Errorf("%d mails, %d connections, %q, %q", len(mails), conns, hop.faults, lines)
			}
		})
	}
}

// TestUnneededUTF8: a message whose body has 8-bit octets, but not its header or addresses, needs 8BITMIME only (RFC 6531 §3.6). The
// empty line may be cut anywhere by the reads.
func TestUnneededUTF8(t *testing.T) {
	text := "Subject: x\r\nTo: y\r\n\r\nJürgen\r\n\r\né\r\n"
	hop := startHop(t, script{caps: without("SMTPUTF8")})
	h := openHop(t, Options{}, hop.url)
	for n := 1; n < len(text); n++ {
		tx, _ := h.Begin(t.Context(), Envelope{From: path("<a@example.com>"), Params: message.Params{"SMTPUTF8": "", "BODY": "8BITMIME"}})
		if err := tx.Rcpt(t.Context(), path("<b@example.net>"), nil); err != nil {
			t.Fatal(err)
		}
		body := func() io.Reader { return io.MultiReader(strings.NewReader(text[:n]), strings.NewReader(text[n:])) }
		if _, err := tx.Data(t.Context(), int64(len(text)), body); err != nil {
			t.Fatalf("cut after %d: %v", n, err)
		}
	}
	if _, _, _, mails := hop.seen(); len(mails) != len(text)-1 || mails[0].from != "<a@example.com> BODY=8BITMIME" || mails[0].raw != text+".\r\n" {
		t.Errorf("%d mails, the first %+v", len(mails), mails[0])
	}
}
