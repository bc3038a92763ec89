package smtpd

import (
	"crypto/tls"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
)

// TestSTARTTLSWithArgument: STARTTLSfoo is not STARTTLS; go-smtp accepts it.
func TestSTARTTLSWithArgument(t *testing.T) {
	t.Parallel()
	start(t).talk(hello + `
		C: STARTTLSfoo
		S: 500 5.5.2
		C: STARTTLS foo
		S: 501 5.5.4
		C: NOOP
		S: 250 2.0.0
		C: starttls
		S: 220 2.0.0
		TLS
		C: EHLO client.example
		S: 250 mail.example.com
		C: STARTTLS
		S: 503 5.5.1
	` + quit)
}

// TestPipelinedBehindSTARTTLSCloses: octets in the clear after the command are perhaps not from the client (CVE-2011-0411).
func TestPipelinedBehindSTARTTLSCloses(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.talk(hello + `
		W: "STARTTLS\r\nEHLO evil.example\r\nMAIL FROM:<evil@example.com>\r\n"
		S: 501 5.5.4
		EOF
	`)
	// The same in a second write, after the reply: the handshake fails, and the connection ends.
	s.talk(hello + `
		C: STARTTLS
		S: 220 2.0.0
		W: "EHLO evil.example\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.net>\r\n"
	`).noMore()
	s.hop.want()
}

// TestFailedHandshakeCloses: a failed handshake ends the connection; go-smtp goes on in the clear.
func TestFailedHandshakeCloses(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.talk(hello + "C: STARTTLS\nS: 220")
	bad := tls.Client(c.conn, &tls.Config{ServerName: "elsewhere.example"}) // does not trust the certificate, and says so
	if err := bad.Handshake(); err == nil {
		t.Error("the handshake did not fail")
	}
	c.write("NOOP\r\n")
	c.noMore()
}

// noMore wants the server to close without more octets in the clear, except a TLS alert.
func (c *client) noMore() {
	c.t.Helper()
	var got []byte
	buf := make([]byte, 1024)
	for {
		n, err := c.r.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			if e := c.eof(); e != nil {
				c.t.Errorf("the connection is not closed: %v", e)
			}
			break
		}
	}
	if len(got) > 0 && got[0] != 21 { // ContentType alert (RFC 8446 §5.1)
		c.t.Errorf("the server said %q", got)
	}
}

// TestSTARTTLSForgets: nothing that was said in the clear survives (RFC 3207 §4.2).
func TestSTARTTLSForgets(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.talk(hello + envelope + `
		C: STARTTLS
		S: 220
		TLS
		C: MAIL FROM:<alice@example.com>
		S: 503 5.5.1 EHLO first
		C: RCPT TO:<bob@example.net>
		S: 503 5.5.1 MAIL first
		C: DATA
		S: 503 5.5.1 MAIL first
		C: EHLO client.example
		S: 250
		C: RCPT TO:<bob@example.net>
		S: 503 5.5.1 MAIL first
	` + envelope + message1 + quit)
	s.hop.want("one\r\n")
	s.hop.ended()
	if got := s.hop.got()[0].received(); !strings.Contains(got, " with ESMTPS ") || !strings.Contains(got, "(TLS1.3 TLS_") {
		t.Errorf("Received: %s", got)
	}
}

// TestSTARTTLSBeforeEHLO: STARTTLS needs EHLO first.
func TestSTARTTLSBeforeEHLO(t *testing.T) {
	t.Parallel()
	start(t).talk("S: 220\nC: STARTTLS\nS: 503 5.5.1" + quit)
}

// TestImplicitTLS (RFC 8314): the greeting comes under TLS, and STARTTLS is not offered.
func TestImplicitTLS(t *testing.T) {
	t.Parallel()
	s := start(t, wantsAuth, func(_ *Server, l *Listener) { l.TLS = true })
	s.talk("TLS" + hello + `
		C: STARTTLS
		S: 503 5.5.1
		C: AUTH PLAIN {alice:secret}
		S: 235 2.7.0
	` + envelope + message1 + quit)
	if got := s.hop.got()[0].received(); !strings.Contains(got, " with ESMTPSA ") {
		t.Errorf("Received: %s", got)
	}
}

