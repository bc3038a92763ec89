package testload

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Client is one side of an SMTP dialogue. Nothing of it checks certificates.
type Client struct {
	Conn net.Conn
	R    *bufio.Reader
}

// Dial connects and gives all that follows so much time.
func Dial(addr string, within time.Duration) (*Client, error) {
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		return nil, err
	}
	return NewClient(conn), nil
}

// NewClient speaks over conn.
func NewClient(conn net.Conn) *Client { return &Client{conn, bufio.NewReader(conn)} }

// Close hangs up.
func (c *Client) Close() error { return c.Conn.Close() }

// StartTLS says STARTTLS and shakes hands.
func (c *Client) StartTLS(conf *tls.Config) error {
	if err := c.Command("STARTTLS", 220); err != nil {
		return err
	}
	t := tls.Client(c.Conn, conf)
	if err := t.Handshake(); err != nil {
		return err
	}
	c.Conn, c.R = t, bufio.NewReader(t)
	return nil
}

// Login says AUTH PLAIN and wants it to succeed.
func (c *Client) Login(login, password string) error {
	return c.Command("AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+login+"\x00"+password)), 235)
}

// Command says line and wants the reply code.
func (c *Client) Command(line string, code int) error {
	if _, err := c.Conn.Write([]byte(line + "\r\n")); err != nil {
		return err
	}
	return c.Expect(code)
}

// Expect reads a reply and wants its code.
func (c *Client) Expect(code int) error {
	got, text, err := c.Reply()
	if err == nil && got != code {
		err = fmt.Errorf("wanted %d, got %d %s", code, got, text)
	}
	return err
}

// Reply reads a reply; text is its last line behind the code.
func (c *Client) Reply() (code int, text string, err error) {
	for {
		line, err := c.R.ReadString('\n')
		if err != nil {
			return 0, "", err
		}
		if len(line) < 4 {
			return 0, "", fmt.Errorf("%q is no reply", line)
		}
		if code, err = strconv.Atoi(line[:3]); err != nil {
			return 0, "", fmt.Errorf("%q is no reply", line)
		}
		if line[3] != '-' {
			return code, strings.TrimSpace(line[4:]), nil
		}
	}
}
