package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// The PROXY protocol, versions 1 and 2 (proxy-protocol.txt of HAProxy). A header is read from trusted peers only, which must send
// one: any other client could claim any address.
//
// The reader is not that of github.com/pires/go-proxyproto (v0.16.0), which differs in these ways: it refuses a header of version 1
// that arrives in more than one read; it refuses a header of version 2 with an unspecified family, and a line of UNKNOWN that has a
// bare LF; it allows 4096 octets in version 2, by a variable of the package; and it reads beyond the header into a buffer of its own,
// through which the connection must then be read for ever, also by TLS.

var errProxy = errors.New("malformed PROXY header")

// v2Signature begins a header of version 2. It is shorter than the shortest header of version 1, so it can be read first.
const v2Signature = "\r\n\r\n\x00\r\nQUIT\n"

const (
	v1Length = 107  // §2.1, CRLF included
	v2Length = 2048 // octets of addresses and TLVs, which need a few hundred
)

// ReadProxyHeader reads a PROXY header from the socket within timeout, and not an octet more, because TLS may follow. It returns
// the address of the client. A zero address means that the proxy speaks for itself, as in a health check. After an error the
// connection is of no use.
func (c *Conn) ReadProxyHeader(timeout time.Duration) (netip.AddrPort, error) {
	if err := c.arm(time.Now().Add(timeout), true); err != nil {
		return netip.AddrPort{}, err
	}
	client, err := readProxy(c.raw)
	if err = c.disarm(true, err); err != nil {
		c.rerr = err
		return netip.AddrPort{}, err
	}
	return client, nil
}

func readProxy(r io.Reader) (netip.AddrPort, error) {
	var start [len(v2Signature)]byte
	if _, err := io.ReadFull(r, start[:]); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", errProxy, err)
	}
	if string(start[:]) == v2Signature {
		return readProxy2(r)
	}
	if !bytes.HasPrefix(start[:], []byte("PROXY ")) {
		return netip.AddrPort{}, errProxy
	}
	line := append(make([]byte, 0, v1Length), start[:]...)
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		if len(line) == v1Length {
			return netip.AddrPort{}, fmt.Errorf("%w: longer than %d octets", errProxy, v1Length)
		}
		if _, err := io.ReadFull(r, line[len(line):len(line)+1]); err != nil {
			return netip.AddrPort{}, fmt.Errorf("%w: %w", errProxy, err)
		}
		line = line[:len(line)+1]
	}
	return parseProxy1(string(line[:len(line)-2]))
}

func parseProxy1(line string) (netip.AddrPort, error) {
	f := strings.Split(line, " ")
	if len(f) >= 2 && f[1] == "UNKNOWN" {
		return netip.AddrPort{}, nil
	}
	if len(f) != 6 || f[1] != "TCP4" && f[1] != "TCP6" {
		return netip.AddrPort{}, errProxy
	}
	ip, err := netip.ParseAddr(f[2])
	if err != nil || ip.Zone() != "" || ip.Is4() != (f[1] == "TCP4") {
		return netip.AddrPort{}, errProxy
	}
	port, err := proxyPort(f[4])
	if err != nil {
		return netip.AddrPort{}, errProxy
	}
	// The server's address is not used, but a header in which it is wrong is malformed (§2.1).
	to, err := netip.ParseAddr(f[3])
	if err != nil || to.Zone() != "" || to.Is4() != ip.Is4() {
		return netip.AddrPort{}, errProxy
	}
	if _, err := proxyPort(f[5]); err != nil {
		return netip.AddrPort{}, errProxy
	}
	return netip.AddrPortFrom(ip, port), nil
}

// proxyPort refuses leading zeros, which another reader could take for octal (§2.1).
func proxyPort(s string) (uint16, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || len(s) > 1 && s[0] == '0' {
		return 0, errProxy
	}
	return uint16(port), nil
}

func readProxy2(r io.Reader) (netip.AddrPort, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", errProxy, err)
	}
	n := int(binary.BigEndian.Uint16(head[2:]))
	command, family := head[0], head[1]
	if command != 0x20 && command != 0x21 || n > v2Length {
		return netip.AddrPort{}, errProxy
	}
	rest := make([]byte, n)
	if _, err := io.ReadFull(r, rest); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", errProxy, err)
	}
	switch {
	case command == 0x20 || family>>4 == 0: // LOCAL, AF_UNSPEC
		return netip.AddrPort{}, nil
	case family == 0x11 && n >= 12:
		ip := netip.AddrFrom4([4]byte(rest[:4]))
		return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(rest[8:])), nil
	case family == 0x21 && n >= 36:
		ip := netip.AddrFrom16([16]byte(rest[:16]))
		return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(rest[32:])), nil
	}
	return netip.AddrPort{}, errProxy
}
