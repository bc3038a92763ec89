package smtpd

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/smtpd/relay"
)

// TestOffer: EHLO offers what the next hop can keep, unless Server.Extensions says otherwise.
func TestOffer(t *testing.T) {
	t.Parallel()
	const mib25 = "26214400"
	all := relay.Extensions{EightBit: true, UTF8: true, DSN: true}
	for name, tt := range map[string]struct {
		way  relay.Extensions
		set  map[string]bool
		want string // beyond PIPELINING, STARTTLS, ENHANCEDSTATUSCODES
	}{
		"all":                     {all, nil, "SIZE " + mib25 + ",8BITMIME,SMTPUTF8,DSN,CHUNKING,LIMITS MAILMAX=10000 RCPTMAX=100"},
		"none, or never seen":     {relay.Extensions{}, nil, "SIZE " + mib25 + ",CHUNKING,LIMITS MAILMAX=10000 RCPTMAX=100"},
		"without DSN":             {relay.Extensions{EightBit: true, UTF8: true}, nil, "SIZE " + mib25 + ",8BITMIME,SMTPUTF8,CHUNKING,LIMITS MAILMAX=10000 RCPTMAX=100"},
		"without SMTPUTF8":        {relay.Extensions{EightBit: true, DSN: true}, nil, "SIZE " + mib25 + ",8BITMIME,DSN,CHUNKING,LIMITS MAILMAX=10000 RCPTMAX=100"},
		"all on":                  {relay.Extensions{}, map[string]bool{"8BITMIME": true, "SMTPUTF8": true, "DSN": true}, "SIZE " + mib25 + ",8BITMIME,SMTPUTF8,DSN,CHUNKING,LIMITS MAILMAX=10000 RCPTMAX=100"},
		"all off":                 {all, map[string]bool{"8BITMIME": false, "SMTPUTF8": false, "DSN": false, "CHUNKING": false, "LIMITS": false}, "SIZE " + mib25},
		"SMTPUTF8 needs 8BITMIME": {all, map[string]bool{"8BITMIME": false}, "SIZE " + mib25 + ",DSN,CHUNKING,LIMITS MAILMAX=10000 RCPTMAX=100"},
		"a smaller next hop":      {relay.Extensions{MaxSize: 1_004_096}, map[string]bool{"CHUNKING": false, "LIMITS": false}, "SIZE 1000000"},
		"a larger next hop":       {relay.Extensions{MaxSize: 1 << 40}, map[string]bool{"CHUNKING": false, "LIMITS": false}, "SIZE " + mib25},
		"a tiny next hop":         {relay.Extensions{MaxSize: 4096}, map[string]bool{"CHUNKING": false, "LIMITS": false}, "SIZE " + mib25},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, func(s *Server, _ *Listener) {
				s.Extensions = tt.set
				s.Relay.(*recorder).extensions = &tt.way
			})
			s.talk("S: 220").capabilities(append(strings.Split(tt.want, ","), "PIPELINING", "STARTTLS", "ENHANCEDSTATUSCODES")...)
		})
	}
}

// TestLimitsAreTrue: LIMITS (RFC 9422) promises what is refused one step later, and nothing sooner.
func TestLimitsAreTrue(t *testing.T) {
	t.Parallel()
	s := start(t, limits(func(l *Limits) { l.Recipients, l.Messages = 3, 2 }))
	c := s.talk("S: 220")
	c.write("EHLO client.example\r\n")
	if reply, err := c.reply(); err != nil || !strings.Contains(reply, " | LIMITS MAILMAX=2 RCPTMAX=3") {
		t.Fatal(reply, err)
	}
	rcpt := "C: RCPT TO:<bob@example.net>\nS: 250\n"
	c.talk("C: MAIL FROM:<alice@example.com>\nS: 250\n" + strings.Repeat(rcpt, 3) + "C: RCPT TO:<bob@example.net>\nS: 452 4.5.3\n" + message1)
	c.talk(envelope + message1 + "C: MAIL FROM:<alice@example.com>\nS: 421 4.7.0\nEOF")
}

