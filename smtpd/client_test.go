package smtpd

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// client speaks to a server.
type client struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

// connect opens a connection; nothing has been read from it.
func (s *site) connect() *client {
	s.t.Helper()
	conn, err := s.dial()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(s.wait))
	return &client{s.t, conn, bufio.NewReader(conn)}
}

// talk opens a connection and speaks a dialogue over it.
func (s *site) talk(script string) *client {
	s.t.Helper()
	c := s.connect()
	c.talk(script)
	return c
}

// talk speaks a dialogue. Its lines are
//
//	C: line       send it; {alice:secret} is a PLAIN response, {=alice} base64
//	W: "octets"   send a Go string as it is, in one write
//	S: 250 2.1.0  want a reply that begins so, its lines joined by " | "
//	TLS           shake hands
//	EOF           want the connection closed
func (c *client) talk(script string) {
	c.t.Helper()
	for n, line := range strings.Split(script, "\n") {
		line = strings.TrimLeft(line, " \t")
		if err := c.line(line); err != nil {
			c.t.Fatalf("line %d: %s: %v", n+1, line, err)
		}
	}
}

func (c *client) line(line string) error {
	kind, rest, _ := strings.Cut(line, " ")
	switch kind {
	case "":
		return nil
	case "C:":
		return c.write(expand(rest) + "\r\n")
	case "W:":
		text, err := strconv.Unquote(rest)
		if err != nil {
			return err
		}
		return c.write(text)
	case "S:":
		got, err := c.reply()
		if err == nil && !strings.HasPrefix(got, rest) {
			err = fmt.Errorf("got %q", got)
		}
		return err
	case "TLS":
		return c.handshake()
	case "EOF":
		return c.eof()
	}
	return errors.New("unknown line")
}

func (c *client) write(text string) error {
	_, err := io.WriteString(c.conn, text)
	return err
}

func (c *client) handshake() error {
	return c.upgrade(&tls.Config{InsecureSkipVerify: true})
}

func (c *client) upgrade(config *tls.Config) error {
	if c.r.Buffered() > 0 {
		return errors.New("the server said more before the handshake")
	}
	config.DynamicRecordSizingDisabled = true // one write, one record
	conn := tls.Client(c.conn, config)
	c.conn, c.r = conn, bufio.NewReader(conn)
	return conn.Handshake()
}

// eof wants the end of the connection. A reset counts too: the kernel sends one if the client has sent octets after the end.
func (c *client) eof() error {
	b, err := c.r.ReadByte()
	switch {
	case err == nil:
		rest, _ := c.r.ReadString('\n')
		return fmt.Errorf("got %q", string(b)+rest)
	case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return nil
	}
	return err
}

var secrets = regexp.MustCompile(`\{([^{}:=]*):([^{}]*)\}|\{=([^{}]*)\}`)

func expand(line string) string {
	return secrets.ReplaceAllStringFunc(line, func(m string) string {
		text := "\x00" + strings.Replace(m[1:len(m)-1], ":", "\x00", 1)
		if m[1] == '=' {
			text = m[2 : len(m)-1]
		}
		return base64.StdEncoding.EncodeToString([]byte(text))
	})
}

// reply reads one reply and puts it on one line: code, status, and the texts of its lines joined by " | ".
func (c *client) reply() (string, error) {
	var lines []string
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("%w after %q", err, strings.Join(lines, "")+line)
		}
		lines = append(lines, line)
		if len(line) < 4 || line[3] != '-' {
			break
		}
	}
	return wellFormed(lines)
}

// statusOf is the enhanced status that a line begins with, and the space after it (RFC 3463 §2).
func statusOf(line string) string {
	word, _, more := strings.Cut(line, " ")
	if !more || len(word) < 5 || strings.Trim(word, "0123456789.") != "" || strings.Count(word, ".") != 2 || word[1] != '.' {
		return ""
	}
	return word + " "
}

// wellFormed checks a reply: RFC 5321 §4.2 and §4.5.3.1.5 for each line, and code and enhanced status on every one of
// them (RFC 2034 §4). It returns the reply on one line.
func wellFormed(lines []string) (string, error) {
	text := ""
	for i, line := range lines {
		body, ok := strings.CutSuffix(line, "\r\n")
		if !ok || len(line) > 512 || len(body) < 4 || !printable(body) {
			return "", fmt.Errorf("malformed reply line %q", line)
		}
		code, rest := body[:3], body[4:]
		if strings.Trim(code, "0123456789") != "" || code < "200" || code > "599" || code != lines[0][:3] {
			return "", fmt.Errorf("code of %q", lines)
		}
		if last := i == len(lines)-1; last != (body[3] == ' ') || !last && body[3] != '-' {
			return "", fmt.Errorf("separator of %q", line)
		}
		first := statusOf(lines[0][4:])
		if statusOf(rest) != first || first != "" && first[0] != code[0] {
			return "", fmt.Errorf("enhanced status of %q", lines)
		}
		switch {
		case i == 0:
			text = code + " " + rest
		default:
			text += " | " + rest[len(first):]
		}
	}
	return text, nil
}

// hello, envelope and message1 are parts of many dialogues.
const (
	hello = `
		S: 220 mail.example.com ESMTP
		C: EHLO client.example
		S: 250 mail.example.com
	`
	envelope = `
		C: MAIL FROM:<alice@example.com>
		S: 250 2.1.0
		C: RCPT TO:<bob@example.net>
		S: 250 2.1.5
	`
	message1 = `
		C: DATA
		S: 354
		W: "From: alice@example.com\r\n\r\none\r\n.\r\n"
		S: 250 2.0.0 Ok: queued
	`
	secure = hello + `
		C: STARTTLS
		S: 220 2.0.0
		TLS
		C: EHLO client.example
		S: 250 mail.example.com
	`
	quit = `
		C: QUIT
		S: 221 2.0.0
		EOF
	`
)
