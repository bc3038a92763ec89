package relay

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/internal/message"
)

// Bounds of a next hop's reply. RFC 5321 §4.5.3.1.5 allows 512 octets in a line, but servers send more.
const (
	maxReplyLine  = 2048
	maxReplyLines = 100
)

// protocolError is an answer that is not an SMTP reply. Its connection is not used again.
type protocolError string

func (e protocolError) Error() string { return "the next hop does not speak SMTP: " + string(e) }

// serverReply is a reply as it was sent: code 200 to 599, and the text of each line behind the code, without control and
// 8-bit characters.
type serverReply struct {
	code  int
	lines []string
}

func (r serverReply) class() int { return r.code / 100 }

// closing reports whether the next hop closes the connection, which says nothing about the message: 421 (RFC 5321 §3.8), or 451
// with the status of a bad connection (RFC 3463 §3.5), which some servers send when an idle connection has timed out.
func (r serverReply) closing() bool {
	if r.code == 421 {
		return true
	}
	status, _ := splitStatus(4, r.lines)
	return r.code == 451 && status == "4.4.2"
}

// err is the reply as an error for the log.
func (r serverReply) err() error {
	return fmt.Errorf("the next hop said: %d %s", r.code, strings.Join(r.lines, " / "))
}

// readReply reads one reply (RFC 5321 §4.2): lines with the same code, "-" behind the code on all but the last, ended by
// CRLF, limited in length and number. rd's buffer must hold maxReplyLine octets.
func readReply(rd *bufio.Reader) (serverReply, error) {
	var r serverReply
	for {
		line, err := rd.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) || len(line) > maxReplyLine {
			return serverReply{}, protocolError("a reply line is too long")
		}
		if err != nil {
			return serverReply{}, err
		}
		code, text, last, err := parseReplyLine(line)
		if err != nil {
			return serverReply{}, err
		}
		if r.code != 0 && code != r.code {
			return serverReply{}, protocolError(fmt.Sprintf("one reply has the codes %d and %d", r.code, code))
		}
		r.code = code
		if len(r.lines) == maxReplyLines {
			return serverReply{}, protocolError("a reply has too many lines")
		}
		r.lines = append(r.lines, text)
		if last {
			return r, nil
		}
	}
}

func parseReplyLine(line []byte) (code int, text string, last bool, err error) {
	body, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return 0, "", false, protocolError("a reply line ends in a bare LF")
	}
	if len(body) < 3 || body[0] < '2' || body[0] > '5' || !digit(body[1]) || !digit(body[2]) {
		return 0, "", false, protocolError(fmt.Sprintf("no reply code in %.40q", body))
	}
	code = int(body[0]-'0')*100 + int(body[1]-'0')*10 + int(body[2]-'0')
	last = true
	if len(body) > 3 {
		if body[3] != ' ' && body[3] != '-' {
			return 0, "", false, protocolError(fmt.Sprintf("no space after the code in %.40q", body))
		}
		last = body[3] == ' '
		text = clean(body[4:])
	}
	return code, text, last, nil
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// clean replaces control and 8-bit characters, which must not be logged or sent to the client.
func clean(b []byte) string {
	for _, c := range b {
		if c < ' ' || c > '~' {
			return string(bytes.Map(func(r rune) rune {
				if r < ' ' || r > '~' {
					return '?'
				}
				return r
			}, b))
		}
	}
	return string(b)
}

// reply is r for the client: its code, its text, and its enhanced status if all lines with one have the same (RFC 2034 §4).
// 421 becomes 451.
func (r serverReply) reply() message.Reply {
	code := r.code
	if code == 421 {
		code = 451
	}
	if code < 400 && r.class() != 2 { // 3xx is never a final answer
		return unsure()
	}
	status, lines := splitStatus(code/100, r.lines)
	m, err := message.NewReply(code, status, strings.Join(lines, "\n"))
	if err != nil {
		m, err = message.NewReply(code, "", strings.Join(r.lines, "\n"))
	}
	if err != nil {
		return unsure()
	}
	return m
}

// without replaces lines that repeat what was sent, because the reply is logged.
func (r serverReply) without(sent []string) serverReply {
	clean := slices.Clone(r.lines)
	for i, line := range clean {
		if slices.ContainsFunc(sent, func(s string) bool { return len(s) > 1 && strings.Contains(line, s) }) {
			clean[i] = "(it repeated what it was sent)"
		}
	}
	r.lines = clean
	return r
}

// splitStatus takes the enhanced status code (RFC 3463 §2) off the lines, if it has the reply's class and is the same in all.
func splitStatus(class int, lines []string) (string, []string) {
	status := ""
	rest := make([]string, len(lines))
	for i, l := range lines {
		s, text := cutStatus(l)
		switch {
		case s == "" && i > 0:
			rest[i] = l
			continue
		case s == "" || int(s[0]-'0') != class || status != "" && s != status:
			return "", lines
		}
		status, rest[i] = s, text
	}
	return status, rest
}

func cutStatus(l string) (status, text string) {
	status, text, _ = strings.Cut(l, " ")
	parts := strings.Split(status, ".")
	if len(parts) != 3 || len(parts[0]) != 1 {
		return "", l
	}
	for i, p := range parts {
		if p == "" || len(p) > 3 || i == 0 && strings.Trim(p, "245") != "" || strings.Trim(p, "0123456789") != "" {
			return "", l
		}
	}
	return status, text
}

// capabilities are the extensions in the reply to EHLO or LHLO (RFC 5321 §4.1.1.1). The zero value has none.
type capabilities struct {
	pipelining bool // RFC 2920
	eightBit   bool // RFC 6152
	utf8       bool // RFC 6531
	dsn        bool // RFC 3461
	startTLS   bool // RFC 3207
	size       bool // RFC 1870
	maxSize    int64
	auth       []string // SASL mechanisms, upper case
}

func parseCapabilities(lines []string) capabilities {
	var c capabilities
	for i, l := range lines {
		if i == 0 {
			continue // the server's name and greeting
		}
		words := strings.Fields(strings.ToUpper(l))
		if len(words) == 0 {
			continue
		}
		switch words[0] {
		case "PIPELINING":
			c.pipelining = true
		case "8BITMIME":
			c.eightBit = true
		case "SMTPUTF8":
			c.utf8 = true
		case "DSN":
			c.dsn = true
		case "STARTTLS":
			c.startTLS = true
		case "SIZE":
			c.size = true
			if len(words) > 1 {
				if n, err := strconv.ParseInt(words[1], 10, 64); err == nil && n > 0 {
					c.maxSize = n
				}
			}
		case "AUTH":
			c.auth = append(c.auth, words[1:]...)
		}
	}
	return c
}

// has reports whether the SASL mechanism is offered.
func (c *capabilities) has(mech string) bool {
	return slices.Contains(c.auth, mech)
}
