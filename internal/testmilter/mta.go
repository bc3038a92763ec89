// Package testmilter is a mail server as a milter sees one, for tests: it speaks the client's side of the milter
// protocol, keeps to what was negotiated, and applies the operations it is sent to envelope and message, so that the
// outcome can be compared with what another door gives.
//
// It is strict where real servers are lenient: an operation that was not granted, or whose index is past the count, is
// an error. It has no goroutines; every read and write has a deadline.
package testmilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// Actions (SMFIF_*) and protocol options (SMFIP_*) that can be offered.
const (
	AllActions  = 0x1ff
	AllProtocol = 0x1fffff

	ActAddHeader    = 1 << 0
	ActAddRcpt      = 1 << 2
	ActDeleteRcpt   = 1 << 3
	ActChangeHeader = 1 << 4
	ActQuarantine   = 1 << 5
	ActChangeFrom   = 1 << 6
	ActSetSymList   = 1 << 8

	NoConnect    = 1 << 0
	NoBody       = 1 << 4
	NoHeaders    = 1 << 5
	NoReplyHead  = 1 << 7
	NoUnknown    = 1 << 8
	NoData       = 1 << 9
	Skip         = 1 << 10
	NoReplyConn  = 1 << 12
	NoReplyHelo  = 1 << 13
	NoReplyMail  = 1 << 14
	NoReplyRcpt  = 1 << 15
	NoReplyData  = 1 << 16
	NoReplyUnkn  = 1 << 17
	NoReplyEOH   = 1 << 18
	NoReplyBody  = 1 << 19
	LeadingSpace = 1 << 20
)

// Options are what the server offers. Zero fields: version 6, everything.
type Options struct {
	Version  uint32
	Actions  uint32
	Protocol uint32
	// NoActions and NoProtocol offer nothing at all.
	NoActions, NoProtocol bool
	Timeout               time.Duration // of one read or write; 0: 10 s
}

// MTA is one connection to a milter.
type MTA struct {
	Version, Actions, Protocol uint32            // as agreed
	SymList                    map[uint32]string // macros the milter asked for, by stage
	Writes                     int               // frames sent, for tests of what is held back

	conn    net.Conn
	timeout time.Duration
	macros  map[byte][]string
}

// Dial connects and negotiates. network is "tcp" or "unix".
func Dial(network, address string, o Options) (*MTA, error) {
	conn, err := net.DialTimeout(network, address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	m := &MTA{conn: conn, timeout: o.Timeout, SymList: map[uint32]string{}, macros: map[byte][]string{}}
	if m.timeout == 0 {
		m.timeout = 10 * time.Second
	}
	if err := m.negotiate(o); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return m, nil
}

func (m *MTA) negotiate(o Options) error {
	if o.Version == 0 {
		o.Version = 6
	}
	if o.Actions == 0 && !o.NoActions {
		o.Actions = AllActions
	}
	if o.Protocol == 0 && !o.NoProtocol {
		o.Protocol = AllProtocol
	}
	b := binary.BigEndian.AppendUint32(nil, o.Version)
	b = binary.BigEndian.AppendUint32(b, o.Actions)
	b = binary.BigEndian.AppendUint32(b, o.Protocol)
	if err := m.Send('O', b); err != nil {
		return err
	}
	code, data, err := m.Receive()
	if err != nil {
		return fmt.Errorf("negotiation: %w", err)
	}
	if code != 'O' || len(data) < 12 {
		return fmt.Errorf("negotiation answered with %q %x", code, data)
	}
	m.Version, m.Actions, m.Protocol = binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:]), binary.BigEndian.Uint32(data[8:])
	if m.Version > o.Version || m.Actions&^o.Actions != 0 || m.Protocol&^o.Protocol != 0 {
		return fmt.Errorf("the milter asks for more than was offered: %d of %d, %#x of %#x, %#x of %#x", m.Version, o.Version, m.Actions, o.Actions, m.Protocol, o.Protocol)
	}
	for data = data[12:]; len(data) > 4; {
		stage := binary.BigEndian.Uint32(data)
		names, rest, ok := strings.Cut(string(data[4:]), "\x00")
		if !ok {
			return errors.New("macro list without its NUL")
		}
		m.SymList[stage], data = names, []byte(rest)
	}
	if len(data) != 0 || len(m.SymList) > 0 && m.Actions&ActSetSymList == 0 {
		return fmt.Errorf("macro list malformed or not granted: %x", data)
	}
	return nil
}

// Send writes one frame as it is given.
func (m *MTA) Send(code byte, data []byte) error {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(data)+1))
	return m.SendRaw(append(append(b, code), data...))
}

// SendRaw writes octets as they are given.
func (m *MTA) SendRaw(b []byte) error {
	if err := m.conn.SetWriteDeadline(time.Now().Add(m.timeout)); err != nil {
		return err
	}
	m.Writes++
	_, err := m.conn.Write(b)
	return err
}

// Receive reads one frame.
func (m *MTA) Receive() (code byte, data []byte, err error) {
	if err := m.conn.SetReadDeadline(time.Now().Add(m.timeout)); err != nil {
		return 0, nil, err
	}
	var head [4]byte
	if _, err := io.ReadFull(m.conn, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size == 0 || size > 1<<20 {
		return 0, nil, fmt.Errorf("frame of %d octets", size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(m.conn, b); err != nil {
		return 0, nil, err
	}
	return b[0], b[1:], nil
}

// Close drops the connection without a word, as a server that died.
func (m *MTA) Close() error { return m.conn.Close() }

// Quit ends the connection.
func (m *MTA) Quit() error {
	err := m.Send('Q', nil)
	return errors.Join(err, m.conn.Close())
}

// cstrings joins NUL-terminated strings.
func cstrings(s ...string) []byte {
	var b []byte
	for _, x := range s {
		b = append(append(b, x...), 0)
	}
	return b
}
