package message

import (
	"fmt"
	"strconv"
	"strings"
)

// Bounds of a reply: RFC 5321 §4.5.3.1.5 allows 512 octets a line, CRLF and code included.
const (
	maxReplyLine  = 512
	maxReplyLines = 20
)

// Reply is an SMTP reply (RFC 5321 §4.2): code, enhanced status (RFC 3463) and cleaned text of one or more lines.
// The zero value means that no reply was given; a front end sends 451 4.3.0 instead.
type Reply struct {
	code   int
	status string
	lines  []string
}

// Code returns the reply code, or 0 for the zero value.
func (r Reply) Code() int { return r.code }

// Status returns the enhanced status, such as "5.7.1", or "" for none.
func (r Reply) Status() string { return r.status }

// Lines returns the text. The caller must not change it.
func (r Reply) Lines() []string { return r.lines }

// IsZero reports whether no reply was given.
func (r Reply) IsZero() bool { return r.code == 0 }

// NewReply makes a reply that is safe to write: text is split at line ends; control and 8-bit characters are replaced by
// "?"; each line is cut to fit RFC 5321's 512 octets, and at most 20 lines are kept. A code out of 200..599, or a status
// whose class is not the code's, is an error.
func NewReply(code int, status, text string) (Reply, error) {
	if code < 200 || code > 599 {
		return Reply{}, fmt.Errorf("reply code %d is not between 200 and 599", code)
	}
	if status != "" && !validStatus(status) {
		return Reply{}, fmt.Errorf("enhanced status %q is not of the form 5.7.1 (RFC 3463)", clean(status, 20))
	}
	if status != "" && int(status[0]-'0') != code/100 {
		return Reply{}, fmt.Errorf("enhanced status %s is not of the class of reply code %d", status, code)
	}
	room := maxReplyLine - len("250 ") - len("\r\n")
	if status != "" {
		room -= len(status) + 1
	}
	var lines []string
	for rest, more := text, true; more && len(lines) < maxReplyLines; {
		var line string
		line, rest, more = cutLine(rest)
		lines = append(lines, clean(line, room))
	}
	// A line end at the end of the text does not begin another line.
	if n := len(lines); n > 1 && lines[n-1] == "" {
		lines = lines[:n-1]
	}
	return Reply{code, status, lines}, nil
}

// MustReply is NewReply for constants; it panics on error.
func MustReply(code int, status, text string) Reply {
	r, err := NewReply(code, status, text)
	if err != nil {
		panic(err)
	}
	return r
}

// AppendTo appends the reply in the form of the protocol, with the status on every line (RFC 2034 §4) and CRLF line ends.
func (r Reply) AppendTo(dst []byte) []byte {
	for i, line := range r.lines {
		dst = strconv.AppendInt(dst, int64(r.code), 10)
		if i < len(r.lines)-1 {
			dst = append(dst, '-')
		} else {
			dst = append(dst, ' ')
		}
		if r.status != "" {
			dst = append(append(dst, r.status...), ' ')
		}
		dst = append(append(dst, line...), "\r\n"...)
	}
	return dst
}

// String is the reply on one line, for logs.
func (r Reply) String() string {
	if r.IsZero() {
		return ""
	}
	s := strconv.Itoa(r.code)
	if r.status != "" {
		s += " " + r.status
	}
	return s + " " + strings.Join(r.lines, " ")
}

// validStatus: class 2, 4 or 5, subject and detail of one to three digits without leading zeros (RFC 3463 §2).
func validStatus(s string) bool {
	class, rest, ok := strings.Cut(s, ".")
	if !ok || class != "2" && class != "4" && class != "5" {
		return false
	}
	subject, detail, ok := strings.Cut(rest, ".")
	return ok && shortNumber(subject) && shortNumber(detail)
}

func shortNumber(s string) bool {
	if len(s) < 1 || len(s) > 3 || len(s) > 1 && s[0] == '0' {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// cutLine cuts at the first CR, LF or CRLF.
func cutLine(s string) (line, rest string, more bool) {
	i := strings.IndexAny(s, "\r\n")
	if i < 0 {
		return s, "", false
	}
	rest = s[i+1:]
	if s[i] == '\r' && strings.HasPrefix(rest, "\n") {
		rest = rest[1:]
	}
	return s[:i], rest, true
}

// clean replaces each character that is not printable ASCII with "?", and cuts the result to max octets.
func clean(s string, max int) string {
	plain := len(s) <= max
	for i := 0; plain && i < len(s); i++ {
		plain = s[i] >= ' ' && s[i] < 0x7f
	}
	if plain {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if b.Len() >= max {
			break
		}
		if r < ' ' || r >= 0x7f {
			r = '?'
		}
		b.WriteByte(byte(r))
	}
	return b.String()
}
