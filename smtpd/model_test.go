package smtpd

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
)

// sessionModel is what a session should know and reply. It is written from RFC 5321, 3030, 3207, 4954 and the limits below, and
// shares no code with the server.
type sessionModel struct {
	helo, esmtp, tls, auth bool
	failures, errs, idles  int
	tries                  int // recipients that were offered since the last message

	from          string // "": no transaction
	to            []string
	tried, chunks int
	text          string // of chunks so far

	closed   bool
	accepted []string // what the next hop should have got: from, recipients, message
}

// The limits of the model's server, small enough to be reached.
const (
	modelErrors     = 8
	modelFailures   = 3
	modelRecipients = 3
	modelBytes      = 200
	modelIdles      = 100
)

// modelActs are the acts of a client, with the weight of each when the client does not do what is expected.
var modelActs = map[string]int{
	"EHLO": 3, "HELO": 1, "EHLO bad": 1, "STARTTLS": 3, "STARTTLS arg": 1, "AUTH": 3, "AUTH wrong": 2, "AUTH LOGIN": 2, "AUTH cancelled": 1, "AUTH not base64": 1, "AUTH unknown": 1,
	"MAIL": 6, "MAIL other": 2, "MAIL bad": 1, "RCPT": 8, "RCPT refused": 3, "RCPT bad": 1, "DATA": 5, "DATA empty": 1, "DATA large": 2, "DATA refused": 2, "DATA arg": 1, "DATA bare LF": 1, "DATA cut": 1,
	"BDAT": 5, "BDAT half": 3, "BDAT empty": 2, "BDAT LAST": 4, "BDAT empty LAST": 2, "BDAT large": 2, "BDAT large LAST": 1, "BDAT refused LAST": 2, "BDAT bare LF": 1, "BDAT bad": 1, "BDAT cut": 1,
	"RSET": 3, "RSET arg": 1, "NOOP": 2, "VRFY": 1, "HELP": 1, "nonsense": 2, "EXPN": 1, "bare LF": 1, "long": 1, "GET": 1, "QUIT": 1, "gone": 1,
}

func (m *sessionModel) reset() { m.from, m.to, m.tried, m.chunks, m.text = "", nil, 0, 0, "" }

// refuse is the reply to a command that is wrong in form or order.
func (m *sessionModel) refuse(code string) []string {
	m.errs++
	return []string{code}
}

// hangUp is the last reply.
func (m *sessionModel) hangUp(code ...string) []string {
	m.closed = true
	return code
}

// spend is a command that leads nowhere.
func (m *sessionModel) spend(code string) []string {
	if m.idles++; m.idles > modelIdles {
		return m.hangUp("421")
	}
	return []string{code}
}

// step returns what the client sends for an act, and the codes that it should get. n makes messages differ.
func (m *sessionModel) step(act string, n int) (input string, codes []string) {
	input, codes = m.act(act, n)
	if m.errs > modelErrors && !m.closed {
		codes = append(codes, m.hangUp("421")...)
	}
	return input, codes
}

func (m *sessionModel) act(act string, n int) (input string, codes []string) {
	verb, how, _ := strings.Cut(act, " ")
	switch verb {
	case "EHLO", "HELO":
		return m.hello(verb, how)
	case "STARTTLS":
		return m.starttls(how)
	case "AUTH":
		return m.login(how)
	case "MAIL":
		return m.mail(how)
	case "RCPT":
		return m.rcpt(how)
	case "DATA":
		return m.data(how, n)
	case "BDAT":
		return m.bdat(how, n)
	case "RSET":
		if how != "" {
			return "RSET x\r\n", m.refuse("501")
		}
		if codes = m.spend("250"); !m.closed {
			m.reset()
		}
		return "RSET\r\n", codes
	case "NOOP":
		return "NOOP\r\n", m.spend("250")
	case "VRFY":
		return "VRFY bob\r\n", m.spend("252")
	case "HELP":
		return "HELP\r\n", m.spend("214")
	case "EXPN":
		return "EXPN list\r\n", m.refuse("502")
	case "bare":
		return "NOOP\n", m.hangUp("500")
	case "long":
		return strings.Repeat("x", 3000) + "\r\n", m.hangUp("500")
	case "GET":
		return "GET / HTTP/1.1\r\n", m.hangUp("421")
	case "QUIT":
		return "QUIT\r\n", m.hangUp("221")
	case "gone":
		return "", m.hangUp()
	}
	return "nonsense\r\n", m.refuse("500")
}

