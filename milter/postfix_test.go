package milter

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/internal/testmilter"
)

// realPolicy does what the message's X-Test says, so that one real server is enough for all tests. Each of its edits moves the
// indexes of the others.
var realPolicy = map[string]string{
	"mail": `reject contains {"rule": "sender", "code": 553, "status": "5.7.1", "message": "100% no\nsecond line"} if input.envelope.from.local == "badmail"
defer contains {"rule": "later", "status": "4.7.1", "message": "come back"} if input.envelope.from.local == "latemail"
note contains input`,
	"rcpt": `reject contains "not this one" if input.recipient.local == "bad"
note contains input`,
	"message": `_test := input.message.header["x-test"][0]
reject contains {"rule": "no", "code": 550, "status": "5.7.1", "message": "100% refused\nby 2 lines"} if _test == "reject"
defer contains "later" if _test == "defer"
discard contains "away" if _test == "discard"
quarantine contains "hold this" if _test == "quarantine"
edit contains {"op": "add_header", "name": "X-Held", "value": "yes"} if _test == "quarantine"
edit contains {"op": "insert_header", "name": "X-Top", "value": "a", "index": 0} if _test == "edit"
edit contains {"op": "insert_header", "name": "X-Middle", "value": "b", "index": 3} if _test == "edit"
edit contains {"op": "insert_header", "name": "X-End", "value": "c", "index": 99} if _test == "edit"
edit contains {"op": "add_header", "name": "X-Added", "value": concat(" ", ["word" | some i in numbers.range(1, 40); i > 0])} if _test == "edit"
edit contains {"op": "replace_header", "name": "Subject", "value": "replaced"} if _test == "edit"
edit contains {"op": "replace_header", "name": "X-Old", "value": "third", "index": 3} if _test == "edit"
edit contains {"op": "remove_header", "name": "X-Old", "index": 1} if _test == "edit"
edit contains {"op": "remove_header", "name": "X-Gone"} if _test == "edit"
edit contains {"op": "change_sender", "address": "bounces@example.com"} if _test == "edit"
edit contains {"op": "add_recipient", "address": "archive@example.com"} if _test == "edit"
edit contains {"op": "remove_recipient", "address": "bob@example.net"} if _test == "edit"
note contains input`,
}

// testMessage is a message for realPolicy. It has all fields that a mail server would add.
func testMessage(test string) []byte {
	return eml(`From: Alice <alice@example.com>
To: bob@example.net
X-Old: 1
X-Old:  two spaces
X-Gone: 1
Subject: one
	folded
X-Old: 3
X-Gone:2
X-Test: ` + test + `
Date: Mon, 01 Jun 2026 11:59:00 +0000
Message-ID: <1@client.example.com>

Hello.
.leading dot
`)
}

