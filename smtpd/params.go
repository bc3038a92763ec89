package smtpd

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/message"
)

// Bounds on parameters. The longest are ORCPT and AUTH, with 500 octets (RFC 3461 §4.2, RFC 4954 §5).
const (
	maxParams     = 12
	maxParamKey   = 32
	maxParamValue = 512
)

// readParams reads the ESMTP parameters (RFC 5321 §4.1.2) after a path: " KEY=VALUE KEY". known lists the keywords that are offered,
// each between spaces. A keyword must not come twice, because two readers might use different values. A reply that is not zero says
// what is wrong.
func readParams(s string, known string) (message.Params, message.Reply) {
	if s == "" {
		return nil, message.Reply{}
	}
	if s[0] != ' ' {
		return nil, replySyntax("A space belongs between the address and its parameters")
	}
	params := message.Params{}
	for word := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ' ' }) { // strings.Fields would also split at U+00A0
		key, value, hasValue := strings.Cut(word, "=")
		key = strings.ToUpper(key)
		switch _, twice := params[key]; {
		case !isKeyword(key):
			return nil, replySyntax("Malformed parameter")
		case !strings.Contains(known, " "+key+" "):
			return nil, say(555, "5.5.4", "Parameter "+key+" is not recognized")
		case twice:
			return nil, replySyntax("Parameter " + key + " is given twice")
		case hasValue == (key == "SMTPUTF8") || hasValue && !isValue(value):
			return nil, badValue(key)
		case len(params) == maxParams:
			return nil, replySyntax("Too many parameters")
		}
		params[key] = value
	}
	return params, message.Reply{}
}

func badValue(key string) message.Reply {
	return replySyntax("The value of parameter " + key + " is not valid")
}

func isKeyword(s string) bool {
	if s == "" || len(s) > maxParamKey || s[0] == '-' {
		return false
	}
	return strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == ""
}

// isValue reports whether s is 1*(%d33-60 / %d62-126), or UTF-8 beyond ASCII (RFC 6531 §3.3). The check of each keyword refuses the
// latter where it is not allowed.
func isValue(s string) bool {
	if s == "" || len(s) > maxParamValue || !utf8.ValidString(s) {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == '=' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

const (
	mailParams = " SIZE BODY SMTPUTF8 RET ENVID AUTH "
	rcptParams = " NOTIFY ORCPT "
)

// checkMailParams checks the values of the parameters of MAIL. A reply that is not zero says what is wrong.
func checkMailParams(p message.Params, maxSize int64) message.Reply {
	_, internationalized := p["SMTPUTF8"]
	for key := range strings.FieldsSeq(mailParams) { // in a fixed order, so that the same command gets the same reply
		v, there := p[key]
		ok := true
		if !there {
			continue
		}
		switch key {
		case "SIZE": // RFC 1870 §6.1
			if len(v) > 20 || strings.Trim(v, "0123456789") != "" {
				return badValue(key)
			}
			if n, err := strconv.ParseInt(v, 10, 64); err != nil || n > maxSize {
				return say(552, "5.3.4", "Message size exceeds the limit of "+strconv.FormatInt(maxSize, 10)+" octets")
			}
		case "BODY": // RFC 6152 §2
			switch strings.ToUpper(v) {
			case "7BIT", "8BITMIME":
			case "BINARYMIME": // RFC 3030 §3; not offered
				return say(504, "5.5.4", "BODY=BINARYMIME is not implemented")
			default:
				ok = false
			}
		case "RET": // RFC 3461 §4.3
			ok = strings.EqualFold(v, "FULL") || strings.EqualFold(v, "HDRS")
		case "ENVID": // RFC 3461 §4.4
			plain, good := unxtext(v)
			ok = good && len(v) <= 100 && printable(plain)
		case "AUTH": // RFC 4954 §5
			plain, good := unxtext(v)
			if ok = good; ok && plain != "<>" {
				_, err := message.ParseMailbox(plain, internationalized)
				ok = err == nil
			}
		}
		if !ok {
			return badValue(key)
		}
	}
	return message.Reply{}
}

// checkRcptParams checks the values of the parameters of RCPT. A reply that is not zero says what is wrong.
func checkRcptParams(p message.Params, internationalized bool) message.Reply {
	if v, ok := p["NOTIFY"]; ok && !isNotify(v) {
		return badValue("NOTIFY")
	}
	if v, ok := p["ORCPT"]; ok && !isORCPT(v, internationalized) {
		return badValue("ORCPT")
	}
	return message.Reply{}
}

// isNotify reports whether v is NEVER, or a list of the other keywords without repetition (RFC 3461 §4.1).
func isNotify(v string) bool {
	v = strings.ToUpper(v)
	if v == "NEVER" {
		return true
	}
	seen := ""
	for word := range strings.SplitSeq(v, ",") {
		switch word {
		case "SUCCESS", "FAILURE", "DELAY":
		default:
			return false
		}
		if strings.Contains(seen, word) {
			return false
		}
		seen += word
	}
	return true
}

// isORCPT reports whether v is an address type, ";" and xtext (RFC 3461 §4.2). An address of type utf-8 may have UTF-8 (RFC 6533
// §3).
func isORCPT(v string, internationalized bool) bool {
	kind, addr, _ := strings.Cut(v, ";")
	if len(v) > 500 || addr == "" || !isKeyword(strings.ToUpper(kind)) {
		return false
	}
	if strings.EqualFold(kind, "utf-8") {
		return internationalized || printable(addr)
	}
	plain, ok := unxtext(addr)
	return ok && printable(plain)
}

// unxtext decodes xtext (RFC 3461 §4). Empty text is not ok.
func unxtext(v string) (plain string, ok bool) {
	out := make([]byte, 0, len(v))
	for i := 0; i < len(v); i++ {
		c := v[i]
		switch {
		case c <= ' ' || c > '~' || c == '=':
			return "", false
		case c == '+':
			if i+2 >= len(v) || v[i+1:i+3] != strings.ToUpper(v[i+1:i+3]) {
				return "", false
			}
			n, err := strconv.ParseUint(v[i+1:i+3], 16, 8)
			if err != nil {
				return "", false
			}
			c, i = byte(n), i+2
		}
		out = append(out, c)
	}
	return string(out), len(out) > 0
}

// eightBit reports whether s has an octet beyond US-ASCII.
func eightBit(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return true
		}
	}
	return false
}

// printable reports whether s has only printable ASCII characters and spaces.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// onlyPrintable refuses an argument with other characters than printable ASCII.
func onlyPrintable(arg string) (refusal message.Reply) {
	switch {
	case printable(arg):
		return message.Reply{}
	case strings.IndexByte(arg, '\t') >= 0:
		return replySyntax("A TAB is not allowed here")
	}
	return replySyntax("8-bit characters are not allowed here")
}

// cutFold is strings.CutPrefix without regard to case.
func cutFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}
