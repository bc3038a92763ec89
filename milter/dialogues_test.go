package milter

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testmilter"
)

// factsPolicy refuses by name and writes its facts into each message, so that facts of another message or connection show.
var factsPolicy = map[string]string{
	"mail": `reject contains {"rule": "m", "code": 550, "message": "not you"} if input.envelope.from.local == "bad"`,
	"rcpt": `reject contains {"rule": "r", "code": 550, "message": "not there"} if input.recipient.local == "bad"
defer contains {"rule": "d", "code": 450, "message": "not now"} if input.recipient.local == "later"`,
	"message": `default _login := "-"
_login := input.auth.login
default _tls := "-"
_tls := input.tls.version
reject contains {"rule": "s", "code": 554, "message": "not this"} if input.message.header.subject[_] == "no"
edit contains {"op": "add_header", "name": "X-Facts", "value": sprintf("%s %s %s %s %s %s", [input.client.ip, input.client.ehlo, _tls, _login,
	input.envelope.from.local, concat(",", [r.local | some r in input.envelope.to])])}`,
}

// mtaModel is what a mail server has sent to the milter, and so what the policy should know.
type mtaModel struct {
	ip, helo, tls, login string // "-" where there is none
	from                 string // "": no transaction
	to                   []string
	messages             int
}

func newMTAModel(ip string) *mtaModel { return &mtaModel{ip: ip, helo: "-", tls: "-", login: "-"} }

// mtaActs are what a mail server may do, with their weights.
var mtaActs = map[string]int{
	"HELO one": 2, "HELO two": 2, "STARTTLS": 1, "MAIL a": 5, "MAIL b with login": 5, "MAIL bad": 2, "MAIL bad with login": 1, "RCPT": 8, "RCPT bad": 3, "RCPT later": 2,
	"message": 6, "message no": 3, "message, ABORT": 3, "ABORT": 2, "ABORT ABORT": 1, "RSET and MAIL": 2, "next connection": 1,
}

// legal reports whether the mail server would do so here.
func (m *mtaModel) legal(act string) bool {
	verb, _, _ := strings.Cut(strings.ReplaceAll(act, ",", ""), " ")
	switch verb {
	case "HELO":
		return m.from == ""
	case "MAIL":
		return m.helo != "-" && m.from == ""
	case "RCPT", "RSET":
		return m.from != ""
	case "message":
		return len(m.to) > 0
	case "STARTTLS":
		return m.helo != "-" && m.tls == "-" && m.from == ""
	case "next":
		return m.from == ""
	}
	return true
}

// do carries out an act over the connection, and compares.
func (m *mtaModel) do(c *testmilter.MTA, act string) error {
	verb, how, _ := strings.Cut(strings.ReplaceAll(act, ",", ""), " ")
	switch verb {
	case "HELO":
		m.helo = how + ".example.net"
		return want("", func() (testmilter.Answer, error) { return c.Helo(m.helo) })
	case "STARTTLS":
		m.tls, m.helo, m.login = "1.3", "tls.example.net", "-"
		c.Macros('H', "{tls_version}", "TLSv1.3", "{cipher}", "TLS_AES_256_GCM_SHA384", "{cipher_bits}", "256")
		return want("", func() (testmilter.Answer, error) { return c.Helo(m.helo) })
	case "MAIL":
		return m.mail(c, how)
	case "RCPT":
		return m.rcpt(c, how)
	case "message":
		return m.message(c, how)
	case "next":
		return m.next(c)
	}
	m.from, m.to = "", nil
	for range strings.Count(act, "ABORT") {
		if err := c.Abort(); err != nil {
			return err
		}
	}
	if verb == "RSET" { // Postfix and Sendmail both send ABORT for it
		if err := c.Abort(); err != nil {
			return err
		}
		return m.mail(c, "a")
	}
	return nil
}

func (m *mtaModel) mail(c *testmilter.MTA, how string) error {
	local, login, _ := strings.Cut(how, " ")
	m.login = "-"
	macros := []string{"{mail_addr}", local + "@example.com"}
	if login != "" {
		m.login = "login-" + local
		macros = append(macros, "{auth_authen}", m.login, "{auth_type}", "PLAIN")
	}
	c.Macros('M', macros...)
	mail := func() (testmilter.Answer, error) { return c.Mail("<" + local + "@example.com>") }
	if local == "bad" {
		return want("550 5.7.1 not you", mail)
	}
	m.from = local
	return want("", mail)
}

func (m *mtaModel) rcpt(c *testmilter.MTA, how string) error {
	local := map[string]string{"": fmt.Sprintf("r%d", len(m.to))}[how] + how
	rcpt := func() (testmilter.Answer, error) { return c.Rcpt("<" + local + "@example.net>") }
	switch how {
	case "bad":
		return want("550 5.7.1 not there", rcpt)
	case "later":
		return want("450 4.7.1 not now", rcpt)
	}
	m.to = append(m.to, local)
	return want("", rcpt)
}