func (m *sessionModel) hello(verb, how string) (string, []string) {
	if how != "" {
		return verb + " a\tb\r\n", m.refuse("501")
	}
	codes := m.spend("250")
	if !m.closed {
		m.reset()
		m.helo, m.esmtp = true, verb == "EHLO"
	}
	return verb + " client.example\r\n", codes
}

func (m *sessionModel) starttls(how string) (string, []string) {
	switch {
	case how != "":
		return "STARTTLS now\r\n", m.refuse("501")
	case m.tls, !m.helo:
		return "STARTTLS\r\n", m.refuse("503")
	}
	*m = sessionModel{tls: true, accepted: m.accepted, failures: m.failures}
	return "STARTTLS\r\n", []string{"220"}
}

func (m *sessionModel) login(how string) (string, []string) {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	begin := map[string]string{"": "AUTH PLAIN " + b64("\x00alice\x00secret"), "wrong": "AUTH PLAIN " + b64("\x00alice\x00guess"), "LOGIN": "AUTH LOGIN", "cancelled": "AUTH PLAIN",
		"not base64": "AUTH PLAIN ?", "unknown": "AUTH CRAM-MD5"}[how] + "\r\n"
	switch {
	case !m.helo:
		return begin, m.refuse("503")
	case !m.tls:
		return begin, m.refuse("530")
	case m.auth, m.from != "":
		return begin, m.refuse("503")
	}
	switch how {
	case "wrong":
		if m.failures++; m.failures == modelFailures {
			return begin, m.hangUp("421")
		}
		return begin, []string{"535"}
	case "cancelled":
		m.errs++
		return begin + "*\r\n", []string{"334", "501"}
	case "not base64":
		return begin, m.refuse("501")
	case "unknown":
		return begin, m.refuse("504")
	}
	m.auth, m.failures = true, 0
	if how == "LOGIN" {
		return begin + b64("alice") + "\r\n" + b64("secret") + "\r\n", []string{"334", "334", "235"}
	}
	return begin, []string{"235"}
}

func (m *sessionModel) mail(how string) (string, []string) {
	from := "a@b.example"
	if how == "other" {
		from = "other@b.example"
	}
	input := "MAIL FROM:<" + from + ">\r\n"
	if how == "bad" {
		input = "MAIL FROM:<" + from + "\r\n"
	}
	switch {
	case !m.helo:
		return input, m.refuse("503")
	case !m.auth:
		return input, m.refuse("530")
	case m.from != "":
		return input, m.refuse("503")
	case how == "bad":
		return input, m.refuse("501")
	}
	codes := m.spend("250")
	if !m.closed {
		m.from = from
	}
	return input, codes
}

func (m *sessionModel) rcpt(how string) (string, []string) {
	to := fmt.Sprintf("r%d@c.example", m.tried)
	input := "RCPT TO:<" + to + ">\r\n"
	switch how {
	case "refused":
		input = "RCPT TO:<refused@c.example>\r\n"
	case "bad":
		input = "RCPT TO:<a@b@c>\r\n"
	}
	switch {
	case m.from == "", m.chunks > 0:
		return input, m.refuse("503")
	case m.tries >= 10*modelRecipients:
		return input, m.refuse("452")
	}
	m.tried, m.tries = m.tried+1, m.tries+1
	switch {
	case len(m.to) == modelRecipients:
		return input, []string{"452"}
	case how == "bad":
		return input, m.refuse("501")
	case how == "refused":
		return input, []string{"550"}
	}
	m.to = append(m.to, to)
	return input, []string{"250"}
}

