package smtpd

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/message"
)

// Templates of the Received field's value (RFC 5321 §4.4). In braces: {ehlo} the client's name in EHLO, {client} its address as a
// literal, {hostname} of the server, {protocol} ESMTPSA and similar (RFC 3848, RFC 6531 §4.3), {tls} version and cipher, {id} of the
// transaction, {login}, {for} "for <recipient>" if there is exactly one, {date}.
const (
	ReceivedFull    = "from {ehlo} ({client}) by {hostname} with {protocol} {tls} id {id} {for}; {date}"
	ReceivedPrivate = "by {hostname} with {protocol} id {id}; {date}"
)

// CheckReceived returns what is wrong with a value of Server.Received: "", "full", "private", or a template.
func CheckReceived(template string) error {
	return checkBraces(receivedTemplate(template))
}

// checkBraces checks a template: its places are known, it is one line of printable ASCII, and it ends in a semicolon and the date
// (RFC 5321 §4.4).
func checkBraces(template string) error {
	const places = " ehlo client hostname protocol tls id login for date "
	if len(template) > 500 || !printable(template) {
		return fmt.Errorf("received template: wants at most 500 printable ASCII characters, on one line")
	}
	for rest := template; ; {
		_, after, ok := strings.Cut(rest, "{")
		if !ok {
			break
		}
		place, next, ok := strings.Cut(after, "}")
		if !ok || !slices.Contains(strings.Fields(places), place) {
			return fmt.Errorf("received template: unknown place {%s}; there are%s", place, strings.TrimRight(places, " "))
		}
		rest = next
	}
	if !strings.HasSuffix(template, "; {date}") {
		return fmt.Errorf(`received template: wants "; {date}" at its end (RFC 5321 section 4.4)`)
	}
	return nil
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

// receivedField is the field that is put on top of the message, folded and with its CRLF.
func (s *session) receivedField() []byte {
	var value strings.Builder
	for rest := receivedTemplate(s.srv.Received); rest != ""; {
		text, after, _ := strings.Cut(rest, "{")
		value.WriteString(text)
		var name string
		if name, rest, _ = strings.Cut(after, "}"); name != "" { // CheckReceived has checked that braces come in pairs
			value.WriteString(s.receivedWord(name))
		}
	}
	return foldField("Received:", strings.ReplaceAll(value.String(), " ;", ";"))
}

// receivedWord replaces a word in braces.
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

// cleanWord replaces all characters of a client's word that might mean something in a Received field.
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

// foldField writes a field with lines of at most 78 octets, if its words are short enough (RFC 5322 §2.1.1, §2.2.3).
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
