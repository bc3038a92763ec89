package e2e

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// Client is a connection with implicit TLS to a Site. The site's user is logged in, unless it is anonymous.
type Client struct {
	T    *testing.T
	Conn net.Conn
	rd   *bufio.Reader
}

// Client connects and logs in. The connection lives for at most two minutes.
func (s *Site) Client(t *testing.T) *Client {
	t.Helper()
	c := s.Anonymous(t)
	if r := c.Say("AUTH PLAIN " + AuthPlain()); !strings.HasPrefix(r, "235") {
		t.Fatal(r)
	}
	return c
}

// Anonymous is Client without the login, for a site that asks for none.
func (s *Site) Anonymous(t *testing.T) *Client {
	t.Helper()
	conn, err := tls.Dial("tcp", s.TLS, &tls.Config{InsecureSkipVerify: true})
	testenv.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	testenv.Must(t, conn.SetDeadline(time.Now().Add(2*time.Minute)))
	c := &Client{t, conn, bufio.NewReader(conn)}
	c.reply()
	c.Say("EHLO laptop.example.com")
	return c
}

// AuthPlain returns the argument of AUTH PLAIN for the site's user.
func AuthPlain() string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + Login + "\x00" + Password))
}

// Say sends a line and returns the last line of the reply.
func (c *Client) Say(line string) string {
	c.T.Helper()
	_, err := io.WriteString(c.Conn, line+"\r\n")
	testenv.Must(c.T, err)
	return c.reply()
}

func (c *Client) reply() string {
	c.T.Helper()
	for {
		line, err := c.rd.ReadString('\n')
		if err != nil {
			c.T.Fatalf("%q, %v", line, err)
		}
		if len(line) < 4 || line[3] != '-' {
			return strings.TrimSpace(line)
		}
	}
}

// Send submits a message of about size bytes. It returns the reply to the message, or to the first command that is refused.
func (c *Client) Send(subject string, size int) string {
	c.T.Helper()
	for _, line := range []string{"MAIL FROM:<" + Address + ">", "RCPT TO:<bob@example.net>", "DATA"} {
		if r := c.Say(line); r[0] > '3' {
			c.Say("RSET")
			return r
		}
	}
	text := "From: " + Address + "\r\nTo: bob@example.net\r\nSubject: " + subject + "" +
		"\r\nDate: Mon, 2 Mar 2026 09:00:00 +0100\r\nMessage-ID: <" + strings.ReplaceAll(subject, " ", ".") + "@example.com>\r\n\r\n" // in the decision log
	text += strings.Repeat(strings.Repeat("x", 62)+"\r\n", size/64)
	_, err := io.WriteString(c.Conn, text+".\r\n")
	testenv.Must(c.T, err)
	return c.reply()
}

// Want is Send that fails the test unless the reply begins with want. what says in the failure message when it was sent.
func (c *Client) Want(what, subject string, size int, want string) {
	c.T.Helper()
	if r := c.Send(subject, size); !strings.HasPrefix(r, want) {
		c.T.Errorf("%s: %q, want %s", what, r, want)
	}
}

// Submit connects to addr with implicit TLS, logs in unless login is empty, and sends a message. It returns "sent", or the reply or
// error that ended the attempt.
func Submit(addr, login, password, from string) string {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, "tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err.Error()
	}
	c, err := smtp.NewClient(conn, "localhost")
	if err != nil {
		return err.Error()
	}
	steps := []func() error{
		func() error { return c.Mail(from) },
		func() error { return c.Rcpt("bob@example.net") },
		func() error {
			w, err := c.Data()
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "From: %s\r\nTo: bob@example.net\r\nSubject: x\r\n\r\nx\r\n", from)
			return w.Close()
		},
	}
	if login != "" {
		steps = append([]func() error{func() error { return c.Auth(smtp.PlainAuth("", login, password, "localhost")) }}, steps...)
	}
	for _, step := range steps {
		var reply *textproto.Error
		if err := step(); errors.As(err, &reply) {
			return fmt.Sprintf("%d %s", reply.Code, reply.Msg)
		} else if err != nil {
			return err.Error()
		}
	}
	return "sent"
}

// CheckMaildir wants n messages in the directory new of a Maildir, and nothing in its directory tmp.
func CheckMaildir(t testing.TB, dir, what string, n int) {
	t.Helper()
	mails, err := os.ReadDir(filepath.Join(dir, "new"))
	left, err2 := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil || err2 != nil || len(mails) != n || len(left) != 0 {
		t.Errorf("%s: %d messages in new, want %d; %d files in tmp; %v, %v", what, len(mails), n, len(left), err, err2)
	}
}
