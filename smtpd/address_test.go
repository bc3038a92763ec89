package smtpd

import (
	"cmp"
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/message"
)

// quotedTrap is an address in good.org with a quoted local part. Written without the quotes, it is another address in evil, with
// a parameter after it.
const quotedTrap = `<"victim@evil> ORCPT=rfc822;x"@good.org>`

// TestQuotedLocalPart: go-smtp removes the quotes, so policy would see good.org and its client would write an address in evil.
// Here policy, the next hop and the reader of what the next hop is given have one address (recorder.same checks the last).
func TestQuotedLocalPart(t *testing.T) {
	t.Parallel()
	s := start(t, rules(t, "rcpt", `
		_domains := {"good.org"}
		reject contains {"rule": "elsewhere", "message": sprintf("not %v", [input.recipient.domain])} if not input.recipient.domain in _domains
		reject contains {"rule": "other-address", "message": input.recipient.address} if input.recipient.local == "victim"`))
	s.talk(hello + `
		C: MAIL FROM:<"a b"@example.com>
		S: 250 2.1.0
		C: RCPT TO:` + quotedTrap + `
		S: 250 2.1.5
		C: RCPT TO:<"victim"@evil>
		S: 550 5.7.1 not evil
		C: RCPT TO:<"victim"@good.org>
		S: 550 5.7.1 victim@good.org
		C: RCPT TO:<"bob"@good.org>
		S: 250 2.1.5
		C: RCPT TO:<"b\o\\b\""@good.org>
		S: 250 2.1.5
	` + message1 + quit)
	got := s.hop.got()
	if len(got) != 1 {
		t.Fatalf("%d messages", len(got))
	}
	want := []string{quotedTrap, "<bob@good.org>", `<"bo\\b\""@good.org>`}
	for i, to := range got[0].to {
		if to.Path.String() != want[i] {
			t.Errorf("recipient %s, want %s", to.Path, want[i])
		}
	}
	if from := got[0].env.From.String(); from != `<"a b"@example.com>` || len(got[0].to) != len(want) {
		t.Errorf("from %s to %v", from, got[0].to)
	}
}

// TestAddressSyntax: malformed addresses, among them those that go-smtp accepts. L is a local part of 300 octets, D a domain of
// 900.
func TestAddressSyntax(t *testing.T) {
	t.Parallel()
	s := startPipe(t, limits(func(l *Limits) { l.Errors = 1000 }), strictCommands)
	c := s.talk(hello)
	long := strings.NewReplacer("{L}", strings.Repeat("l", 300), "{D}", strings.Repeat("d123456789.", 82)+"d", "{63}", strings.Repeat("x", 64))
	tests := []struct{ arg, mail, rcpt string }{
		{" <a@b.example>", "501 5.5.4", "501 5.5.4"}, // RFC 5321 §3.3: no space
		{"a@b.example", "501 5.5.4", "501 5.5.4"},
		{"<a@b@c>", "501 5.1.7", "501 5.1.3"},
		{"<a@b.example", "501 5.1.7", "501 5.1.3"},
		{"<a@b.example>>", "501 5.5.4", "501 5.5.4"},
		{"<a@b.example>x", "501 5.5.4", "501 5.5.4"},
		{"<a@b.example>SIZE=1", "501 5.5.4", "501 5.5.4"},
		{"<<a@b.example>>", "501 5.1.7", "501 5.1.3"},
		{"< a@b.example>", "501 5.1.7", "501 5.1.3"},
		{"<a b@c.example>", "501 5.1.7", "501 5.1.3"},
		{"<a\x00@b.example>", "500 5.5.2", "500 5.5.2"},
		{"<a\x07@b.example>", "500 5.5.2", "500 5.5.2"},
		{"<a\x7f@b.example>", "500 5.5.2", "500 5.5.2"},
		{"<\"a\tb\"@c.example>", "501 5.1.7", "501 5.1.3"},
		{"<j\xc3\xb6rg@b.example>", "553 5.6.7", "553 5.6.7"},
		{"<a@b\xc3\xb6.example>", "553 5.6.7", "553 5.6.7"},
		{"<a@b.example> ENVID=\xc3\xb6", "501 5.5.4", "553 5.6.7"},
		{"<{L}@b.example>", "501 5.1.7", "501 5.1.3"},
		{"<\"{L}\"@b.example>", "501 5.1.7", "501 5.1.3"},
		{"<a@{D}>", "501 5.1.7", "501 5.1.3"},
		{"<a@{63}.example>", "501 5.1.7", "501 5.1.3"},
		{"<@b.example>", "501 5.1.7", "501 5.1.3"},
		{"<a@>", "501 5.1.7", "501 5.1.3"},
		{"<a@-b.example>", "501 5.1.7", "501 5.1.3"},
		{"<a@b..example>", "501 5.1.7", "501 5.1.3"},
		{"<a@[1.2.3]>", "501 5.1.7", "501 5.1.3"},
		{"<a@b.example> =", "501 5.5.4", "501 5.5.4"},
		{"<a@b.example> FOO", "555 5.5.4", "555 5.5.4"}, // RFC 5321 §4.1.1.11
		{"<a@b.example> FOO=bar", "555 5.5.4", "555 5.5.4"},
		{"<a@b.example> REQUIRETLS", "555 5.5.4", "555 5.5.4"},
	}
	for _, tt := range tests {
		arg := long.Replace(tt.arg)
		c.refused("MAIL FROM:"+arg, tt.mail)
		c.talk("C: MAIL FROM:<ok@example.com>\nS: 250 2.1.0")
		c.refused("RCPT TO:"+arg, tt.rcpt)
		c.talk("C: DATA\nS: 5\nC: RSET\nS: 250\n" + envelope + message1) // so that Limits.Commands is not hit
	}
	c.talk(quit)
	if n := len(s.hop.got()); n != len(tests) {
		t.Errorf("%d messages", n)
	}
}