// noRecipients is the reply to a message without recipients.
func (m *sessionModel) noRecipients() string {
	if m.tried > 0 {
		return "554"
	}
	return "503"
}

func (m *sessionModel) data(how string, n int) (string, []string) {
	switch {
	case how == "arg":
		return "DATA x\r\n", m.refuse("501")
	case m.from == "", m.chunks > 0:
		return "DATA\r\n", m.refuse("503")
	case len(m.to) == 0:
		return "DATA\r\n", m.refuse(m.noRecipients())
	}
	text := fmt.Sprintf("n: %d\r\n\r\n", n)
	switch how {
	case "empty":
		text = ""
	case "large":
		text += strings.Repeat("x", modelBytes) + "\r\n"
	case "refused":
		text = "refuse: me\r\n" + text
	case "bare LF":
		return "DATA\r\n" + text + "\n.\r\nNOOP\r\n.\r\n", m.hangUp("354", "554")
	case "cut":
		return "DATA\r\n" + text, m.hangUp("354")
	default:
		text += ".\r\nNOOP\r\n..\r\n"
	}
	m.text = text
	return "DATA\r\n" + strings.ReplaceAll("\n"+text, "\n.", "\n..")[1:] + ".\r\n", append([]string{"354"}, m.whole()...)
}

// whole is the reply to a whole message.
func (m *sessionModel) whole() []string {
	defer m.reset()
	m.idles, m.tries = 0, 0
	switch {
	case len(m.text) > modelBytes:
		return []string{"552"}
	case strings.Contains(m.text, "refuse: me"):
		return []string{"550"}
	}
	m.accepted = append(m.accepted, fmt.Sprint(m.from, m.to, m.text))
	return []string{"250"}
}

func (m *sessionModel) bdat(how string, n int) (string, []string) {
	if how == "bad" {
		return "BDAT x\r\n", m.hangUp("501")
	}
	kind, last := strings.CutSuffix(" "+how, " LAST")
	text := fmt.Sprintf("n: %d\r\n", n)
	switch strings.TrimSpace(kind) {
	case "half":
		text = fmt.Sprintf("n: %d", n)
	case "empty":
		text = ""
	case "large":
		text = strings.Repeat("x", modelBytes+1)
	case "refused":
		text = "refuse: me\r\n"
	case "bare LF":
		text = "n: 1\n.\nNOOP\r\n"
	case "cut":
		return "BDAT 100\r\n" + text, m.hangUp()
	}
	input := fmt.Sprintf("BDAT %d\r\n%s", len(text), text)
	if last {
		input = fmt.Sprintf("BDAT %d LAST\r\n%s", len(text), text)
	}
	switch {
	case m.from == "":
		return input, m.refuse("503")
	case len(m.to) == 0:
		return input, m.refuse(m.noRecipients())
	case strings.HasPrefix(text, "n: 1\n"):
		return input, m.hangUp("554")
	}
	m.chunks++
	m.text += text
	switch {
	case last:
		if m.text != "" && !strings.HasSuffix(m.text, "\r\n") && len(m.text) <= modelBytes {
			m.text += "\r\n"
		}
		return input, m.whole()
	case len(m.text) > modelBytes:
		m.reset()
		return input, []string{"552"}
	}
	return input, []string{"250"}
}

// sensible is the act that brings a session forward.
func (m *sessionModel) sensible() string {
	switch {
	case !m.helo:
		return "EHLO"
	case !m.tls:
		return "STARTTLS"
	case !m.esmtp:
		return "EHLO"
	case !m.auth && m.from == "":
		return "AUTH"
	case m.from == "":
		return "MAIL"
	case m.chunks > 0:
		return "BDAT LAST"
	case len(m.to) == 0:
		return "RCPT"
	}
	return "DATA"
}

// actNames in a fixed order, each as often as it weighs.
func actNames() (names []string) {
	for name, weight := range modelActs {
		for range weight {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