// TestCapabilities: what EHLO lists, in the clear, under TLS and after AUTH.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	always := []string{"PIPELINING", "SIZE 26214400", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "LIMITS MAILMAX=10000 RCPTMAX=100"}
	s := start(t)
	c := s.talk("S: 220")
	c.capabilities(append(always, "STARTTLS")...)
	c.talk("C: STARTTLS\nS: 220\nTLS")
	c.capabilities(append(always, "AUTH PLAIN LOGIN")...)
	c.talk("C: AUTH PLAIN {alice:secret}\nS: 235 2.7.0")
	c.capabilities(append(always, "AUTH PLAIN LOGIN")...)
	c.talk("C: HELO client.example\nS: 250 mail.example.com" + quit)

	s = start(t, func(s *Server, _ *Listener) { s.TLS, s.Auth, s.Limits.MessageBytes = nil, nil, 1000 })
	always[1] = "SIZE 1000"
	c = s.talk("S: 220")
	c.capabilities(always...)
	c.talk("C: STARTTLS\nS: 502 5.5.1\nC: AUTH PLAIN {alice:secret}\nS: 502 5.5.1" + quit)
}

// capabilities sends EHLO and wants exactly these lines in the reply.
func (c *client) capabilities(want ...string) {
	c.t.Helper()
	c.write("EHLO client.example\r\n")
	reply, err := c.reply()
	if err != nil {
		c.t.Fatal(err)
	}
	got := strings.Split(reply, " | ")
	if got[0] != "250 mail.example.com" {
		c.t.Errorf("first line %q", got[0])
	}
	got = got[1:]
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		c.t.Errorf("got %q, want %q", got, want)
	}
}

// TestHello: which arguments of EHLO are accepted by a strict server. They go into Received fields.
func TestHello(t *testing.T) {
	t.Parallel()
	s := startPipe(t, limits(func(l *Limits) { l.Errors = 100 }), strictCommands)
	c := s.talk("S: 220")
	for _, arg := range []string{"", "a b", "a;b", `a"b`, "<a>", "(a)", "a,b", `a\b`, "a\tb", strings.Repeat("x", 256), "\xc3\xb6.example"} {
		for _, verb := range []string{"EHLO ", "HELO "} {
			c.refused(verb+arg, "501 5.5.4")
		}
	}
	c.refused("EHLO a\x00b", "500 5.5.2")
	c.talk("C: MAIL FROM:<alice@example.com>\nS: 503 5.5.1 EHLO first")
	for _, arg := range []string{"[192.0.2.1]", "[IPv6:2001:db8::1]", "laptop", "my_host.example", "x.example  "} {
		c.talk("C: EHLO " + arg + "\nS: 250 mail.example.com")
	}
	c.talk(quit)
}

// TestAnyHello: a client is not refused for its name (RFC 5321 §4.1.4). Policy and the Received field get what can be shown of it.
func TestAnyHello(t *testing.T) {
	t.Parallel()
	s := startPipe(t, rules(t, "message", `edit contains {"op": "add_header", "name": "X-Ehlo", "value": base64.encode(input.client.ehlo)}`))
	for _, tt := range [][3]string{ // argument, fact, name in Received
		{" M\u00dcLLER-PC", "M\u00dcLLER-PC", "M?LLER-PC"}, {" my printer", "my printer", "my?printer"}, {"", "", "unknown"}, {" (none)", "(none)", "?none?"},
		{"   spaced  ", "spaced", "spaced"}, {" <a>;\"b\\,", "<a>;\"b\\,", "?a???b??"}, {" M\xdcLLER", "M?LLER", "M?LLER"}, {" a\u202eb", "a?b", "a?b"}, {" {ehlo}", "{ehlo}", "?ehlo?"},
	} {
		for _, verb := range []string{"EHLO", "HELO"} {
			c := s.talk("S: 220")
			c.talk("C: " + verb + tt[0] + "\nS: 250 mail.example.com\n" + envelope + message1 + quit)
			got := s.hop.got()
			last := got[len(got)-1]
			if r := last.received(); !strings.HasPrefix(r, "Received: from "+tt[2]+" (") {
				t.Errorf("%q: Received: %s", tt[0], r)
			}
			want := "X-Ehlo: " + base64.StdEncoding.EncodeToString([]byte(tt[1])) + "\r\n"
			if has := strings.Contains(string(last.body), want); has != (tt[1] != "") {
				t.Errorf("%q: the message has %q: %v", tt[0], want, has)
			}
		}
	}
	c := s.talk("S: 220")
	c.refused("EHLO PC 35\tx", "501 5.5.4 A TAB")
	c.refused("EHLO "+strings.Repeat("x", 256), "501 5.5.4")
	c.talk("C: MAIL FROM:<alice@example.com>\nS: 503 5.5.1 EHLO first" + quit)
}