// TestLenientCommands: blanks and missing brackets are taken where a path has one meaning.
func TestLenientCommands(t *testing.T) {
	t.Parallel()
	s := startPipe(t, limits(func(l *Limits) { l.Errors = 1000 }))
	c := s.talk(hello)
	for _, tt := range [][3]string{ // argument, sender, recipient; "": refused
		{" <a@b.example>", "<a@b.example>", "<a@b.example>"},
		{"   <a@b.example>  ", "<a@b.example>", "<a@b.example>"},
		{"a@b.example", "<a@b.example>", "<a@b.example>"},
		{" a.b+c@b.example", "<a.b+c@b.example>", "<a.b+c@b.example>"},
		{" <>", "<>", ""},
		{"", "", ""}, {" ", "", ""}, {"a", "", ""}, {"a@", "", ""}, {"@b.example", "", ""}, {"a@b@c.example", "", ""},
		{"a@b.example>", "", ""}, {"\"a\"@b.example", "", ""}, {"a@b.example,c@d.example", "", ""}, {"a@b.example;c@d.example", "", ""},
		{"a@b.example c@d.example", "", ""}, {"a(x)@b.example", "", ""}, {"a\\@b.example", "", ""}, {"a@[192.0.2.1]", "", ""}, {"x <a@b.example>", "", ""},
		{"\t<a@b.example>", "", ""}, {"a@b.example\tc", "", ""}, {"<a@b.example> <c@d.example>", "", ""}, {"< a@b.example>", "", ""},
	} {
		if tt[1] == "" {
			c.refused("MAIL FROM:"+tt[0], "501 5.")
			c.talk("C: MAIL FROM:<ok@example.com>\nS: 250 2.1.0")
		} else {
			c.talk("C: MAIL FROM:" + tt[0] + "\nS: 250 2.1.0")
		}
		if tt[2] == "" {
			c.refused("RCPT TO:"+tt[0], "501 5.")
			c.talk("C: RCPT TO:<ok@example.net>\nS: 250 2.1.5")
		} else {
			c.talk("C: RCPT TO:" + tt[0] + "\nS: 250 2.1.5")
		}
		c.talk(message1)
		got := s.hop.got()
		last := got[len(got)-1]
		from, to := cmp.Or(tt[1], "<ok@example.com>"), cmp.Or(tt[2], "<ok@example.net>")
		if last.env.From.String() != from || len(last.to) != 1 || last.to[0].Path.String() != to {
			t.Errorf("%q: got %s to %v", tt[0], last.env.From, last.to)
		}
	}
	c.talk("C: MAIL  FROM:a@b.example SIZE=10 BODY=8BITMIME\nS: 250 2.1.0\nC: RSET\nS: 250\nC: MAIL FROM:a@b.example FOO\nS: 555" + quit)
}

