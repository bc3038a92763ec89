package clients

import (
	"bytes"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/internal/testmilter"
)

// letter is what a client is asked to submit.
type letter struct {
	login, password string
	from            string
	to              []string
	eml             string // CRLF line ends
}

func newLetter(id, eml string) letter {
	return letter{e2e.Login, e2e.Password, e2e.Address, []string{"bob@example.net"}, strings.ReplaceAll(strings.ReplaceAll(eml, "{id}", id), "\n", "\r\n")}
}

// plainEML has what careless programs lose: leading dots, folded fields, odd spacing, an empty last line. It lacks nothing, so
// that the default policy has nothing to repair.
const plainEML = `Received: from nowhere by example.com; Mon, 2 Mar 2026 09:00:00 +0100
From: Alice <alice@example.com>
To: bob@example.net
sUBJECT:   odd   spacing
	and a fold
Date: Mon, 2 Mar 2026 09:00:00 +0100
Message-ID: <{id}@example.com>
X-Empty:
Content-Type: text/plain; charset=us-ascii

.a dot
..two
.

From the start of a line.
a tab	and trailing space 
` + "" + `
--
Alice

`

const eightEML = `From: Alice <alice@example.com>
To: bob@example.net
Subject: eight
Date: Mon, 2 Mar 2026 09:00:00 +0100
Message-ID: <{id}@example.com>
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Grüße aus Köln
`

const utf8EML = `From: =?utf-8?q?Alice?= <alice@example.com>
To: Jürgen <jürgen@example.net>
Subject: Grüße
Date: Mon, 2 Mar 2026 09:00:00 +0100
Message-ID: <{id}@example.com>
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Grüße aus Köln
`

// client submits a letter to a site and returns what it printed, and an error where it ended with anything but 0.
type client func(t *testing.T, s *e2e.Site, l letter) (string, error)