func (m *mtaModel) message(c *testmilter.MTA, how string) error {
	m.messages++
	subject, abort, _ := strings.Cut(fmt.Sprintf("m%d %s", m.messages, how), " ")
	if how == "no" {
		subject, abort = "no", ""
	}
	text := fmt.Sprintf("From: a@example.com\nSubject: %s\n", subject)
	facts := fmt.Sprintf("X-Facts: %s %s %s %s %s %s\n", m.ip, m.helo, m.tls, m.login, m.from, strings.Join(m.to, ","))
	r, err := c.Message(m.from, m.to, eml(text+"\nHello.\n"))
	m.from, m.to = "", nil
	unfolded := ""
	if r != nil {
		unfolded = strings.ReplaceAll(string(r.Bytes()), "\r\n ", " ")
	}
	switch {
	case err != nil:
		return err
	case how == "no" && r.Answer.Text != "554 5.7.1 not this":
		return fmt.Errorf("the message was answered %q %q", r.Answer.Code, r.Answer.Text)
	case how != "no" && (r.Answer.Refused() || r.Answer.Code == 'd'):
		return fmt.Errorf("the message was answered %q %q", r.Answer.Code, r.Answer.Text)
	case how != "no" && unfolded != string(eml(text+facts+"\nHello.\n")):
		return fmt.Errorf("the message became\n%s\nwant\n%s", unfolded, eml(text+facts+"\nHello.\n"))
	case abort != "":
		return c.Abort()
	}
	return nil
}

// next is another client over the same connection to the milter.
func (m *mtaModel) next(c *testmilter.MTA) error {
	if err := c.Send('K', nil); err != nil {
		return err
	}
	ip := "192.0.2." + strconv.Itoa(1+m.messages%200)
	if ip == m.ip {
		ip = "198.51.100.1"
	}
	n := m.messages
	*m = *newMTAModel(ip)
	m.messages = n
	c.Macros('H')
	c.Macros('M')
	return want("", func() (testmilter.Answer, error) { return c.Connect("next.example.net", '4', 4000, ip) })
}

// want compares an answer; "" means to go on.
func want(text string, command func() (testmilter.Answer, error)) error {
	a, err := command()
	if err != nil || a.Text != text || text == "" && (a.Refused() || a.Code == 'd') {
		return fmt.Errorf("answered %q %q, %v; want %q", a.Code, a.Text, err, text)
	}
	return nil
}

// TestDialogues compares long random dialogues of a mail server, with several messages and clients over one connection, with the
// model: each answer, and what the policy knows at each message. A difference is printed with the shortest dialogue that still
// shows it. POSTERN_DIALOGUES is the number of dialogues, POSTERN_SEED selects them.
func TestDialogues(t *testing.T) {
	t.Parallel()
	count, seed := 200, uint64(1)
	if v := os.Getenv("POSTERN_DIALOGUES"); v != "" {
		count, _ = strconv.Atoi(v)
	}
	if v := os.Getenv("POSTERN_SEED"); v != "" {
		seed, _ = strconv.ParseUint(v, 10, 64)
	}
	var acts []string
	for act, weight := range mtaActs {
		acts = append(acts, slices.Repeat([]string{act}, weight)...)
	}
	slices.Sort(acts)
	r := serve(t, rego(t, "1", factsPolicy), func(s *Server, _ *ListenerConfig) { s.Log = nil })
	commands, messages := 0, 0
	for n := range count {
		random := rand.New(rand.NewPCG(seed, uint64(n)))
		dialogue := make([]string, 120)
		for i := range dialogue {
			dialogue[i] = acts[random.IntN(len(acts))]
		}
		did, took, err := converse(r, dialogue)
		if err != nil {
			dialogue, err = shrink(r, did, err)
			t.Fatalf("dialogue %d of seed %d: %q: %v", n, seed, dialogue, err)
		}
		commands, messages = commands+len(did), messages+took
	}
	t.Logf("%d dialogues, %d commands, %d messages", count, commands, messages)
	if messages < 2*count {
		t.Errorf("%d messages in %d dialogues: that shows little", messages, count)
	}
}

// shrink leaves out acts that the difference does not need.
func shrink(r *rig, dialogue []string, why error) ([]string, error) {
	for i := 0; i < len(dialogue); {
		fewer := slices.Delete(slices.Clone(dialogue), i, i+1)
		if did, _, err := converse(r, fewer); err != nil {
			dialogue, why, i = did, err, 0
		} else {
			i++
		}
	}
	return dialogue, why
}

// converse has one dialogue over a new connection. Acts that are not legal are left out.
func converse(r *rig, dialogue []string) (did []string, messages int, err error) {
	c, err := testmilter.Dial("tcp", r.addr, testmilter.Options{Timeout: 30 * time.Second})
	if err != nil {
		return nil, 0, err
	}
	defer c.Close()
	m := newMTAModel("192.0.2.250")
	if err := want("", func() (testmilter.Answer, error) { return c.Connect("client.example.net", '4', 4000, m.ip) }); err != nil {
		return nil, 0, err
	}
	for _, act := range dialogue {
		if !m.legal(act) {
			continue
		}
		did = append(did, act)
		if err := m.do(c, act); err != nil {
			return did, m.messages, fmt.Errorf("%s: %w", act, err)
		}
	}
	return did, m.messages, c.Quit()
}