// edited is the message after realPolicy's edits, by message.Header.Apply.
func edited(t testing.TB, rec recorded, before []byte) []byte {
	t.Helper()
	end := bytes.Index(before, []byte("\r\n\r\n")) + 4
	h, err := message.ParseHeader(before[:end], message.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	h, err = h.Apply(rec.decision.Edits)
	if err != nil {
		t.Fatal(err)
	}
	return append(h.AppendTo(nil), before[end:]...)
}

// withoutTrace cuts the Received fields that the mail server put on top.
func withoutTrace(data []byte) []byte {
	for bytes.HasPrefix(data, []byte("Received:")) {
		i := bytes.Index(data, []byte("\r\n"))
		for data = data[i+2:]; bytes.HasPrefix(data, []byte("\t")) || bytes.HasPrefix(data, []byte(" ")); data = data[i+2:] {
			i = bytes.Index(data, []byte("\r\n"))
		}
	}
	return data
}

func TestPostfix(t *testing.T) {
	testenv.NotShort(t, "Postfix")
	r := serve(t, rego(t, "1", realPolicy), nil)
	sink := testmilter.StartSink(t)
	auth := testmilter.StartDovecotAuth(t, "secret")
	p := testmilter.StartPostfix(t, testmilter.PostfixOptions{Milter: "inet:" + r.addr, NonSMTPD: r.alsoUnix(t, "postfix"), Relay: sink.Addr, SASL: auth})

	t.Run("edits", func(t *testing.T) {
		x := testmilter.DialSMTP(t, p.Addr)
		x.Want("250", "EHLO laptop.example.com")
		for n := range 2 { // two messages on one connection
			x.Want("250", "MAIL FROM:<alice@example.com> RET=HDRS ENVID=abc")
			x.Want("250", "RCPT TO:<Bob@Example.NET>")
			x.Want("250", "RCPT TO:<carol@example.net>")
			if got := x.Data(testMessage("edit")); !strings.HasPrefix(got, "250") {
				t.Fatalf("message %d: %s", n, got)
			}
			mail := collect(t, sink, 2)
			want := edited(t, r.records.last(t, engine.StageMessage), testMessage("edit"))
			for _, m := range mail {
				if got := withoutTrace(m.Data); !bytes.Equal(got, want) {
					t.Errorf("arrived\n%s\nwant\n%s", got, want)
				}
				if !strings.HasPrefix(m.From, "<bounces@example.com>") || !strings.Contains(m.From, "RET=HDRS") || !strings.Contains(m.From, "ENVID=abc") {
					t.Errorf("sender %s, want <bounces@example.com> with RET and ENVID", m.From)
				}
			}
			if to := recipients(mail); !slices.Equal(to, []string{"<archive@example.com>", "<carol@example.net>"}) {
				t.Errorf("recipients %v", to)
			}
		}
		if rec := r.records.last(t, engine.StageMessage); !strings.Contains(p.Log(), rec.id) || len(rec.id) > 16 {
			t.Errorf("transaction id %q is not the queue id", rec.id)
		}
	})

	t.Run("replies", func(t *testing.T) {
		x := testmilter.DialSMTP(t, p.Addr)
		x.Want("250", "EHLO laptop.example.com")
		x.Want("553-5.7.1 100% no\n553 5.7.1 second line", "MAIL FROM:<badmail@example.com>")
		x.Want("451 4.7.1 come back", "MAIL FROM:<latemail@example.com>")
		x.Want("250", "MAIL FROM:<alice@example.com>")
		x.Want("550 5.7.1 not this one", "RCPT TO:<bad@example.net>")
		x.Want("250", "RCPT TO:<bob@example.net>")
		x.Want("250", "RSET")
		for test, want := range map[string]string{"reject": "550-5.7.1 100% refused\n550 5.7.1 by 2 lines", "defer": "451 4.7.1 later", "discard": "250", "quarantine": "250"} {
			x.Want("250", "MAIL FROM:<alice@example.com>")
			x.Want("550 5.7.1 not this one", "RCPT TO:<bad@example.net>")
			x.Want("250", "RCPT TO:<bob@example.net>")
			if got := x.Data(testMessage(test)); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %q, want %q", test, got, want)
			}
		}
		if held := p.Queue("hold"); len(held) != 1 {
			t.Errorf("%d messages held, want the quarantined one", len(held))
		}
		// Only an ordinary message arrives. A refused or discarded one would have arrived before it.
		x.Want("250", "MAIL FROM:<alice@example.com>")
		x.Want("250", "RCPT TO:<last@example.net>")
		if got := x.Data(testMessage("none")); !strings.HasPrefix(got, "250") {
			t.Fatal(got)
		}
		if m := sink.Next(t); !slices.Equal(recipients([]testmilter.Mail{m}), []string{"<last@example.net>"}) || !bytes.Equal(withoutTrace(m.Data), testMessage("none")) {
			t.Errorf("arrived %v\n%s", m.To, m.Data)
		}
	})

	t.Run("facts", func(t *testing.T) {
		x := testmilter.DialSMTP(t, p.Addr)
		x.Want("250", "EHLO before.example.com")
		x.StartTLS()
		x.Want("250", "EHLO after.example.com")
		x.Login("alice", "secret")
		x.Want("250", "MAIL FROM:<alice@example.com> AUTH=ceo@example.org BODY=8BITMIME")
		x.Want("250", "RCPT TO:<bob@example.net>")
		if got := x.Data(testMessage("none")); !strings.HasPrefix(got, "250") {
			t.Fatal(got)
		}
		sink.Next(t)
		for _, stage := range []engine.Stage{engine.StageMail, engine.StageRcpt, engine.StageMessage} {
			in := r.records.last(t, stage).input
			for path, want := range map[string]any{
				"auth.login": "alice", "auth.mechanism": "PLAIN", "tls.version": "1.3", "client.ip": "127.0.0.1", "client.ehlo": "after.example.com",
				"envelope.from.parameters.AUTH": "ceo@example.org", "envelope.from.parameters.BODY": "8BITMIME", "server.hostname": "mta.example.com", "server.door": "milter",
			} {
				if got := dig(in, strings.Split(path, ".")...); got != want {
					t.Errorf("stage %v: %s is %v, want %v", stage, path, got, want)
				}
			}
			if dig(in, "client", "port") == nil || dig(in, "tls", "cipher") == nil {
				t.Errorf("stage %v: client %v, tls %v", stage, in["client"], in["tls"])
			}
		}
		if in := r.records.last(t, engine.StageMessage).input; dig(in, "message", "size") != float64(len(testMessage("none"))) {
			t.Errorf("size %v, want %d", dig(in, "message", "size"), len(testMessage("none")))
		}
		y := testmilter.DialSMTP(t, p.Addr)
		y.Want("250", "EHLO x")
		y.Want("250", "MAIL FROM:<alice@example.com>")
		in := r.records.last(t, engine.StageMail).input
		if in["auth"] != nil || in["tls"] != nil || slices.Contains(in["unknown"].([]any), "auth") || slices.Contains(in["unknown"].([]any), "tls") {
			t.Errorf("auth %v, tls %v, unknown %v of a client without either", in["auth"], in["tls"], in["unknown"])
		}
	})

	t.Run("non_smtpd", func(t *testing.T) {
		p.Sendmail(string(bytes.ReplaceAll(testMessage("none"), []byte("\r\n"), []byte("\n"))), "-f", "root@example.com", "-i", "bob@example.net")
		if m := sink.Next(t); !bytes.Equal(withoutTrace(m.Data), testMessage("none")) {
			t.Errorf("arrived\n%s", m.Data)
		}
		in := r.records.last(t, engine.StageMessage).input
		for _, u := range []any{"auth", "client", "tls"} {
			if !slices.Contains(in["unknown"].([]any), u) {
				t.Errorf("unknown %v lacks %v", in["unknown"], u)
			}
		}
		// If rcpt refuses a recipient, the whole message bounces.
		p.Sendmail("From: root@example.com\nSubject: x\n\nx\n", "-f", "root@example.com", "-i", "bad@example.net")
		p.WaitLog("milter-reject: END-OF-MESSAGE from localhost[127.0.0.1]: 5.7.1 not this one")
	})
}

// collect takes n deliveries; a mail server may send one message to two recipients in two transactions.
func collect(t testing.TB, s *testmilter.Sink, n int) []testmilter.Mail {
	t.Helper()
	var list []testmilter.Mail
	for have := 0; have < n; {
		m := s.Next(t)
		have += len(m.To)
		list = append(list, m)
	}
	return list
}

func recipients(mail []testmilter.Mail) []string {
	var to []string
	for _, m := range mail {
		for _, r := range m.To {
			addr, _, _ := strings.Cut(r, " ")
			to = append(to, addr)
		}
	}
	slices.Sort(to)
	return to
}
