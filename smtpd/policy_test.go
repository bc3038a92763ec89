package smtpd

import (
	"context"
	"strings"
	"testing"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// TestPolicyAtEachStage: the replies of policy reach the client unchanged; what is refused does not reach the next hop.
func TestPolicyAtEachStage(t *testing.T) {
	t.Parallel()
	s := start(t, rules(t,
		"mail", `reject contains {"rule": "mail", "code": 553, "status": "5.1.8", "message": "Not from there"} if input.envelope.from.domain == "bad.example"
			defer contains {"rule": "later", "code": 450, "status": "4.7.2", "message": "Later"} if input.envelope.from.domain == "slow.example"`,
		"rcpt", `reject contains "rcpt-rule" if input.recipient.local == "bad"
			defer contains {"rule": "busy", "message": "Busy"} if input.recipient.local == "busy"`,
		"message", `reject contains {"rule": "text", "message": "Not that"} if input.message.header.subject[_] == "bad"
			defer contains "text-later" if input.message.header.subject[_] == "slow"`))
	s.talk(hello + `
		C: MAIL FROM:<a@bad.example>
		S: 553 5.1.8 Not from there
		C: RCPT TO:<b@example.net>
		S: 503 5.5.1
		C: MAIL FROM:<a@slow.example>
		S: 450 4.7.2 Later
		C: MAIL FROM:<a@example.com>
		S: 250 2.1.0
		C: RCPT TO:<bad@example.net>
		S: 550 5.7.1 rcpt-rule
		C: RCPT TO:<busy@example.net>
		S: 451 4.7.1 Busy
		C: DATA
		S: 554 5.5.1 No valid recipients
		C: RCPT TO:<good@example.net>
		S: 250 2.1.5
		C: DATA
		S: 354
		W: "Subject: bad\r\n\r\n.\r\n"
		S: 550 5.7.1 Not that
	` + envelope + `C: DATA
		S: 354
		W: "Subject: slow\r\n\r\n.\r\n"
		S: 451 4.7.1 text-later
	` + envelope + message1 + quit)
	s.hop.want("one\r\n")
	s.hop.ended()
	if s.hop.begun != 3 {
		t.Errorf("%d transactions at the next hop", s.hop.begun)
	}
}

// TestPolicyAtConnect: the refusal is the greeting, which has one of two codes (RFC 5321 §3.1, §4.2.3).
func TestPolicyAtConnect(t *testing.T) {
	t.Parallel()
	for set, want := range map[string]string{"reject": "S: 554 5.7.1 Go\nEOF", "defer": "S: 421 4.7.1 Go\nEOF"} {
		s := start(t, rules(t, "connect", set+` contains {"rule": "go", "message": "Go"} if input.client.ip == "127.0.0.1"`))
		s.talk(want)
	}
}

// TestPolicy421: a 421 of policy is the last reply (RFC 5321 §3.8).
func TestPolicy421(t *testing.T) {
	t.Parallel()
	for stage, script := range map[string]string{
		"mail": "C: MAIL FROM:<a@b.example>", "rcpt": "C: MAIL FROM:<a@b.example>\nS: 250\nC: RCPT TO:<b@c.example>", "message": envelope + "C: DATA\nS: 354\nW: \"x: y\\r\\n\\r\\n.\\r\\n\"",
	} {
		s := start(t, rules(t, stage, `defer contains {"rule": "close", "code": 421, "status": "4.7.0", "message": "Slow down"} if input.client.ip`))
		s.talk(hello + script + "\nS: 421 4.7.0 Slow down\nEOF")
		s.hop.want()
	}
}

// TestPolicyReplyLines: code and enhanced status on every line, no raw CR or LF, nothing that is not printable. wellFormed
// checks all replies of all tests. The texts here are made to split a reply (Exim CVE-2020-28021).
func TestPolicyReplyLines(t *testing.T) {
	t.Parallel()
	s := start(t, rules(t, "rcpt", `
		_text := {"lines": "one\ntwo\r\nthree\n", "crlf": "no\r\n250 2.0.0 yes", "cr": "no\r250 2.0.0 yes", "odd": "b\u0007ll \u0000 \u00fc \u2028 end", "long": concat("", [x | some i in numbers.range(1, 1000); x := sprintf("%04d", [i])])}
		reject contains {"rule": "r", "message": _text[input.recipient.local]} if input.recipient.domain == "example.net"`))
	c := s.talk(hello + `
		C: MAIL FROM:<a@example.com>
		S: 250
		C: RCPT TO:<lines@example.net>
		S: 550 5.7.1 one | two | three
		C: RCPT TO:<crlf@example.net>
		S: 550 5.7.1 no | 250 2.0.0 yes
		C: RCPT TO:<cr@example.net>
		S: 550 5.7.1 no
		C: RCPT TO:<odd@example.net>
		S: 550 5.7.1 b?ll ? ? ? end
		C: RCPT TO:<long@example.net>
		S: 550 5.7.1 000100020003
	`)
	c.talk(quit)
}

// TestPolicyCannotRefuseWith250: a reject with a positive code is an error, and so the failure verdict; go-smtp would
// send it as success.
func TestPolicyCannotRefuseWith250(t *testing.T) {
	t.Parallel()
	for stage, script := range map[string]string{
		"mail": "C: MAIL FROM:<250@b.example>", "rcpt": "C: MAIL FROM:<250@b.example>\nS: 250\nC: RCPT TO:<250@c.example>",
		"message": "C: MAIL FROM:<250@b.example>\nS: 250\nC: RCPT TO:<b@c.example>\nS: 250\nC: DATA\nS: 354\nW: \"x: y\\r\\n\\r\\n.\\r\\n\"",
	} {
		s := start(t, rules(t, stage, `_codes := {"250": 250}
			reject contains {"rule": "r", "code": _codes[input.envelope.from.local], "message": "Ok"} if input.client.ip`))
		s.talk(hello + script + "\nS: 451 4.3.0" + quit)
		s.hop.want()
	}
}

// TestPolicyFailure: 451 4.3.0, or the failure verdict of the listener, at every stage; the log says why.
func TestPolicyFailure(t *testing.T) {
	t.Parallel()
	// The smoke transaction of Compile must pass; it has another client.
	const broken = `reject contains "r" if { input.client.ip == "127.0.0.1"; to_number(input.client.ip) > 0 }`
	scripts := map[string]string{
		"connect": "", "mail": hello + "C: MAIL FROM:<a@b.example>\n", "rcpt": hello + "C: MAIL FROM:<a@b.example>\nS: 250\nC: RCPT TO:<b@c.example>\n",
		"message": hello + envelope + "C: DATA\nS: 354\nW: \"x: y\\r\\n\\r\\n.\\r\\n\"\n",
	}
	for stage, script := range scripts {
		for verdict, want := range map[engine.Verdict]string{engine.Defer: "S: 451 4.3.0", engine.Reject: "S: 5", engine.Accept: "S: 2"} {
			t.Run(stage+" "+verdict.String(), func(t *testing.T) {
				t.Parallel()
				s := start(t, func(s *Server, l *Listener) {
					s.Engine.Swap(policy(t, "test", stage, broken))
					l.Failure = verdict
				})
				if stage == "connect" && verdict == engine.Defer {
					want = "S: 421 4.3.0"
				}
				s.talk(script + want)
				if !strings.Contains(s.log.String(), "policy could not decide") {
					t.Error("the log does not say so")
				}
			})
		}
	}
}

// TestPolicyIsPinned: one policy decides a transaction from MAIL to its end, although another one is loaded meanwhile.
func TestPolicyIsPinned(t *testing.T) {
	t.Parallel()
	says := func(revision string) *engine.Policy {
		return policy(t, revision, "mail", `note contains "m" if input.client.ip`, "rcpt", `reject contains "`+revision+`" if input.recipient.local == "ask"`,
			"message", `reject contains "`+revision+`" if input.message.header.subject[_] == "ask"`)
	}
	s := start(t)
	s.Engine.Swap(says("one"))
	const ask = "C: RCPT TO:<ask@example.net>\nS: 550 5.7.1 "
	c := s.talk(hello + envelope + ask + "one\n")
	s.Engine.Swap(says("two"))
	c.talk(ask + "one\nC: DATA\nS: 354\nW: \"Subject: ask\\r\\n\\r\\n.\\r\\n\"\nS: 550 5.7.1 one" + envelope + ask + "two\n")
	s.Engine.Swap(says("three"))
	c.talk(ask + "two\nC: RSET\nS: 250" + envelope + ask + "three" + quit)
}

// TestEditsLeaveTheRestAlone: every octet that is not edited leaves as it came.
func TestEditsLeaveTheRestAlone(t *testing.T) {
	t.Parallel()
	s := start(t, rules(t, "message", `
		edit contains {"op": "add_header", "name": "X-New", "value": "new"}
		edit contains {"op": "remove_header", "name": "Bcc"}
		edit contains {"op": "replace_header", "name": "Subject", "value": "changed"}
		edit contains {"op": "change_sender", "address": "other@example.com"}
		edit contains {"op": "add_recipient", "address": "archive@example.com"}
		edit contains {"op": "remove_recipient", "address": "bob@example.net"}`))
	const odd = "X-Odd:  spaces \t and\r\n\t a fold\r\nx-CASE:no space\r\nX-Empty:\r\n"
	c := s.talk(hello + envelope + "C: RCPT TO:<carol@example.net>\nS: 250\nC: DATA\nS: 354")
	c.write(odd + "Bcc: secret@example.net\r\nSubject: old\r\n" + odd + "\r\nbody \r\n\r\nSubject: body\r\n.\r\n")
	c.talk("S: 250 2.0.0" + quit)
	got := s.hop.got()
	if len(got) != 1 {
		t.Fatalf("%d messages", len(got))
	}
	text := string(got[0].body)
	rest := text[strings.Index(text, "X-Odd"):]
	if want := odd + "Subject: changed\r\n" + odd + "X-New: new\r\n\r\nbody \r\n\r\nSubject: body\r\n"; rest != want {
		t.Errorf("got\n%q\nwant\n%q", rest, want)
	}
	to := ""
	for _, r := range got[0].to {
		to += r.Path.String()
	}
	if from := got[0].env.From.String(); from != "<other@example.com>" || to != "<carol@example.net><archive@example.com>" {
		t.Errorf("from %s to %s", from, to)
	}
	s.hop.ended()
}

// TestAllRecipientsRemoved: a message without recipients is not accepted.
func TestAllRecipientsRemoved(t *testing.T) {
	t.Parallel()
	s := start(t, rules(t, "message", `edit contains {"op": "remove_recipient", "address": "bob@example.net"}`))
	s.talk(hello + envelope + "C: DATA\nS: 354\nW: \"x: y\\r\\n\\r\\n.\\r\\n\"\nS: 554 5.5.1 No valid recipients" + quit)
	s.hop.want()
}

// TestQuarantineAndDiscard: the client gets 250, and the next hop gets nothing.
func TestQuarantineAndDiscard(t *testing.T) {
	t.Parallel()
	rules := rules(t, "message", `
		quarantine contains "hold" if input.message.header.subject[_] == "hold"
		discard contains "drop" if input.message.header.subject[_] == "drop"
		edit contains {"op": "add_header", "name": "X-Why", "value": "test"}`)
	const hold, drop = "C: DATA\nS: 354\nW: \"Subject: hold\\r\\n\\r\\nheld\\r\\n.\\r\\n\"\n", "C: DATA\nS: 354\nW: \"Subject: drop\\r\\n\\r\\n.\\r\\n\"\n"
	s := start(t, rules)
	s.talk(hello + envelope + hold + "S: 250 2.0.0 Ok: accepted as" + envelope + drop + "S: 250 2.0.0 Ok: accepted as" + quit)
	s.hop.want()
	s.hop.ended()
	s.held.want("held\r\n")
	if m := s.held.got()[0]; !strings.Contains(string(m.body), "X-Why: test\r\n") || m.env.From.String() != "<alice@example.com>" || len(m.to) != 1 {
		t.Errorf("held: %s", m.body)
	}

	s = start(t, rules, func(s *Server, _ *Listener) { s.Quarantine = nil })
	s.talk(hello + envelope + hold + "S: 451 4.3.0" + envelope + drop + "S: 250" + quit)

	s = start(t, rules)
	s.held.data = func(context.Context, *letter) (message.Reply, error) {
		return message.Reply{}, refusedBy("end-of-data", 552, "5.2.2", "The quarantine is full")
	}
	s.talk(hello + envelope + hold + "S: 451 4.3.0" + quit) // the reply does not mention a quarantine
}

// TestBrokenHeader: a broken header is refused with 554 if policy reads the header, and accepted otherwise.
func TestBrokenHeader(t *testing.T) {
	t.Parallel()
	const broken = "C: DATA\nS: 354\nW: \"no colon here\\r\\n\\r\\n.\\r\\n\"\n"
	start(t, rules(t, "message", `note contains "h" if input.message.header.subject`)).talk(hello + envelope + broken + "S: 554 5.6.0 Message header" + envelope + message1 + quit)
	start(t).talk(hello + envelope + broken + "S: 250 2.0.0 Ok: queued" + quit)
}

// TestChangeSenderAlone: an edit of the sender alone reaches the next hop, which has the old sender by then.
func TestChangeSenderAlone(t *testing.T) {
	t.Parallel()
	s := start(t, rules(t, "message", `edit contains {"op": "change_sender", "address": "other@example.com"}`))
	c := s.talk(hello + envelope + message1 + envelope)
	c.write("BDAT 14 LAST\r\nSubject: x\r\n\r\n")
	c.talk("S: 250 2.0.0" + quit)
	got := s.hop.got()
	if len(got) != 2 {
		t.Fatalf("%d messages", len(got))
	}
	for _, m := range got {
		if m.env.From.String() != "<other@example.com>" || len(m.to) != 1 || m.to[0].Path.String() != "<bob@example.net>" {
			t.Errorf("got it from %s to %v", m.env.From, m.to)
		}
	}
}

// TestRemoveRecipientAlone: a recipient that the next hop has accepted already does not get the message if policy removes it.
func TestRemoveRecipientAlone(t *testing.T) {
	t.Parallel()
	s := start(t, rules(t, "message", `edit contains {"op": "remove_recipient", "address": "bob@example.net"}`))
	s.talk(hello + envelope + "C: RCPT TO:<carol@example.net>\nS: 250" + message1 + quit)
	got := s.hop.got()
	if len(got) != 1 || len(got[0].to) != 1 || got[0].to[0].Path.String() != "<carol@example.net>" {
		t.Errorf("got %+v", got)
	}
}
