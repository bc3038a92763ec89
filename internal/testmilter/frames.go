package testmilter

import (
	"encoding/binary"
	"strings"
)

// Frame is a frame of the protocol: length, code, data.
func Frame(code byte, data string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(data)+1))) + string(code) + data
}

// Offer is a negotiation frame: version 6, everything.
func Offer() string {
	b := binary.BigEndian.AppendUint32(nil, 6)
	b = binary.BigEndian.AppendUint32(b, AllActions)
	b = binary.BigEndian.AppendUint32(b, AllProtocol)
	return Frame('O', string(b))
}

// Data of ordinary CONNECT and MAIL frames.
const (
	GoodConnect = "client.example.net\x004\x9c\x40192.0.2.1\x00"
	GoodMail    = "<a@example.com>\x00"
)

// Malformed are conversations of which the last frame breaks the protocol. The names of those that only break off begin
// with "cut".
func Malformed() map[string]string {
	start := Offer() + Frame('C', GoodConnect) + Frame('H', "client\x00")
	open := start + Frame('M', GoodMail) + Frame('R', "<b@example.net>\x00")
	m := map[string]string{
		"zero length":              Offer() + "\x00\x00\x00\x00",
		"longest length":           Offer() + "\xff\xff\xff\xff",
		"longer than a frame":      Offer() + "\x00\x10\x00\x01B",
		"cut in its length":        Offer() + "\x00\x00",
		"cut after its length":     Offer() + "\x00\x00\x00\x05",
		"cut in its data":          Offer() + "\x00\x00\x00\x05Cab",
		"unknown command":          start + Frame('z', ""),
		"command NUL":              start + Frame(0, ""),
		"CONNECT first":            Frame('C', GoodConnect),
		"offered twice":            Offer() + Offer(),
		"old version":              Frame('O', "\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"),
		"CONNECT in transaction":   open + Frame('C', GoodConnect),
		"MAIL without NUL":         start + Frame('M', "<a@example.com>"),
		"MAIL empty":               start + Frame('M', ""),
		"MAIL with empty path":     start + Frame('M', "\x00"),
		"MAIL parameter, no NUL":   start + Frame('M', GoodMail+"SIZE=1"),
		"MAIL too many parameters": start + Frame('M', GoodMail+strings.Repeat("A=1\x00", 64)),
		"RCPT without MAIL":        start + Frame('R', "<b@example.net>\x00"),
		"RCPT without NUL":         open + Frame('R', "<b@example.net>"),
		"header without MAIL":      start + Frame('L', "Subject\x00 x\x00"),
		"header name only":         open + Frame('L', "Subject\x00"),
		"header value without NUL": open + Frame('L', "Subject\x00 x"),
		"header of three":          open + Frame('L', "Subject\x00 x\x00y\x00"),
		"header empty":             open + Frame('L', ""),
		"body without MAIL":        start + Frame('B', "x"),
		"EOH without MAIL":         start + Frame('N', ""),
		"EOH with data":            open + Frame('N', "x"),
		"EOM without MAIL":         start + Frame('E', ""),
		"ABORT with data":          open + Frame('A', "x"),
		"QUIT with data":           open + Frame('Q', "x"),
		"DATA with data":           open + Frame('T', "x"),
		"HELO without NUL":         Offer() + Frame('H', "client"),
		"HELO of two":              Offer() + Frame('H', "a\x00b\x00"),
		"HELO empty":               Offer() + Frame('H', ""),
		"UNKNOWN without NUL":      start + Frame('U', "XFOO"),
		"macros without stage":     start + Frame('D', ""),
		"macro without NUL":        start + Frame('D', "Mi\x00Q1"),
		"macro without value":      start + Frame('D', "Mi\x00"),
		"too many macros":          start + Frame('D', "M"+strings.Repeat("a\x00b\x00", 300)),
		"CONNECT without family":   Offer() + Frame('C', "client\x00"),
		"CONNECT without NUL":      Offer() + Frame('C', "client"),
		"CONNECT unknown family":   Offer() + Frame('C', "client\x009\x00\x19a\x00"),
		"CONNECT cut in port":      Offer() + Frame('C', "client\x004\x19"),
		"CONNECT without address":  Offer() + Frame('C', "client\x004\x00\x19"),
		"CONNECT address no NUL":   Offer() + Frame('C', "client\x004\x00\x19192.0.2.1"),
		"CONNECT 'U' and more":     Offer() + Frame('C', "client\x00U\x00\x19"),
	}
	for n := range 12 {
		m["offer of "+string(rune('a'+n))] = Frame('O', strings.Repeat("\x00", n))
	}
	m["offer of 13"] = Frame('O', "\x00\x00\x00\x06"+strings.Repeat("\x00", 9))
	return m
}

// FrameStates are beginnings of a connection: none, and one for each state in which the next frame has another meaning.
func FrameStates() []string {
	start := Offer() + Frame('D', "Cj\x00mta\x00") + Frame('C', GoodConnect)
	helo := start + Frame('H', "x\x00")
	open := helo + Frame('D', "Mi\x00Q1\x00{auth_authen}\x00alice\x00") + Frame('M', GoodMail)
	rcpt := open + Frame('R', "<b@example.net>\x00")
	header := rcpt + Frame('T', "") + Frame('L', "Subject\x00 x\x00")
	body := header + Frame('N', "") + Frame('B', "body\r\n")
	return []string{"", Offer(), start, helo, open, rcpt, header, body, body + Frame('E', ""), rcpt + Frame('A', ""), body + Frame('E', "") + Frame('K', "")}
}
