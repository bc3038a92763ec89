package milter

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
)

// event is a decoded command that is handed to the session. Only the fields of its command are set.
type event struct {
	cmd    command
	host   string   // CONNECT: the client's name as the MTA has it
	family byte     // CONNECT: '4', '6', 'L' (unix) or 'U' (unknown)
	port   uint16   // CONNECT; 0 unknown
	addr   string   // CONNECT: address or path
	helo   string   // HELO
	args   []string // MAIL, RCPT: the path as it was sent, then ESMTP parameters
}

// decodeEvent decodes strictly: each string ends in NUL, and nothing is left over. Commands without data have none.
func decodeEvent(cmd command, data []byte) (event, error) {
	ev := event{cmd: cmd}
	var err error
	switch cmd {
	case cmdConnect:
		return decodeConnect(data)
	case cmdHelo:
		var s []string
		if s, err = cstrings(cmd, data, 1, 1); err == nil {
			ev.helo = s[0]
		}
	case cmdMail, cmdRcpt:
		if ev.args, err = cstrings(cmd, data, 1, maxArgs); err == nil && ev.args[0] == "" {
			err = protocolError("%c without an address", cmd)
		}
	case cmdAbort, cmdEOH, cmdQuit, cmdQuitNewCon, cmdData:
		if len(data) != 0 {
			err = protocolError("%c with %d octets of data; it has none", cmd, len(data))
		}
	}
	return ev, err
}

// maxArgs bounds the strings of MAIL and RCPT: the path and its parameters.
const maxArgs = 64

func decodeConnect(data []byte) (event, error) {
	ev := event{cmd: cmdConnect}
	host, rest, ok := bytes.Cut(data, []byte{0})
	if !ok || len(rest) == 0 {
		return ev, protocolError("CONNECT ends before its family")
	}
	ev.host, ev.family, rest = string(host), rest[0], rest[1:]
	switch ev.family {
	case 'U':
		// libmilter sends nothing more; anything else would be of a meaning that nobody has defined.
		if len(rest) != 0 {
			return ev, protocolError("CONNECT of unknown family with %d octets more", len(rest))
		}
		return ev, nil
	case '4', '6', 'L':
		if len(rest) < 2 {
			return ev, protocolError("CONNECT ends in its port")
		}
		ev.port = binary.BigEndian.Uint16(rest)
		s, err := cstrings(cmdConnect, rest[2:], 1, 1)
		if err != nil {
			return ev, err
		}
		ev.addr = s[0]
		return ev, nil
	}
	return ev, protocolError("CONNECT of family %q; 4, 6, L and U are known", ev.family)
}

// clientIP is the address of a CONNECT; invalid where there is none. Sendmail writes "IPv6:" before IPv6 addresses.
func (ev *event) clientIP() netip.Addr {
	if ev.family != '4' && ev.family != '6' {
		return netip.Addr{}
	}
	s := ev.addr
	if len(s) > 5 && strings.EqualFold(s[:5], "IPv6:") {
		s = s[5:]
	}
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{} // Postfix says "unknown" of a client that has gone
	}
	return ip.Unmap().WithZone("")
}

// cstrings splits NUL-terminated strings; there must be at least least and at most most.
func cstrings(cmd command, data []byte, least, most int) ([]string, error) {
	return appendCStrings(nil, cmd, data, least, most)
}

// appendCStrings appends them to list.
func appendCStrings(list []string, cmd command, data []byte, least, most int) ([]string, error) {
	n := bytes.Count(data, []byte{0})
	if len(data) > 0 && data[len(data)-1] != 0 {
		return nil, protocolError("%c: the last string does not end in NUL", cmd)
	}
	if n < least || n > most {
		return nil, protocolError("%c with %d strings; %d to %d are allowed", cmd, n, least, most)
	}
	list = slices.Grow(list, n)
	// One copy for all: the strings outlive the frame's buffer.
	for all := string(data); all != ""; {
		var s string
		s, all, _ = strings.Cut(all, "\x00")
		list = append(list, s)
	}
	return list, nil
}

// decodeMacros gives the stage and the name-value pairs of a macro frame; they are appended to list.
func decodeMacros(list []string, data []byte) (command, []string, error) {
	if len(data) == 0 {
		return 0, nil, protocolError("D without a stage")
	}
	s, err := appendCStrings(list, cmdMacro, data[1:], 0, 2*maxMacros)
	if err != nil {
		return 0, nil, err
	}
	if len(s)%2 != 0 {
		return 0, nil, protocolError("D with a name that has no value")
	}
	return command(data[0]), s, nil
}

// maxMacros bounds the macros of one frame.
const maxMacros = 256