func lf(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") }

func swaks(mechanism string, implicit bool, more ...string) client {
	return func(t *testing.T, s *e2e.Site, l letter) (string, error) {
		server, tls := s.Addr, "--tls"
		if implicit {
			server, tls = s.TLS, "--tls-on-connect"
		}
		file := filepath.Join(t.TempDir(), "eml")
		testenv.Write(t, file, strings.TrimSuffix(lf(l.eml), "\n")) // it ends the last line itself
		return testenv.Output(t, "", "swaks", append([]string{"--server", server, tls, "--auth", mechanism, "--auth-user", l.login, "--auth-password", l.password,
			"--from", l.from, "--to", strings.Join(l.to, ","), "--data", "@" + file, "--timeout", "50"}, more...)...)
	}
}

func msmtp(implicit bool, mechanism string) client {
	return func(t *testing.T, s *e2e.Site, l letter) (string, error) {
		addr, starttls := s.Addr, "on"
		if implicit {
			addr, starttls = s.TLS, "off"
		}
		host, port, _ := net.SplitHostPort(addr)
		conf := filepath.Join(t.TempDir(), "msmtprc")
		testenv.Write(t, conf, fmt.Sprintf("account default\nhost %s\nport %s\ntls on\ntls_starttls %s\ntls_trust_file %s\nauth %s\nuser %s\npassword %q\nfrom %s\n",
			host, port, starttls, s.Certificate(), mechanism, l.login, l.password, l.from))
		return testenv.Output(t, lf(l.eml), "msmtp", append([]string{"-C", conf, "--"}, l.to...)...)
	}
}

func curl(implicit bool, mechanism string) client {
	return func(t *testing.T, s *e2e.Site, l letter) (string, error) {
		url := "smtp://" + s.Addr
		if implicit {
			url = "smtps://" + s.TLS
		}
		args := []string{"-sS", "-v", "--ssl-reqd", "--cacert", s.Certificate(), "--user", l.login + ":" + l.password, "--login-options", "AUTH=" + mechanism,
			"--mail-from", l.from, "-T", "-", url + "/laptop.example.com"}
		for _, to := range l.to {
			args = append(args, "--mail-rcpt", to)
		}
		return testenv.Output(t, l.eml, "curl", args...)
	}
}

// smtplib: host, port, certificate, tls|starttls, mechanism, login, password, from, to, data|bdat.
const smtplibPy = `
import smtplib, ssl, sys, re
host, port, ca, tls, mechanism, login, password, sender, to, how = sys.argv[1:11]
eml = sys.stdin.buffer.read()
context = ssl.create_default_context(cafile=ca)
if tls == "tls":
    s = smtplib.SMTP_SSL(host, int(port), timeout=50, context=context)
else:
    s = smtplib.SMTP(host, int(port), timeout=50)
    s.ehlo(); s.starttls(context=context)
s.set_debuglevel(1)
s.ehlo()
s.user, s.password = login, password
try:
    s.auth(mechanism, getattr(s, "auth_" + mechanism.lower()))
    options = []
    if re.search(rb"[^\x00-\x7f]", eml): options.append("BODY=8BITMIME")
    if not to.isascii() or b"J\xc3\xbcrgen" in eml: options.append("SMTPUTF8")
    if how == "bdat":
        assert s.mail(sender, options)[0] == 250 and s.rcpt(to)[0] == 250
        for i in range(0, len(eml), 100):
            chunk = eml[i:i+100]
            s.send(b"BDAT %d%s\r\n" % (len(chunk), b" LAST" if i + 100 >= len(eml) else b"") + chunk)
            code, text = s.getreply()
            assert code == 250, (code, text)
    else:
        s.sendmail(sender, to.split(","), eml, options)
    s.quit()
except smtplib.SMTPException as e:
    print(e); sys.exit(1)
`

func smtplib(implicit bool, mechanism, how string) client {
	return func(t *testing.T, s *e2e.Site, l letter) (string, error) {
		addr, tls := s.Addr, "starttls"
		if implicit {
			addr, tls = s.TLS, "tls"
		}
		host, port, _ := net.SplitHostPort(addr)
		return testenv.Output(t, l.eml, "python3", "-c", smtplibPy, host, port, s.Certificate(), tls, mechanism, l.login, l.password, l.from, strings.Join(l.to, ","), how)
	}
}

// TestClients submits with real clients, as people set them up, and compares what arrived octet by octet.
func TestClients(t *testing.T) {
	t.Parallel()
	s := e2e.StartSite(t, "maildir:outbox", "")
	for name, c := range map[string]struct {
		submit client
		eml    string
		to     string
	}{
		"swaks-starttls-plain":    {swaks("PLAIN", false), plainEML, ""},
		"swaks-tls-login":         {swaks("LOGIN", true), plainEML, ""},
		"swaks-pipeline":          {swaks("PLAIN", false, "--pipeline"), plainEML, ""},
		"msmtp-starttls-plain":    {msmtp(false, "plain"), plainEML, ""},
		"msmtp-tls-login":         {msmtp(true, "login"), eightEML, ""},
		"curl-starttls-plain":     {curl(false, "PLAIN"), plainEML, ""},
		"curl-tls-login":          {curl(true, "LOGIN"), eightEML, ""},
		"smtplib-starttls-plain":  {smtplib(false, "PLAIN", "data"), plainEML, ""},
		"smtplib-tls-login":       {smtplib(true, "LOGIN", "data"), eightEML, ""},
		"smtplib-tls-bdat":        {smtplib(true, "PLAIN", "bdat"), plainEML, ""},
		"smtplib-starttls-bdat-8": {smtplib(false, "LOGIN", "bdat"), eightEML, ""},
		"smtplib-smtputf8":        {smtplib(false, "PLAIN", "data"), utf8EML, "jürgen@example.net"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLetter(name, c.eml)
			if c.to != "" {
				l.to = []string{c.to}
			}
			said, err := c.submit(t, s, l)
			if err != nil {
				t.Fatalf("%v\n%s", err, said)
			}
			arrivedOnce(t, filepath.Join(s.Dir, "outbox"), l, "\r\n", "Return-Path", "X-Envelope-Params", "X-Envelope-To", "Received")
		})
	}
}

