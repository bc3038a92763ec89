package smtpd

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// trusting takes PROXY headers from loopback.
func trusting(_ *Server, l *Listener) {
	l.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
}

// v2 is a PROXY header of version 2: command, family, and the rest.
func v2(command, family byte, rest ...byte) string {
	return "\r\n\r\n\x00\r\nQUIT\n" + string([]byte{command, family}) + string(binary.BigEndian.AppendUint16(nil, uint16(len(rest)))) + string(rest)
}

// addresses of a version 2 header: client, server, ports.
func addresses(client, server string, ports ...uint16) []byte {
	var b []byte
	for _, a := range []string{client, server} {
		b = append(b, netip.MustParseAddr(a).AsSlice()...)
	}
	for _, p := range ports {
		b = binary.BigEndian.AppendUint16(b, p)
	}
	return b
}

// TestProxy: both versions, from a proxy that is trusted; policy and Received see the client.
func TestProxy(t *testing.T) {
	t.Parallel()
	v4 := addresses("192.0.2.7", "198.51.100.1", 4711, 587)
	for name, tt := range map[string]struct{ header, want string }{
		"v1 TCP4":          {"PROXY TCP4 192.0.2.7 198.51.100.1 4711 587\r\n", "192.0.2.7 4711"},
		"v1 TCP6":          {"PROXY TCP6 2001:db8::7 2001:db8::1 4711 587\r\n", "2001:db8::7 4711"},
		"v1 mapped":        {"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 4711 587\r\n", "192.0.2.7 4711"},
		"v1 UNKNOWN":       {"PROXY UNKNOWN\r\n", "127.0.0.1"},
		"v1 UNKNOWN, more": {"PROXY UNKNOWN ffff:f...f:ffff x y z\r\n", "127.0.0.1"},
		"v2 IPv4":          {v2(0x21, 0x11, v4...), "192.0.2.7 4711"},
		"v2 IPv6":          {v2(0x21, 0x21, addresses("2001:db8::7", "2001:db8::1", 4711, 587)...), "2001:db8::7 4711"},
		"v2 with TLVs":     {v2(0x21, 0x11, append(v4, "\x04\x00\x03abc"...)...), "192.0.2.7 4711"},
		"v2 LOCAL":         {v2(0x20, 0x00), "127.0.0.1"},
		"v2 LOCAL, more":   {v2(0x20, 0x11, v4...), "127.0.0.1"},
		"v2 UNSPEC":        {v2(0x21, 0x00), "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, trusting, rules(t, "mail", `reject contains {"rule": "r", "message": sprintf("%v %v", [input.client.ip, input.client.port])} if input.client.port != 0`))
			c := s.connect()
			c.split(tt.header, 7)
			c.talk(hello + "C: MAIL FROM:<a@b.example>\nS: 550 5.7.1 " + tt.want + quit)
		})
	}
}

// TestProxyMalformed: a trusted proxy that does not send a proper header gets no reply.
func TestProxyMalformed(t *testing.T) {
	t.Parallel()
	v4 := addresses("192.0.2.7", "198.51.100.1", 4711, 587)
	for name, header := range map[string]string{
		"none":              "EHLO client.example\r\n",
		"lower case":        "proxy TCP4 192.0.2.7 198.51.100.1 4711 587\r\n",
		"address":           "PROXY TCP4 192.0.2.777 198.51.100.1 4711 587\r\n",
		"family":            "PROXY TCP4 2001:db8::7 2001:db8::1 4711 587\r\n",
		"other family":      "PROXY TCP6 192.0.2.7 198.51.100.1 4711 587\r\n",
		"zone":              "PROXY TCP6 fe80::1%eth0 2001:db8::1 4711 587\r\n",
		"UDP":               "PROXY UDP4 192.0.2.7 198.51.100.1 4711 587\r\n",
		"port":              "PROXY TCP4 192.0.2.7 198.51.100.1 65536 587\r\n",
		"zeros before port": "PROXY TCP4 192.0.2.7 198.51.100.1 04711 587\r\n",
		"server's address":  "PROXY TCP4 192.0.2.7 here 4711 587\r\n",
		"server's port":     "PROXY TCP4 192.0.2.7 198.51.100.1 4711 x\r\n",
		"two spaces":        "PROXY TCP4  192.0.2.7 198.51.100.1 4711 587\r\n",
		"too few":           "PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
		"bare LF":           "PROXY TCP4 192.0.2.7 198.51.100.1 4711 587\nEHLO x\r\n",
		"too long":          "PROXY UNKNOWN " + strings.Repeat("x", 200) + "\r\n",
		"v2 version":        v2(0x31, 0x11, v4...),
		"v2 command":        v2(0x22, 0x11, v4...),
		"v2 UDP":            v2(0x21, 0x12, v4...),
		"v2 unix":           v2(0x21, 0x31, make([]byte, 216)...),
		"v2 short":          v2(0x21, 0x11, v4[:11]...),
		"v2 short IPv6":     v2(0x21, 0x21, v4...),
		"v2 too long":       v2(0x21, 0x11, make([]byte, 2049)...),
		"v2 signature only": "\r\n\r\n\x00\r\nQUIT\n" + "\x21\x11\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, trusting, limits(func(l *Limits) { l.Handshake = 200 * time.Millisecond }))
			c := s.connect()
			c.write(header)
			c.talk("EOF")
		})
	}
}

// TestProxyUntrusted: the header of an untrusted client is read as a command.
func TestProxyUntrusted(t *testing.T) {
	t.Parallel()
	s := start(t, func(_ *Server, l *Listener) { l.Trusted = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} })
	s.talk("S: 220\nC: PROXY TCP4 192.0.2.7 198.51.100.1 4711 587\nS: 500 5.5.2\nC: EHLO client.example\nS: 250" + envelope + message1 + quit)
	if r := s.hop.got()[0].received(); !strings.Contains(r, "([127.0.0.1])") {
		t.Errorf("%s", r)
	}
	c := s.connect()
	c.write(v2(0x21, 0x11, addresses("192.0.2.7", "198.51.100.1", 4711, 587)...))
	c.talk("S: 220\nS: 500\nS: 500\nS: 500\nS: 500 5.5.2 A line ends in CR LF\nEOF") // two empty lines, a NUL, "QUIT" with a bare LF
}

// TestProxyLimits: connections are counted by client, not by proxy. TLS comes after the header.
func TestProxyLimits(t *testing.T) {
	t.Parallel()
	s := start(t, trusting, limits(func(l *Limits) { l.ConnectionsPerIP = 1 }), func(_ *Server, l *Listener) { l.TLS = true })
	one := s.connect()
	one.talk("W: \"PROXY TCP4 192.0.2.1 198.51.100.1 1 465\\r\\n\"\nTLS" + hello)
	two := s.connect()
	two.talk("W: \"PROXY TCP4 192.0.2.2 198.51.100.1 1 465\\r\\n\"\nTLS" + hello + envelope + message1 + quit)
	again := s.connect()
	again.talk("W: \"PROXY TCP4 192.0.2.1 198.51.100.1 1 465\\r\\n\"\nEOF")
	one.talk(quit)
	if r := s.hop.got()[0].received(); !strings.Contains(r, "([192.0.2.2])") {
		t.Errorf("%s", r)
	}
}
