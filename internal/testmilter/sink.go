package testmilter

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// Mail is one message that arrived at a Sink.
type Mail struct {
	From string // argument of MAIL FROM:, parameters included
	To   []string
	Data []byte // CRLF line ends, dots unstuffed
}

// Sink is a next hop that takes everything.
type Sink struct {
	Addr string
	Mail chan Mail
	ln   net.Listener
}

// StartSink listens on loopback until the test ends. Each connection has a goroutine, which ends with it or 30 s later.
func StartSink(t testing.TB) *Sink {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	testenv.Must(t, err)
	s := &Sink{Addr: ln.Addr().String(), Mail: make(chan Mail, 1000), ln: ln}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go s.serve(c)
		}
	}()
	t.Cleanup(func() { _ = ln.Close() })
	return s
}

func (s *Sink) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	tp := textproto.NewConn(c)
	_ = tp.PrintfLine("220 sink ESMTP")
	var m Mail
	for {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		line, err := tp.ReadLine()
		if err != nil {
			return
		}
		verb, arg, _ := strings.Cut(line, ":")
		reply := "250 ok"
		switch strings.ToUpper(strings.Fields(verb + " x")[0]) {
		case "EHLO":
			reply = "250-sink\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 SIZE 0"
		case "MAIL":
			m = Mail{From: arg}
		case "RCPT":
			m.To = append(m.To, arg)
		case "DATA":
			_ = tp.PrintfLine("354 go on")
			data, err := readData(tp.R)
			if err != nil {
				return
			}
			m.Data = data
			s.Mail <- m
		case "QUIT":
			_ = tp.PrintfLine("221 bye")
			return
		}
		_ = tp.PrintfLine("%s", reply)
	}
}

// readData reads octet by octet what textproto would read with its line ends changed.
func readData(r *bufio.Reader) ([]byte, error) {
	var b []byte
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		if string(line) == ".\r\n" {
			return b, nil
		}
		if line[0] == '.' {
			line = line[1:]
		}
		b = append(b, line...)
	}
}

// Next is the next message to arrive.
func (s *Sink) Next(t testing.TB) Mail {
	t.Helper()
	select {
	case m := <-s.Mail:
		return m
	case <-time.After(30 * time.Second):
		t.Fatal("no message arrived")
		return Mail{}
	}
}

// Client is an SMTP client that sends given lines and returns the replies unchanged.
type Client struct {
	t  testing.TB
	c  net.Conn
	tp *textproto.Conn
}

// DialSMTP connects and reads the greeting.
func DialSMTP(t testing.TB, addr string) *Client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	// Postfix opens its ports one after the other, so that the last may still be closed when the first answers.
	for end := time.Now().Add(10 * time.Second); errors.Is(err, syscall.ECONNREFUSED) && time.Now().Before(end); c, err = net.Dial("tcp", addr) {
		time.Sleep(20 * time.Millisecond)
	}
	testenv.Must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	x := &Client{t: t, c: c, tp: textproto.NewConn(c)}
	if got := x.read(); !strings.HasPrefix(got, "220") {
		t.Fatalf("greeted with %q", got)
	}
	return x
}

// Say sends a line and returns the reply, its lines joined by "\n".
func (x *Client) Say(format string, args ...any) string {
	x.t.Helper()
	testenv.Must(x.t, x.tp.PrintfLine(format, args...))
	return x.read()
}

// Want is Say that ends the test unless the reply begins with want.
func (x *Client) Want(want, format string, args ...any) {
	x.t.Helper()
	if got := x.Say(format, args...); !strings.HasPrefix(got, want) {
		x.t.Fatalf("%s was answered %q, want %q", fmt.Sprintf(format, args...), got, want)
	}
}

// Data sends DATA and a message with CRLF line ends, and returns the last reply.
func (x *Client) Data(eml []byte) string {
	x.t.Helper()
	if got := x.Say("DATA"); !strings.HasPrefix(got, "354") {
		return got
	}
	text := strings.ReplaceAll("\r\n"+string(eml), "\r\n.", "\r\n..")[2:]
	_, err := x.c.Write([]byte(text + ".\r\n"))
	testenv.Must(x.t, err)
	return x.read()
}

// StartTLS goes on under TLS, without looking at the certificate.
func (x *Client) StartTLS() {
	x.t.Helper()
	x.Want("220", "STARTTLS")
	tc := tls.Client(x.c, &tls.Config{InsecureSkipVerify: true})
	testenv.Must(x.t, tc.Handshake())
	x.c, x.tp = tc, textproto.NewConn(tc)
}

// Login authenticates with PLAIN.
func (x *Client) Login(user, password string) {
	x.t.Helper()
	x.Want("235", "AUTH PLAIN %s", base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password)))
}

func (x *Client) read() string {
	x.t.Helper()
	_ = x.c.SetDeadline(time.Now().Add(30 * time.Second))
	var lines []string
	for {
		line, err := x.tp.ReadLine()
		if err != nil {
			x.t.Fatalf("after %q: %v", lines, err)
		}
		lines = append(lines, line)
		if len(line) < 4 || line[3] != '-' {
			return strings.Join(lines, "\n")
		}
	}
}