// TestNextHopWithoutExtensions: a client that uses what was not offered loses nothing that the next hop can deliver. From the shared cases
// people/offer 52 to 54. The policy sees the parameters as the client sent them.
func TestNextHopWithoutExtensions(t *testing.T) {
	t.Parallel()
	const data = "C: DATA\nS: 354\nW: \"From: alice@example.com\\r\\n\\r\\nJ\xc3\xbcrgen\\r\\n.\\r\\n\"\nS: "
	const eight = "C: DATA\nS: 354\nW: \"From: alice@example.com\\r\\nSubject: J\xc3\xbcrgen\\r\\n\\r\\nx\\r\\n.\\r\\n\"\nS: "
	const mail, mailUTF8 = "C: MAIL FROM:<alice@example.com>\nS: 250\n", "C: MAIL FROM:<alice@example.com> SMTPUTF8\nS: 250\n"
	for name, tt := range map[string]struct {
		script string
		taken  int
	}{
		"52 NOTIFY=SUCCESS":      {mail + "C: RCPT TO:<bob@example.net> NOTIFY=SUCCESS\nS: 555 5.3.3 The next mail server cannot do delivery notifications (NOTIFY=SUCCESS)", 0},
		"53 NOTIFY=NEVER":        {mail + "C: RCPT TO:<bob@example.net> NOTIFY=NEVER\nS: 250\n" + data + "250", 1},
		"NOTIFY=FAILURE,DELAY":   {"C: MAIL FROM:<alice@example.com> RET=HDRS ENVID=x\nS: 250\nC: RCPT TO:<bob@example.net> NOTIFY=FAILURE,DELAY ORCPT=rfc822;bob@example.net\nS: 250\n" + data + "250", 1},
		"54 SMTPUTF8 with ASCII": {mailUTF8 + "C: RCPT TO:<bob@example.net>\nS: 250\n" + data + "250", 1},
		"SMTPUTF8 sender":        {"C: MAIL FROM:<j\xc3\xb6rg@example.com> SMTPUTF8\nS: 250\nC: RCPT TO:<bob@example.net>\nS: 550 5.6.7", 0},
		"SMTPUTF8 recipient":     {mailUTF8 + "C: RCPT TO:<j\xc3\xb6rg@example.net>\nS: 550 5.6.7\nC: RCPT TO:<bob@example.net>\nS: 250\n" + data + "250", 1},
		"SMTPUTF8 header":        {mailUTF8 + "C: RCPT TO:<bob@example.net>\nS: 250\n" + eight + "550 5.6.7", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hop := startFickle(t)
			out, err := relay.Open(relay.Options{}, "smtp://"+hop.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			s := start(t, func(s *Server, _ *Listener) { s.Relay = out })
			c := s.talk("S: 220")
			c.capabilities("PIPELINING", "SIZE 26214400", "STARTTLS", "ENHANCEDSTATUSCODES", "8BITMIME", "CHUNKING", "LIMITS MAILMAX=10000 RCPTMAX=100")
			c.talk(tt.script + "\nC: RSET\nS: 250" + quit)
			if n := hop.taken(); n != tt.taken {
				t.Errorf("the next hop took %d messages", n)
			}
		})
	}
}

// TestPolicySeesTheParameters: the facts are the client's words, though the next hop does not get them.
func TestPolicySeesTheParameters(t *testing.T) {
	t.Parallel()
	hop := startFickle(t)
	out, err := relay.Open(relay.Options{}, "smtp://"+hop.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	s := start(t, rules(t, "message", `reject contains {"rule": "seen", "code": 550, "status": "5.7.9", "message": "seen"} if {
			input.envelope.from.parameters == {"SMTPUTF8": "", "RET": "HDRS"}
			input.envelope.to[0].parameters == {"NOTIFY": "NEVER"}
		}`), func(s *Server, _ *Listener) { s.Relay = out })
	s.talk(hello + "C: MAIL FROM:<alice@example.com> SMTPUTF8 RET=HDRS\nS: 250\nC: RCPT TO:<bob@example.net> NOTIFY=NEVER\nS: 250\nC: DATA\nS: 354\nW: \"x: y\\r\\n\\r\\n.\\r\\n\"\nS: 550 5.7.9 seen" + quit)
}
