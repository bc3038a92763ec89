package main

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// attempt is one connection over which a site is tried.
type attempt struct {
	t    *testing.T
	conn net.Conn
	rd   *bufio.Reader
}

func (s *site) attempt(t *testing.T) *attempt {
	t.Helper()
	conn, err := tls.Dial("tcp", s.tls, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	x := &attempt{t, conn, bufio.NewReader(conn)}
	x.reply()
	x.say("EHLO laptop.example.com")
	if r := x.say("AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+siteLogin+"\x00"+sitePassword))); !strings.HasPrefix(r, "235") {
		t.Fatal(r)
	}
	return x
}

func (x *attempt) say(line string) string {
	x.t.Helper()
	if _, err := io.WriteString(x.conn, line+"\r\n"); err != nil {
		x.t.Fatal(err)
	}
	return x.reply()
}

func (x *attempt) reply() string {
	x.t.Helper()
	for {
		line, err := x.rd.ReadString('\n')
		if err != nil {
			x.t.Fatalf("%q, %v", line, err)
		}
		if len(line) < 4 || line[3] != '-' {
			return strings.TrimSpace(line)
		}
	}
}

// send submits a message of about so many octets and gives the reply to it, or the first refusal. Then it resets.
func (x *attempt) send(subject string, octets int) string {
	x.t.Helper()
	for _, line := range []string{"MAIL FROM:<" + siteAddress + ">", "RCPT TO:<bob@example.net>", "DATA"} {
		if r := x.say(line); r[0] > '3' {
			x.say("RSET")
			return r
		}
	}
	text := "From: " + siteAddress + "\r\nTo: bob@example.net\r\nSubject: " + subject + "" +
		"\r\nDate: Mon, 2 Mar 2026 09:00:00 +0100\r\nMessage-ID: <" + strings.ReplaceAll(subject, " ", ".") + "@example.com>\r\n\r\n" // in the decision log
	text += strings.Repeat(strings.Repeat("x", 62)+"\r\n", octets/64)
	if _, err := io.WriteString(x.conn, text+".\r\n"); err != nil {
		x.t.Fatal(err)
	}
	return x.reply()
}

func (x *attempt) want(what, subject string, octets int, want string) {
	x.t.Helper()
	if r := x.send(subject, octets); !strings.HasPrefix(r, want) {
		x.t.Errorf("%s: %q, want %s", what, r, want)
	}
}

// inMaildir wants so many messages in new, and nothing in tmp.
func inMaildir(t *testing.T, dir, what string, n int) {
	t.Helper()
	mails, err := os.ReadDir(filepath.Join(dir, "new"))
	left, err2 := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil || err2 != nil || len(mails) != n || len(left) != 0 {
		t.Errorf("%s: %d messages in new, want %d; %d files in tmp; %v, %v", what, len(mails), n, len(left), err, err2)
	}
}

func (s *site) metric(t *testing.T, name string) string {
	t.Helper()
	resp, err := http.Get("http://" + s.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (.*)$`).FindSubmatch(text)
	if m == nil {
		return ""
	}
	return string(m[1])
}
