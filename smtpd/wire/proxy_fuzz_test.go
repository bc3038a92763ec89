package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
)

// FuzzProxy compares the reader of PROXY headers with another one that is written from the specification in a different way. Both
// must read the same client from the same headers, whole and octet by octet. No octet after the header may be consumed, because
// TLS may follow.
func FuzzProxy(f *testing.F) {
	v4, v6 := addresses("192.0.2.7", "198.51.100.1", 4711, 587), addresses("2001:db8::7", "::ffff:192.0.2.1", 4711, 587)
	for _, s := range []string{
		"PROXY TCP4 192.0.2.7 198.51.100.1 4711 587\r\n\x16\x03\x01", "PROXY TCP6 2001:db8::7 ::1 65535 0\r\nEHLO x\r\n", "PROXY UNKNOWN\r\nEHLO x\r\n",
		"PROXY UNKNOWN ffff:f...f:ffff a\nb\r\n", "PROXY \r\nEHLO xx\r\n", "PROXY TCP4 192.0.2.7 198.51.100.1 04711 587\r\n", "PROXY TCP4 192.0.2.07 198.51.100.1 1 2\r\n",
		"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "PROXY TCP4 192.0.2.7 198.51.100.1 +1 2\r\n", "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n", "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\r\n",
		"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 1 2\r\n", "PROXY UNKNOWN " + strings.Repeat("x", 91) + "\r\n", "PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", "EHLO client.example\r\n",
		v2(0x21, 0x11, v4...) + "EHLO x\r\n", v2(0x21, 0x21, v6...) + "\x16\x03", v2(0x20, 0), v2(0x21, 0x01), v2(0x21, 0x11, append(v4, "\x04\x00\x03abc"...)...), v2(0x21, 0x31, make([]byte, 216)...),
		v2(0x21, 0x11, v4[:11]...), v2(0x21, 0x12, v4...), v2(0x31, 0x11, v4...), v2Signature + "\x21\x11\xff\xff", v2Signature[:11],
		v2(0x21, 0x11, make([]byte, v2Length)...), v2(0x21, 0x11, make([]byte, v2Length+1)...),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		want, rest, ok := otherProxy(string(in))
		for _, r := range []io.Reader{bytes.NewReader(in), iotest.OneByteReader(bytes.NewReader(in))} {
			got, err := readProxy(r)
			if err != nil {
				if !errors.Is(err, errProxy) || got.IsValid() || ok {
					t.Fatalf("%q: %v, %v; want %v", in, got, err, want)
				}
				continue
			}
			left, _ := io.ReadAll(r)
			if !ok || got != want || string(left) != rest {
				t.Fatalf("%q: read as %v, %q left; want %v, %q, %v", in, got, left, want, rest, ok)
			}
		}
	})
}

var proxyLine = regexp.MustCompile(`^PROXY (?:UNKNOWN(?: .*)?|TCP([46]) ([^ ]*) ([^ ]*) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4}))\z`)

// otherProxy is the other reader. It has the whole input, so it first looks for the end of the header.
func otherProxy(s string) (client netip.AddrPort, rest string, ok bool) {
	if body, is := strings.CutPrefix(s, "\r\n\r\n\x00\r\nQUIT\n"); is {
		return otherProxy2(body)
	}
	end := strings.Index(s, "\r\n")
	if end < 0 || end > 105 || len(s) < 12 {
		return client, "", false
	}
	m := proxyLine.FindStringSubmatch(strings.ReplaceAll(s[:end], "\n", "?"))
	if m == nil {
		return client, "", false
	}
	if rest = s[end+2:]; m[1] == "" {
		return client, rest, true
	}
	var ports [2]int
	for i := range ports {
		host := net.ParseIP(m[2+i])
		ports[i], _ = strconv.Atoi(m[4+i])
		if host == nil || strings.Contains(m[2+i], ":") != (m[1] == "6") || ports[i] > 65535 {
			return client, "", false
		}
	}
	return netip.AddrPortFrom(netip.MustParseAddr(m[2]), uint16(ports[0])), rest, true
}

func otherProxy2(s string) (client netip.AddrPort, rest string, ok bool) {
	if len(s) < 4 {
		return client, "", false
	}
	size := int(s[2])<<8 + int(s[3])
	if size > 2048 || len(s) < 4+size {
		return client, "", false
	}
	block, rest := s[4:4+size], s[4+size:]
	octets := map[byte]int{0x11: 4, 0x21: 16}[s[1]]
	switch {
	case s[0] == 0x20, s[0] == 0x21 && s[1] < 0x10:
		return client, rest, true
	case s[0] != 0x21, octets == 0, size < 2*octets+4:
		return client, "", false
	}
	ip, _ := netip.AddrFromSlice([]byte(block[:octets]))
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16([]byte(block[2*octets:]))), rest, true
}

// v2 is a PROXY header of version 2: command, family, and the rest.
func v2(command, family byte, rest ...byte) string {
	return v2Signature + string([]byte{command, family}) + string(binary.BigEndian.AppendUint16(nil, uint16(len(rest)))) + string(rest)
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