// TestNextHops hands mail to real servers, and compares what they got.
func TestNextHops(t *testing.T) {
	t.Parallel()
	l := newLetter("next-hop", plainEML)
	t.Run("smtp-sink", func(t *testing.T) {
		t.Parallel()
		addr, dir := e2e.SMTPSink(t, "-d", "m.")
		s := e2e.StartSite(t, "smtp://"+addr, "")
		submit(t, s, l)
		submit(t, s, newLetter("second", eightEML))
		arrivedOnce(t, dir, l, "\n", "X-Client-Addr", "X-Client-Proto", "X-Helo-Args", "X-Mail-Args", "X-Rcpt-Args", "Received")
		arrivedOnce(t, dir, newLetter("second", eightEML), "\n", "X-Client-Addr", "X-Client-Proto", "X-Helo-Args", "X-Mail-Args", "X-Rcpt-Args", "Received")
	})
	t.Run("dovecot", func(t *testing.T) {
		t.Parallel()
		addr, socket, dir := e2e.DovecotLMTP(t)
		for name, url := range map[string]string{"tcp": "lmtp://" + addr, "unix": "lmtp+unix://" + socket} {
			t.Run(name, func(t *testing.T) {
				s := e2e.StartSite(t, url, "")
				l := newLetter(name, plainEML)
				submit(t, s, l)
				arrivedOnce(t, dir, l, "\n", "Return-Path", "Delivered-To", "Received")
				l.to = []string{"carol@example.net"}
				if said, err := swaks("PLAIN", false)(t, s, l); err == nil || !strings.Contains(said, "550 5.1.1 <carol@example.net> User doesn't exist") {
					t.Errorf("%v: Dovecot's words are missing in\n%s", err, said)
				}
			})
		}
	})
	t.Run("postfix", func(t *testing.T) {
		t.Parallel()
		behind := testmilter.StartSink(t)
		mta := testmilter.StartPostfix(t, testmilter.PostfixOptions{NoMilters: true, Relay: behind.Addr,
			Main: "smtpd_recipient_restrictions = check_recipient_access inline:{ {nobody@example.net = 550 5.7.27 Try the other door} }, permit_mynetworks, reject\n"})
		s := e2e.StartSite(t, "smtp://"+mta.Addr, "")
		l := newLetter("postfix", utf8EML)
		l.to = []string{"jürgen@example.net"}
		if said, err := smtplib(false, "PLAIN", "data")(t, s, l); err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
		got := behind.Next(t)
		checkArrived(t, got.Data, l, "\r\n", "Received")
		if !strings.Contains(got.From, "SMTPUTF8") || !strings.Contains(strings.Join(got.To, " "), "jürgen@example.net") {
			t.Errorf("envelope: %q %q", got.From, got.To)
		}
		l = newLetter("postfix-refuses", plainEML)
		l.to = []string{"nobody@example.net"}
		if said, err := swaks("PLAIN", false)(t, s, l); err == nil || !strings.Contains(said, "550 5.7.27 <nobody@example.net>: Recipient address rejected: Try the other door") {
			t.Errorf("%v: Postfix's words are missing in\n%s", err, said)
		}
	})
}

// submit has Python submit l, and fails the test if Python does.
func submit(t *testing.T, s *e2e.Site, l letter) {
	t.Helper()
	if said, err := smtplib(true, "PLAIN", "data")(t, s, l); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
}

