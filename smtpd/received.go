package smtpd

import (
	"net/netip"
	"strings"

	"github.com/postern-mail/postern/internal/message"
)

// Received templates. A template is the value of the Received field (RFC 5321 §4.4) with, in braces: {ehlo} what the client
// called itself, {client} its address as a literal, {hostname} us, {protocol} ESMTPSA and its like (RFC 3848, RFC 6531 §4.3),
// {tls} version and cipher, {id} of the transaction, {login}, {for} "for <recipient>" where there is just one, {date}.
const (
	ReceivedFull    = "from {ehlo} ({client}) by {hostname} with {protocol} {tls} id {id} {for}; {date}"
	ReceivedPrivate = "by {hostname} with {protocol} id {id}; {date}"
)

// CheckReceived says what is wrong with a template: "", "full", "private", or one of the operator's own.
func CheckReceived(template string) error {
	return checkBraces(receivedTemplate(template))
}

func receivedTemplate(s string) string {
	switch s {
	case "", "full":
		return ReceivedFull
	case "private":
		return ReceivedPrivate
	}
	return s
}

// receivedField is the field that is put on top of the message that leaves, folded, CRLF included.
func (s *session) receivedField() []byte {
	var value strings.Builder
	for rest := receivedTemplate(s.srv.Received); rest != ""; {
		text, after, _ := strings.Cut(rest, "{")
		value.WriteString(text)
		var name string
		if name, rest, _ = strings.Cut(after, "}"); name != "" { // CheckReceived knows that braces come in pairs
			value.WriteString(s.receivedWord(name))
		}
	}
	return foldField("Received:", strings.ReplaceAll(value.String(), " ;", ";"))
}

// receivedWord is what stands for a word in braces.
func (s *session) receivedWord(name string) string {
	switch t := s.tx; name {
	case "ehlo":
		return cleanWord(s.helo)
	case "client":
		return literal(s.client.IP)
	case "hostname":
		return cleanWord(s.srv.Hostname)
	case "protocol":
		return s.protocol()
	case "tls":
		if s.tls == nil {
			return ""
		}
		return "(TLS" + s.tls.Version + " " + s.tls.Cipher + ")"
	case "id":
		return t.id
	case "login":
		return cleanWord(s.login())
	case "for":
		if len(t.rcpts) != 1 {
			return ""
		}
		return "for " + t.rcpts[0].Path.String()
	case "date":
		return message.FormatDate(s.srv.now())
	}
	return ""
}

// protocol is the word after "with" (RFC 3848; RFC 6531 §4.3 for UTF8SMTP).
func (s *session) protocol() string {
	p := "SMTP"
	switch {
	case s.tx.utf8():
		p = "UTF8SMTP"
	case s.esmtp:
		p = "ESMTP"
	default:
		return p
	}
	if s.tls != nil {
		p += "S"
	}
	if s.auth != nil {
		p += "A"
	}
	return p
}

// literal is an address literal (RFC 5321 §4.1.3).
func literal(ip netip.Addr) string {
	switch {
	case !ip.IsValid():
		return "unknown"
	case ip.Is4():
		return "[" + ip.String() + "]"
	}
	return "[IPv6:" + ip.WithZone("").String() + "]"
}

// cleanWord leaves of what others said only what means nothing in a Received field.
func cleanWord(s string) string {
	if s == "" {
		return "unknown"
	}
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_:[]@+=", r) {
			return r
		}
		return '?'
	}, s)
}

// foldField writes a field with lines of at most 78 octets where its words let it (RFC 5322 §2.1.1, §2.2.3).
func foldField(name, value string) []byte {
	out := []byte(name)
	column := len(out)
	for _, word := range strings.Fields(value) {
		if column+1+len(word) > 78 && column > len(name) {
			out = append(out, "\r\n\t"...)
			column = 8
		} else {
			out = append(out, ' ')
			column++
		}
		out = append(out, word...)
		column += len(word)
	}
	return append(out, '\r', '\n')
}
