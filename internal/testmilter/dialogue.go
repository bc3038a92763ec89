package testmilter

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// Answer is what the milter says to a command. The zero value is "go on".
type Answer struct {
	Code byte   // 'c' or 0: go on; 'a' accept; 'd' discard; 'r' reject; 't' defer; 'y': Reply; 's' skip
	Text string // of 'y', with "%%" undone
}

// Refused says whether the command was refused.
func (a Answer) Refused() bool { return a.Code == 'r' || a.Code == 't' || a.Code == 'y' }

// silent are the options under which a command has no answer.
var silent = map[byte]uint32{'C': NoReplyConn, 'H': NoReplyHelo, 'M': NoReplyMail, 'R': NoReplyRcpt, 'T': NoReplyData,
	'U': NoReplyUnkn, 'N': NoReplyEOH, 'L': NoReplyHead, 'B': NoReplyBody, 'A': ^uint32(0), 'D': ^uint32(0), 'K': ^uint32(0), 'Q': ^uint32(0)}

// Macros sets what is sent ahead of each command with that letter: names and values in turn. A nil list sends nothing.
func (m *MTA) Macros(command byte, pairs ...string) { m.macros[command] = pairs }

// Command sends a command with its macros and waits for the answer, where there is one.
func (m *MTA) Command(code byte, data []byte) (Answer, error) {
	if pairs := m.macros[code]; pairs != nil {
		if err := m.Send('D', append([]byte{code}, cstrings(pairs...)...)); err != nil {
			return Answer{}, err
		}
	}
	if err := m.Send(code, data); err != nil {
		return Answer{}, err
	}
	if m.Protocol&silent[code] != 0 {
		return Answer{}, nil
	}
	code2, text, err := m.Receive()
	if err != nil {
		return Answer{}, fmt.Errorf("%c: %w", code, err)
	}
	a, ok := answer(code2, text)
	if !ok {
		return a, fmt.Errorf("%c answered with %q %q", code, code2, text)
	}
	return a, nil
}

func answer(code byte, data []byte) (Answer, bool) {
	switch code {
	case 'c', 'a', 'd', 'r', 't', 's':
		return Answer{Code: code}, len(data) == 0
	case 'y':
		text, rest, ok := strings.Cut(string(data), "\x00")
		return Answer{Code: code, Text: unpercent(text)}, ok && rest == "" && len(text) >= 4
	}
	return Answer{}, false
}

// unpercent does what both servers' formatters do: "%%" is a per cent sign, and any other use of one eats it.
func unpercent(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			i++
			if i < len(s) && s[i] != '%' {
				continue
			}
		}
		if i < len(s) {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// Connect says who the client is. family is '4', '6', 'L' or 'U'.
func (m *MTA) Connect(name string, family byte, port uint16, addr string) (Answer, error) {
	b := append(cstrings(name), family)
	if family != 'U' {
		b = binary.BigEndian.AppendUint16(b, port)
		b = append(b, cstrings(addr)...)
	}
	return m.Command('C', b)
}

// Helo sends HELO or EHLO.
func (m *MTA) Helo(name string) (Answer, error) { return m.Command('H', cstrings(name)) }

// Mail sends a path in angle brackets and ESMTP parameters.
func (m *MTA) Mail(path string, params ...string) (Answer, error) {
	return m.Command('M', cstrings(append([]string{path}, params...)...))
}

// Rcpt is like Mail.
func (m *MTA) Rcpt(path string, params ...string) (Answer, error) {
	return m.Command('R', cstrings(append([]string{path}, params...)...))
}

// Abort ends the transaction.
func (m *MTA) Abort() error { _, err := m.Command('A', nil); return err }

// Message sends a message with CRLF line ends, up to the answer to its end. sender and to are what the envelope holds.
func (m *MTA) Message(sender string, to []string, eml []byte) (*Result, error) {
	_, body := split(eml)
	r := NewResult(eml, m.Protocol&LeadingSpace != 0, m.Actions)
	r.From, r.To = sender, append([]string(nil), to...)
	if m.Protocol&NoData == 0 {
		if a, err := m.Command('T', nil); err != nil || a.Refused() {
			r.Answer, r.Stage = a, 'T'
			return r, err
		}
	}
	for _, f := range r.fields {
		if m.Protocol&NoHeaders != 0 {
			break
		}
		value := strings.ReplaceAll(f.value, "\r\n", "\n")
		if !r.leading {
			value = strings.TrimPrefix(value, " ")
		}
		if a, err := m.Command('L', cstrings(f.name, value)); err != nil || a.Refused() {
			r.Answer, r.Stage = a, 'L'
			return r, err
		}
	}
	if a, err := m.Command('N', nil); err != nil || a.Refused() {
		r.Answer, r.Stage = a, 'N'
		return r, err
	}
	if m.Protocol&NoBody == 0 {
		for len(body) > 0 {
			n := min(len(body), 65535)
			a, err := m.Command('B', body[:n])
			if err != nil || a.Refused() {
				r.Answer, r.Stage = a, 'B'
				return r, err
			}
			r.BodyFrames++
			if body = body[n:]; a.Code == 's' {
				break
			}
		}
	}
	r.Stage = 'E'
	return r, m.end(r)
}

// end sends the end of message and applies what comes.
func (m *MTA) end(r *Result) error {
	if pairs := m.macros['E']; pairs != nil {
		if err := m.Send('D', append([]byte{'E'}, cstrings(pairs...)...)); err != nil {
			return err
		}
	}
	if err := m.Send('E', nil); err != nil {
		return err
	}
	for {
		code, data, err := m.Receive()
		if err != nil {
			return fmt.Errorf("end of message: %w", err)
		}
		if a, ok := answer(code, data); ok {
			r.Answer = a
			return nil
		}
		if err := r.apply(code, data); err != nil {
			return fmt.Errorf("operation %q %q: %w", code, data, err)
		}
	}
}

func split(eml []byte) (head, body []byte) {
	if bytes.HasPrefix(eml, []byte("\r\n")) {
		return nil, eml[2:]
	}
	if i := bytes.Index(eml, []byte("\r\n\r\n")); i >= 0 {
		return eml[:i+2], eml[i+4:]
	}
	return eml, nil
}