// arrivedOnce wants l once below dir, with nothing but the named fields put on top.
func arrivedOnce(t *testing.T, dir string, l letter, eol string, top ...string) {
	t.Helper()
	id := regexp.MustCompile(`Message-ID: (<.*>)`).FindString(l.eml)
	var found [][]byte
	for range 100 {
		found = nil
		for _, f := range e2e.Messages(t, dir) {
			if bytes.Contains(f, []byte(id)) {
				found = append(found, f)
			}
		}
		if len(found) > 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if len(found) != 1 {
		t.Fatalf("%s arrived %d times", id, len(found))
	}
	checkArrived(t, found[0], l, eol, top...)
}

// checkArrived compares a message with what was submitted. Only fields on top may differ. eol is the line end of the program
// that wrote the message.
func checkArrived(t *testing.T, got []byte, l letter, eol string, top ...string) {
	t.Helper()
	want := strings.ReplaceAll(l.eml, "\r\n", eol)
	text := string(got)
	if slices.Contains(top, "X-Client-Addr") {
		text = strings.TrimSuffix(text, "\n") // smtp-sink ends a message with an empty line
	}
	above, ok := strings.CutSuffix(text, want)
	if !ok {
		t.Fatalf("got\n%q\nwhich does not end in\n%q", got, want)
	}
	ours := false
	for _, line := range strings.SplitAfter(above, eol) {
		name, value, _ := strings.Cut(line, ":")
		if line != "" && line[0] != ' ' && line[0] != '\t' && !slices.Contains(top, name) {
			t.Errorf("a line that nobody knows above the message: %q", line)
		}
		ours = ours || name == "Received" && strings.Contains(value, "127.0.0.1")
	}
	if !ours || !regexp.MustCompile(`(?s)\nReceived: from [^\n]*\(\[127\.0\.0\.1\]\).*by mail\.example\.com.*with\s+(UTF8SMTPSA|ESMTPSA)`).MatchString("\n"+above) {
		t.Errorf("our Received field is missing in\n%s", above)
	}
}

// TestRefusals checks that each client reports the reason for which a message was refused, and that no refused message arrives.
func TestRefusals(t *testing.T) {
	t.Parallel()
	open := e2e.StartSite(t, "maildir:outbox", "submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0', limits: {message_bytes: 4KiB}}\n")
	down := e2e.StartSite(t, "smtp://"+testenv.FreeAddr(t), "")
	sink, sunk := e2e.SMTPSink(t, "-f", "RCPT", "-B", "550 5.1.1 Nobody of that name lives here", "-d", "m.")
	refusing := e2e.StartSite(t, "smtp://"+sink, "")
	soft, _ := e2e.SMTPSink(t, "-r", ".", "-b", "452 4.3.1 The disk is full")
	full := e2e.StartSite(t, "smtp://"+soft, "")
	wrong, stranger, large := newLetter("wrong", plainEML), newLetter("stranger", plainEML), newLetter("large", plainEML)
	wrong.password = "wrong"
	stranger.from = "ceo@example.com"
	large.eml += strings.Repeat(strings.Repeat("x", 70)+"\r\n", 80)
	forged := newLetter("forged", strings.Replace(plainEML, "alice@example.com", "ceo@example.com", 1))
	for name, c := range map[string]struct {
		site   *e2e.Site
		submit client
		letter letter
		want   string
	}{
		"password-swaks":    {open, swaks("PLAIN", false), wrong, "535 5.7.8"},
		"password-msmtp":    {open, msmtp(false, "plain"), wrong, "535 5.7.8"},
		"password-smtplib":  {open, smtplib(true, "LOGIN", "data"), wrong, "535 5.7.8"},
		"sender-swaks":      {open, swaks("PLAIN", true), stranger, "550 5.7.1"},
		"sender-curl":       {open, curl(true, "PLAIN"), stranger, "550 5.7.1"},
		"forged-swaks":      {open, swaks("LOGIN", false, "--pipeline"), forged, "550 5.7.1"},
		"forged-smtplib":    {open, smtplib(false, "PLAIN", "bdat"), forged, "5.7.1"},
		"oversize-smtplib":  {open, smtplib(false, "PLAIN", "data"), large, "552 5.3.4"},
		"oversize-swaks":    {open, swaks("PLAIN", false), large, "552 5.3.4"},
		"oversize-curl":     {open, curl(false, "PLAIN"), large, "552 5.3.4"},
		"down-swaks":        {down, swaks("PLAIN", false), newLetter("down", plainEML), "451 4.4.1"},
		"down-msmtp":        {down, msmtp(true, "plain"), newLetter("down", plainEML), "451 4.4.1"},
		"recipient-swaks":   {refusing, swaks("PLAIN", false), newLetter("refused", plainEML), "550 5.1.1 Nobody of that name lives here"},
		"recipient-smtplib": {refusing, smtplib(false, "PLAIN", "data"), newLetter("refused", plainEML), "5.1.1 Nobody of that name lives here"},
		"full-swaks":        {full, swaks("PLAIN", false), newLetter("full", plainEML), "452 4.3.1 The disk is full"},
	} {
		t.Run(name, func(t *testing.T) {
			said, err := c.submit(t, c.site, c.letter)
			// smtplib prints a code and its text as a pair.
			said = regexp.MustCompile(`\((\d{3}), b['"]`).ReplaceAllString(said, "$1 ")
			if err == nil || !strings.Contains(said, c.want) {
				t.Errorf("%v; wanted %q in\n%s", err, c.want, said)
			}
		})
	}
	if n := len(e2e.Messages(t, filepath.Join(open.Dir, "outbox"))) + len(e2e.Messages(t, sunk)); n > 0 {
		t.Errorf("%d messages arrived although all were refused", n)
	}
}
