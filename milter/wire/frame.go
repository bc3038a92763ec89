package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// Verb is the first octet of a frame from the mail server (SMFIC_*). A Session sees the exported ones.
type Verb byte

const (
	Abort        Verb = 'A' // the transaction ends without a message
	Connect      Verb = 'C'
	EndOfMessage Verb = 'E'
	Helo         Verb = 'H'
	NewClient    Verb = 'K' // QUIT_NC: the mail server uses the socket for its next client
	Mail         Verb = 'M'
	EndOfHeader  Verb = 'N'
	Rcpt         Verb = 'R'

	verbBody      Verb = 'B'
	verbMacro     Verb = 'D'
	verbHeader    Verb = 'L'
	verbNegotiate Verb = 'O'
	verbQuit      Verb = 'Q'
	verbData      Verb = 'T'
	verbUnknown   Verb = 'U'
)

// Answers (SMFIR_*). The operations are in operation.go.
const (
	answerContinue  = 'c'
	answerDiscard   = 'd'
	answerReplyCode = 'y'
	answerSkip      = 's'
)

// Bounds of what a mail server may send.
const (
	headSize  = 4       // octets of a frame's length field
	maxFrame  = 1 << 20 // octets of a frame with its verb. Real frames stay under 64 KiB, header fields under about 100 KiB
	maxArgs   = 64      // strings of MAIL and RCPT: the path and its parameters
	maxMacros = 256     // macros of one frame

	keepFrame = 70 << 10 // octets of the largest buffer that a connection keeps between frames
)

// ErrProtocol is wrapped by the error of a connection that ends because the mail server broke the milter protocol.
var ErrProtocol = errors.New("milter protocol")

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// readFrame reads one frame into buf, which it may replace, and returns the verb and its data. The data is valid until
// buf is used again. Memory grows with what has arrived, not with what the length field claims.
func readFrame(r *bufio.Reader, buf *[]byte) (Verb, []byte, error) {
	head, err := r.Peek(headSize)
	if err != nil {
		if len(head) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head)
	_, _ = r.Discard(headSize)
	if size == 0 || size > maxFrame {
		return 0, nil, protocolError("frame of %d octets; 1 to %d are allowed", size, maxFrame)
	}
	b := *buf
	if cap(b) > keepFrame {
		b = nil
	}
	b = b[:0]
	for have, want := 0, int(size); have < want; have = len(b) {
		step := min(want-have, max(cap(b)-have, 4096, have))
		b = append(b, make([]byte, step)...)
		if _, err := io.ReadFull(r, b[have:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
	}
	*buf = b
	return Verb(b[0]), b[1:], nil
}

// appendFrame appends a frame with the given code and parts.
func appendFrame(dst []byte, code byte, parts ...string) []byte {
	size := 1
	for _, p := range parts {
		size += len(p)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(size))
	dst = append(dst, code)
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}

// Command is a decoded command of the mail server. Only the fields of its verb are set.
type Command struct {
	Verb Verb
	Due  bool // the mail server waits for the answer; otherwise the answer is dropped

	Host   string // CONNECT: the client's name as the mail server has it
	Family byte   // CONNECT: '4', '6', 'L' (unix) or 'U' (unknown)
	Port   uint16 // CONNECT; 0: unknown
	Addr   string // CONNECT: address or path

	Helo string // HELO: the client's name for itself

	Path   string   // MAIL, RCPT: the path as it was sent
	Params []string // MAIL, RCPT: ESMTP parameters, "KEY" or "KEY=value"
}

// IP is the address of CONNECT; invalid where there is none. Sendmail writes "IPv6:" before IPv6 addresses.
func (c *Command) IP() netip.Addr {
	if c.Family != '4' && c.Family != '6' {
		return netip.Addr{}
	}
	s := c.Addr
	if len(s) > 5 && strings.EqualFold(s[:5], "IPv6:") {
		s = s[5:]
	}
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{} // Postfix writes "unknown" when the client has already disconnected
	}
	return ip.Unmap().WithZone("")
}

// decodeCommand decodes strictly: each string ends in NUL and nothing follows the last one. A verb without data must have
// none.
func decodeCommand(verb Verb, data []byte) (Command, error) {
	c := Command{Verb: verb}
	switch verb {
	case Connect:
		return decodeConnect(data)
	case Helo:
		s, err := appendStrings(nil, verb, data, 1, 1)
		if err != nil {
			return c, err
		}
		c.Helo = s[0]
	case Mail, Rcpt:
		s, err := appendStrings(nil, verb, data, 1, maxArgs)
		if err != nil {
			return c, err
		}
		if s[0] == "" {
			return c, protocolError("%c without an address", verb)
		}
		c.Path, c.Params = s[0], s[1:]
	case EndOfMessage: // the data is the last piece of the body
	case Abort, EndOfHeader, NewClient, verbData, verbQuit:
		if len(data) != 0 {
			return c, protocolError("%c with %d octets of data; it has none", verb, len(data))
		}
	case verbUnknown:
		_, err := appendStrings(nil, verb, data, 1, 1)
		return c, err
	default:
		return c, protocolError("unknown command %q", rune(verb))
	}
	return c, nil
}

func decodeConnect(data []byte) (Command, error) {
	c := Command{Verb: Connect}
	host, rest, ok := bytes.Cut(data, []byte{0})
	if !ok || len(rest) == 0 {
		return c, protocolError("CONNECT ends before its family")
	}
	c.Host, c.Family, rest = string(host), rest[0], rest[1:]
	switch c.Family {
	case 'U':
		// libmilter sends nothing after U, and no meaning is defined for anything that follows.
		if len(rest) != 0 {
			return c, protocolError("CONNECT of unknown family with %d octets more", len(rest))
		}
		return c, nil
	case '4', '6', 'L':
		if len(rest) < 2 {
			return c, protocolError("CONNECT ends in its port")
		}
		c.Port = binary.BigEndian.Uint16(rest)
		s, err := appendStrings(nil, Connect, rest[2:], 1, 1)
		if err != nil {
			return c, err
		}
		c.Addr = s[0]
		return c, nil
	}
	return c, protocolError("CONNECT of family %q; 4, 6, L and U are known", c.Family)
}

// decodeMacros returns the stage of a macro frame and its names and values in turn, appended to list.
func decodeMacros(list []string, data []byte) (Verb, []string, error) {
	if len(data) == 0 {
		return 0, nil, protocolError("D without a stage")
	}
	s, err := appendStrings(list, verbMacro, data[1:], 0, 2*maxMacros)
	if err != nil {
		return 0, nil, err
	}
	if len(s)%2 != 0 {
		return 0, nil, protocolError("D with a name that has no value")
	}
	return Verb(data[0]), s, nil
}

// appendStrings splits NUL-terminated strings and appends them to list. There must be least to most of them.
func appendStrings(list []string, verb Verb, data []byte, least, most int) ([]string, error) {
	n := bytes.Count(data, []byte{0})
	if len(data) > 0 && data[len(data)-1] != 0 {
		return nil, protocolError("%c: the last string does not end in NUL", verb)
	}
	if n < least || n > most {
		return nil, protocolError("%c with %d strings; %d to %d are allowed", verb, n, least, most)
	}
	list = slices.Grow(list, n)
	// One copy for all strings, because they are used after the frame's buffer is overwritten.
	for all := string(data); all != ""; {
		var s string
		s, all, _ = strings.Cut(all, "\x00")
		list = append(list, s)
	}
	return list, nil
}
