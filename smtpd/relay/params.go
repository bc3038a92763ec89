package relay

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/internal/message"
)

// refusal is a reason not to send a command. The zero value is none.
type refusal struct {
	code         int
	status, text string
}

func (r refusal) reply() message.Reply { return message.MustReply(r.code, r.status, r.text) }

func badParam(name string) refusal {
	return refusal{501, "5.5.4", "The value of the " + name + " parameter is not valid"}
}

const maxSizeDigits = 20 // RFC 1870 §5

// refusedUTF8 is for a transaction that cannot do without SMTPUTF8.
func refusedUTF8() refusal {
	return refusal{550, "5.6.7", "The next mail server does not support internationalized mail (SMTPUTF8)"}
}

// mailCommand appends MAIL with its allowed parameters. utf8 says whether the transaction at the next hop is SMTPUTF8. If the next hop
// does not have it, the parameter is left out; recipients and header are checked later.
func mailCommand(dst []byte, env Envelope, c *capabilities) (cmd []byte, utf8 bool, no refusal) {
	path := env.From.String()
	if no := checkPath(path); no.code != 0 {
		return nil, false, no
	}
	if !ascii(path) && !c.utf8 {
		return nil, false, refusedUTF8()
	}
	utf8 = c.utf8 && (env.asksUTF8() || !ascii(path))
	dst = append(append(dst, "MAIL FROM:"...), path...)
	if utf8 {
		dst = append(dst, " SMTPUTF8"...)
	}
	if v, ok := env.Params["BODY"]; ok {
		switch strings.ToUpper(v) {
		case "7BIT":
		case "8BITMIME": // if it is not offered, Data finds out whether the message needs it
			if c.eightBit {
				dst = append(dst, " BODY=8BITMIME"...)
			}
		case "BINARYMIME":
			return nil, utf8, refusal{554, "5.6.3", "The next mail server does not take binary messages (BINARYMIME)"}
		default:
			return nil, utf8, badParam("BODY")
		}
	}
	if v, ok := env.Params["SIZE"]; ok {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 || len(v) > maxSizeDigits || !digit(v[0]) {
			return nil, utf8, badParam("SIZE")
		}
		if no := c.tooBig(n); no.code != 0 {
			return nil, utf8, no
		}
		if c.size {
			dst = strconv.AppendInt(append(dst, " SIZE="...), n, 10)
		}
	}
	if v, ok := env.Params["RET"]; ok {
		v = strings.ToUpper(v)
		if v != "FULL" && v != "HDRS" {
			return nil, utf8, badParam("RET")
		}
		if c.dsn {
			dst = append(append(dst, " RET="...), v...)
		}
	}
	if v, ok := env.Params["ENVID"]; ok {
		if len(v) > 100 || !xtext(v) { // RFC 3461 §4.4
			return nil, utf8, badParam("ENVID")
		}
		if c.dsn {
			dst = append(append(dst, " ENVID="...), v...)
		}
	}
	return append(dst, '\r', '\n'), utf8, refusal{}
}

// tooBig refuses a message that is larger than the next hop's SIZE (RFC 1870 §6.1).
func (c *capabilities) tooBig(n int64) refusal {
	if c.maxSize > 0 && n > c.maxSize {
		return refusal{552, "5.3.4", "The message is larger than the next mail server takes (" + strconv.FormatInt(c.maxSize, 10) + " octets)"}
	}
	return refusal{}
}

// rcptCommand appends RCPT with its allowed parameters.
func rcptCommand(dst []byte, to message.Path, params message.Params, utf8 bool, c *capabilities) ([]byte, refusal) {
	path := to.String()
	if no := checkPath(path); no.code != 0 {
		return nil, no
	}
	switch {
	case utf8 || ascii(path):
	case !c.utf8:
		return nil, refusedUTF8()
	default: // RFC 6531 §3.4
		return nil, refusal{553, "5.6.7", "An internationalized address needs the SMTPUTF8 parameter of MAIL"}
	}
	dst = append(append(dst, "RCPT TO:"...), path...)
	if v, ok := params["NOTIFY"]; ok {
		v = strings.ToUpper(v)
		need, ok := notify(v)
		if !ok {
			return nil, badParam("NOTIFY")
		}
		if need && !c.dsn {
			return nil, refusal{555, "5.3.3", "The next mail server cannot do delivery notifications (NOTIFY=" + v + ")"}
		}
		if c.dsn {
			dst = append(append(dst, " NOTIFY="...), v...)
		}
	}
	if v, ok := params["ORCPT"]; ok {
		if !orcpt(v, utf8 || !c.utf8) {
			return nil, badParam("ORCPT")
		}
		if !utf8 {
			v = orcptASCII(v)
		}
		if c.dsn {
			dst = append(append(dst, " ORCPT="...), v...)
		}
	}
	return append(dst, '\r', '\n'), refusal{}
}

// notify checks the value of NOTIFY (RFC 3461 §4.1), in upper case. need says that it cannot be kept without DSN (§5.2.2).
func notify(v string) (need, ok bool) {
	if v == "NEVER" {
		return false, true
	}
	seen := map[string]bool{}
	for word := range strings.SplitSeq(v, ",") {
		if seen[word] || word != "SUCCESS" && word != "FAILURE" && word != "DELAY" {
			return false, false
		}
		seen[word] = true
	}
	return seen["SUCCESS"], true
}

// orcpt checks the value of ORCPT: address type, ";", xtext (RFC 3461 §4.2), or UTF-8 for the type utf-8 (RFC 6533 §3).
func orcpt(v string, utf8 bool) bool {
	kind, addr, ok := strings.Cut(v, ";")
	if !ok || kind == "" || addr == "" || len(v) > 500 {
		return false
	}
	if strings.Trim(strings.ToLower(kind), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return false
	}
	if utf8 && strings.EqualFold(kind, "utf-8") {
		return checkText(addr)
	}
	return xtext(addr)
}

// orcptASCII is v for a next hop without SMTPUTF8: UTF-8 becomes \x{...} (RFC 6533 §3, utf-8-addr-xtext).
func orcptASCII(v string) string {
	if ascii(v) {
		return v
	}
	var b strings.Builder
	for _, r := range v {
		if r < 0x80 {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\x{%X}`, r)
		}
	}
	return b.String()
}

// xtext checks for xtext (RFC 3461 §4): printable ASCII except "+" and "=", or "+" and two upper-case hexadecimal digits.
func xtext(v string) bool {
	hex := func(c byte) bool { return digit(c) || 'A' <= c && c <= 'F' }
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case c < '!' || c > '~' || c == '=':
			return false
		case c == '+':
			if i+2 >= len(v) || !hex(v[i+1]) || !hex(v[i+2]) {
				return false
			}
			i += 2
		}
	}
	return v != ""
}

// checkText reports whether v has no control characters and no space.
func checkText(v string) bool {
	for i := range len(v) {
		if v[i] <= ' ' || v[i] == 0x7f {
			return false
		}
	}
	return true
}

// checkPath checks again that the result of message.Path.String has nothing that could end the command.
func checkPath(path string) refusal {
	bad := len(path) < 2 || path[0] != '<' || path[len(path)-1] != '>'
	for i := range len(path) {
		bad = bad || path[i] < ' ' || path[i] == 0x7f
	}
	if bad {
		return refusal{553, "5.1.3", "The address is not valid"}
	}
	return refusal{}
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