// TestAddressesThatExist: addresses outside the grammar of RFC 5321, or longer than it asks for, that people have. They are passed on as written,
// or quoted.
func TestAddressesThatExist(t *testing.T) {
	t.Parallel()
	s := startPipe(t)
	long := "<reply+" + strings.Repeat("x", 200) + "@b.example>"
	tests := [][2]string{{long, long}, {"<a..b@c.example>", `<"a..b"@c.example>`}, {"<abc.@c.example>", `<"abc."@c.example>`}, {"<a@b_c.example>", "<a@b_c.example>"}, {"<a@c.example.>", "<a@c.example>"}}
	dialogue := hello + "C: MAIL FROM:" + long + "\nS: 250 2.1.0\n"
	for _, tt := range tests {
		dialogue += "C: RCPT TO:" + tt[0] + "\nS: 250 2.1.5\n"
	}
	s.talk(dialogue + message1 + quit)
	got := s.hop.got()
	if len(got) != 1 || len(got[0].to) != len(tests) || got[0].env.From.String() != long {
		t.Fatalf("got %+v", got)
	}
	for i, to := range got[0].to {
		if to.Path.String() != tests[i][1] {
			t.Errorf("got %s, want %s", to.Path, tests[i][1])
		}
	}
}

func (c *client) refused(line, want string) {
	c.t.Helper()
	c.write(line + "\r\n")
	if got, err := c.reply(); err != nil || !strings.HasPrefix(got, want) {
		c.t.Errorf("%q: got %q %v, want %s", line, got, err, want)
	}
}

// TestParameters: wrong values of the parameters of MAIL and RCPT (RFC 1870, 3461, 4954, 6152, 6531).
func TestParameters(t *testing.T) {
	t.Parallel()
	s := startPipe(t, limits(func(l *Limits) { l.Errors = 1000 }))
	c := s.talk(hello)
	for arg, want := range map[string]string{
		"SIZE=1 SIZE=1": "501", "size=1 SIZE=2": "501", "SIZE": "501", "SIZE=": "501", "SIZE=-1": "501", "SIZE=+1": "501", "SIZE=1x": "501",
		"BODY=9BIT": "501", "BODY=BINARYMIME": "504", "BODY": "501", "SMTPUTF8=yes": "501", "SMTPUTF8=": "501", "SMTPUTF8 SMTPUTF8": "501",
		"RET=SOME": "501", "RET=FULL RET=FULL": "501", "ENVID=": "501", "ENVID=a+4": "501", "ENVID=a+zz": "501", "ENVID=+0D+0A": "501", "ENVID=a=b": "501",
		"ENVID=" + strings.Repeat("e", 101): "501", "AUTH=": "501", "AUTH=nobody": "501", "AUTH=+00": "501", "NOTIFY=NEVER": "555", "-X=1": "501",
		strings.Repeat("K", 40) + "=1": "501", "SIZE=1\tBODY=7BIT": "501", "SIZE=1\xc2\xa0BODY=7BIT SMTPUTF8": "501",
	} {
		c.refused("MAIL FROM:<a@b.example> "+arg, want)
	}
	c.talk("C: MAIL FROM:<a@b.example>")
	c.talk("S: 250")
	for arg, want := range map[string]string{
		"NOTIFY=": "501", "NOTIFY=NEVER,DELAY": "501", "NOTIFY=DELAY,DELAY": "501", "NOTIFY=SOMETIMES": "501", "NOTIFY=NEVER NOTIFY=DELAY": "501",
		"ORCPT=x": "501", "ORCPT=rfc822;": "501", "ORCPT=rfc822;a+0D+0A": "501", "ORCPT=rfc822;a=b": "501", "ORCPT=rfc822;" + strings.Repeat("a", 500): "501",
		"SIZE=1": "555", "SMTPUTF8": "555",
	} {
		c.refused("RCPT TO:<a@b.example> "+arg, want)
	}
	c.talk(quit)
}

