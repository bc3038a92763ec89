package message

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/idna"
)

// Trace is what the trace fields of a header say about the way of a message so far.
type Trace struct {
	Received     int // number of Received fields
	ReceivedHere int // number of those that the server of that name added, by their "by" clause (RFC 5321 §4.4)
	// ResultsHere are the Authentication-Results fields that name the server, or that some program may read so: which occurrences of that
	// field, from 1, in order.
	ResultsHere []int
}

// ReadTrace reads the trace fields of h. hostname is the name of the server that asks; "" is no name, so that no field is the server's.
// It takes time linear in the size of h.
func ReadTrace(h *Header, hostname string) Trace {
	var t Trace
	results := 0
	for i := range h.fields {
		switch f := &h.fields[i]; f.key {
		case "received":
			if t.Received++; sameHost(receivedBy(f.value), hostname) {
				t.ReceivedHere++
			}
		case "authentication-results":
			if results++; resultsOf(f.value, hostname) {
				t.ResultsHere = append(t.ResultsHere, results)
			}
		}
	}
	return t
}

// sameHost reports whether two host names are the same: without regard to case, to a dot at the end, and to whether a label is written in
// Unicode or in its ASCII form (RFC 5890 §2.3.2). An empty name is the same as no other.
func sameHost(a, b string) bool {
	a, b = hostKey(a), hostKey(b)
	return a != "" && a == b
}

// hostKey is the form of a host name in which two spellings of it are equal. Unlike domainForm it also maps fullwidth letters and the like, because a
// program that maps them would take the name for this server's.
func hostKey(s string) string {
	s = lower(strings.TrimSuffix(strings.TrimSpace(s), "."))
	if ascii(s) {
		return s
	}
	a, err := idna.Lookup.ToASCII(s)
	if err != nil {
		return s
	}
	return lower(strings.TrimSuffix(a, "."))
}

// receivedBy is the domain in the "by" clause of a Received field; "" if there is none. It reads on over what is malformed.
func receivedBy(value string) string {
	by := false
	for {
		var word string
		if word, value = receivedWord(value); word == "" {
			return ""
		}
		isBy := strings.EqualFold(word, "by")
		if by && !isBy { // "from by by host" is possible
			return word
		}
		by = isBy
	}
}

// receivedWord reads the next word of a Received field; "" at its semicolon or end. White space and comments are skipped.
func receivedWord(s string) (word, rest string) {
	i := 0
	for depth := 0; i < len(s) && (depth > 0 || wsp(s[i]) || s[i] == '('); i++ {
		switch {
		case s[i] == '(':
			depth++
		case s[i] == ')':
			depth--
		case s[i] == '\\' && depth > 0:
			i++
		}
	}
	s = s[min(i, len(s)):]
	end := strings.IndexAny(s, " \t(;")
	if end < 0 {
		end = len(s)
	}
	return s[:end], s[end:]
}

// resultsOf reports whether an Authentication-Results field names host as the server that made it (authserv-id, RFC 8601 §2.2). What
// cannot be parsed counts as naming it if the name is anywhere in it, because programs read such fields in different ways.
func resultsOf(value, host string) bool {
	if host == "" {
		return false
	}
	if id, ok := authservID(value); ok {
		return sameHost(id, host)
	}
	names := []string{lower(strings.TrimSuffix(host, ".")), hostKey(host)}
	if unicode, err := idna.Display.ToUnicode(hostKey(host)); err == nil {
		names = append(names, strings.ToLower(unicode))
	}
	decoded, _ := decodeWords(value)
	for _, text := range [...]string{value, decoded, withoutCFWS(value)} {
		text = strings.ToLower(text)
		if slices.ContainsFunc(names, func(name string) bool { return strings.Contains(text, name) }) {
			return true
		}
	}
	return false
}

// withoutCFWS removes comments, white space, quotes and backslashes, wherever they are.
func withoutCFWS(s string) string {
	var b strings.Builder
	depth := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case depth == 0 && c > ' ' && c != '"' && c != '\\':
			b.WriteByte(c)
		}
	}
	return b.String()
}

// authservID reads [CFWS] authserv-id [CFWS authserv-version] [CFWS] up to the semicolon or the end. ok is false for any other form.
func authservID(value string) (id string, ok bool) {
	id, rest, ok := traceWord(value)
	if !ok || id == "" {
		return "", false
	}
	version, rest, ok := traceWord(rest)
	if !ok || strings.Trim(version, "0123456789") != "" {
		return "", false
	}
	end, ok := skipCFWS(rest)
	return id, ok && (end == "" || end[0] == ';')
}

// traceWord reads the word at the start of s: an atom, or a quoted string without its quotes. Comments and white space before it are
// skipped. The word is "" at a semicolon and at the end. ok is false if a comment or quoted string does not end, or if another character
// follows than one that may.
func traceWord(s string) (word, rest string, ok bool) {
	if s, ok = skipCFWS(s); !ok || s == "" || s[0] == ';' {
		return "", s, ok
	}
	if s[0] == '"' {
		l := listReader{s: s}
		text, err := l.quoted()
		return text, s[min(l.at, len(s)):], err == nil && text != ""
	}
	n := 0
	for n < len(s) && s[n] > ' ' && s[n] != 0x7f && !strings.ContainsRune(`()<>@,;:\"/[]?=`, rune(s[n])) {
		n++
	}
	if n == 0 || n < len(s) && !wsp(s[n]) && s[n] != '(' && s[n] != ';' {
		return s[:n], s[n:], false
	}
	return s[:n], s[n:], true
}

// skipCFWS returns s without the white space and the comments at its start. ok is false if a comment does not end, or a control character
// is in the way.
func skipCFWS(s string) (rest string, ok bool) {
	l := listReader{s: s}
	err := l.skip()
	return s[min(l.at, len(s)):], err == nil
}

// MboxLine returns the length of the line at the start of a message with which mbox files separate messages, "From alice@example.com Mon
// Nov 30 10:00:00 2026" with its CRLF; 0 if there is none. Mail programs that read such a file send it by mistake (RFC 4155).
func MboxLine(block []byte) int {
	if !bytes.HasPrefix(block, []byte("From ")) {
		return 0
	}
	line, _, ok := strings.Cut(string(block[:min(len(block), maxMboxLine)]), "\r\n")
	if !ok {
		return 0
	}
	sender, date, ok := strings.Cut(line[len("From "):], " ")
	if !ok || sender == "" || strings.ContainsAny(sender, "\t:") || !mboxDate(strings.TrimLeft(date, " ")) {
		return 0
	}
	return len(line) + 2
}

// maxMboxLine is enough for the longest path and a date, in octets.
const maxMboxLine = 512

// mboxDates are the dates that programs write into the line: as C's asctime does, some of them with a zone.
var mboxDates = [...]string{time.ANSIC, "Mon Jan _2 15:04:05 2006 -0700", "Mon Jan _2 15:04:05 -0700 2006", "Mon Jan _2 15:04:05 MST 2006"}

func mboxDate(s string) bool {
	return slices.ContainsFunc(mboxDates[:], func(layout string) bool { _, err := time.Parse(layout, s); return err == nil })
}