// TestGoodAddresses are accepted, and reach the next hop unchanged.
func TestGoodAddresses(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]string{
		"<>": "<>", "<a@b.example>": "<a@b.example>", "<@x.example,@y.example:a@b.example>": "<a@b.example>",
		"<A.B+c@B.Example>": "<A.B+c@b.example>", `<"a"@b.example>`: "<a@b.example>", "<a@[192.0.2.1]>": "<a@[192.0.2.1]>", "<a@[IPv6:2001:db8::1]>": "<a@[IPv6:2001:db8::1]>",
		"<a@b.example> SIZE=10 BODY=8bitmime AUTH=<> RET=hdrs ENVID=x+2By":       "<a@b.example>",
		"<a@b.example> AUTH=b+40c.example":                                       "<a@b.example>",
		fmt.Sprintf("<%s@b.example>", strings.Repeat("l", 64)):                   fmt.Sprintf("<%s@b.example>", strings.Repeat("l", 64)),
		"<j\xc3\xb6rg@b.example> SMTPUTF8":                                       "<j\xc3\xb6rg@b.example>",
		"<a@b.example>    SIZE=1   BODY=7BIT  ":                                  "<a@b.example>",
		"<a@" + strings.Repeat("d12345678.", 24) + "dom> SMTPUTF8 BODY=8BITMIME": "<a@" + strings.Repeat("d12345678.", 24) + "dom>",
	} {
		s := startPipe(t)
		s.talk(hello + "C: MAIL FROM:" + from + "\nS: 250 2.1.0\nC: RCPT TO:<bob@example.net>\nS: 250 2.1.5" + message1 + quit)
		if got := s.hop.got(); len(got) != 1 || got[0].env.From.String() != want {
			t.Errorf("%s did not come as %s", from, want)
		}
	}
}

// TestPostmaster: a server must accept <postmaster> without a domain (RFC 5321 §4.1.1.3); go-smtp refuses it. Policy adds the
// domain.
func TestPostmaster(t *testing.T) {
	t.Parallel()
	s := start(t, rules(t, "message", `
		edit contains {"op": "remove_recipient", "address": "postmaster"}
		edit contains {"op": "add_recipient", "address": "postmaster@example.com"}`))
	s.talk(hello + `
		C: MAIL FROM:<alice@example.com>
		S: 250 2.1.0
		C: RCPT TO:<Postmaster>
		S: 250 2.1.5
		C: RSET
		S: 250
		C: MAIL FROM:<alice@example.com>
		S: 250 2.1.0
		C: RCPT TO:<postmaster>
		S: 250 2.1.5
	` + message1 + quit)
	if got := s.hop.got(); len(got) != 1 || len(got[0].to) != 1 || got[0].to[0].Path.String() != "<postmaster@example.com>" {
		t.Errorf("got %d messages", len(got))
	}
}

// TestSecondMAIL: a MAIL in a transaction is refused; go-smtp accepts it.
func TestSecondMAIL(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.talk(hello + envelope + "C: MAIL FROM:<evil@example.com>\nS: 503 5.5.1" + message1 + quit)
	if got := s.hop.got(); len(got) != 1 || got[0].env.From.String() != "<alice@example.com>" {
		t.Errorf("got %d messages", len(got))
	}
}

// TestParametersReachTheHop: parameters that are offered reach the next hop (SMTPUTF8, DSN, SIZE); one that claims an identity
// does not.
func TestParametersReachTheHop(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.talk(hello + "C: MAIL FROM:<jörg@bücher.example> SMTPUTF8 SIZE=100 RET=HDRS ENVID=x+2By AUTH=ceo@example.com BODY=7BIT\nS: 250 2.1.0" +
		"\nC: RCPT TO:<用户@例え.example> NOTIFY=SUCCESS,DELAY ORCPT=utf-8;用户@例え.example\nS: 250 2.1.5" + message1 + quit)
	got := s.hop.got()
	if len(got) != 1 {
		t.Fatalf("%d messages", len(got))
	}
	want := message.Params{"SMTPUTF8": "", "SIZE": "100", "RET": "HDRS", "ENVID": "x+2By", "BODY": "8BITMIME"}
	if fmt.Sprint(got[0].env.Params) != fmt.Sprint(want) || got[0].env.From.String() != "<jörg@xn--bcher-kva.example>" {
		t.Errorf("MAIL got %s %v", got[0].env.From, got[0].env.Params)
	}
	want = message.Params{"NOTIFY": "SUCCESS,DELAY", "ORCPT": "utf-8;用户@例え.example"}
	if to := got[0].to[0]; fmt.Sprint(to.Params) != fmt.Sprint(want) || to.Path.String() != "<用户@xn--r8jz45g.example>" {
		t.Errorf("RCPT got %s %v", to.Path, to.Params)
	}
	if r := got[0].received(); !strings.Contains(r, " with UTF8SMTP id ") {
		t.Errorf("Received: %s", r)
	}
}
