package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// load is one run: count messages of size octets over workers at a time, keep messages on a connection (1: a new
// connection each).
type load struct {
	addr        string
	tls         *tls.Config // nil: in the clear
	login, pass string      // "": no AUTH
	from        string
	recipients  int
	count, keep int
	workers     int
	message     []byte // dot-stuffed, ending in CRLF
}

// measured is what a run gave.
type measured struct {
	Messages int           `json:"messages"`
	Errors   int           `json:"errors"`
	First    string        `json:"first_error,omitempty"`
	Elapsed  time.Duration `json:"elapsed_ns"`
	P50      time.Duration `json:"p50_ns"`
	P99      time.Duration `json:"p99_ns"`
}

// PerSecond is messages a second.
func (m measured) PerSecond() float64 { return float64(m.Messages) / m.Elapsed.Seconds() }

// run sends and measures; a message's latency is from MAIL (or the dial, where every message has its own connection) to
// the reply to its end.
func (l load) run() measured {
	var left atomic.Int64
	left.Store(int64(l.count))
	var mu sync.Mutex
	var all []time.Duration
	out := measured{}
	var wg sync.WaitGroup
	start := time.Now()
	for range l.workers {
		wg.Go(func() {
			for left.Load() > 0 {
				times, err := l.connection(&left)
				mu.Lock()
				all = append(all, times...)
				if err != nil {
					out.Errors++
					if out.First == "" {
						out.First = err.Error()
					}
				}
				stop := out.Errors > 20
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	wg.Wait()
	out.Elapsed, out.Messages = time.Since(start), len(all)
	slices.Sort(all)
	if n := len(all); n > 0 {
		out.P50, out.P99 = all[n/2], all[n*99/100]
	}
	return out
}

// connection submits up to l.keep messages over one connection.
func (l load) connection(left *atomic.Int64) (times []time.Duration, err error) {
	start := time.Now()
	c, err := l.open()
	if err != nil {
		return nil, err
	}
	defer c.conn.Close()
	for i := 0; i < l.keep && left.Add(-1) >= 0; i++ {
		if i > 0 {
			start = time.Now()
		}
		if err := c.submit(l); err != nil {
			return times, err
		}
		times = append(times, time.Since(start))
	}
	_, err = c.command("QUIT", 221)
	return times, err
}

type client struct {
	conn net.Conn
	r    *bufio.Reader
}

func (l load) open() (*client, error) {
	conn, err := net.DialTimeout("tcp", l.addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	c := &client{conn, bufio.NewReader(conn)}
	if err := c.greet(l); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *client) greet(l load) error {
	if err := c.expect(220); err != nil {
		return err
	}
	if _, err := c.command("EHLO bench.example.com", 250); err != nil {
		return err
	}
	if l.tls != nil {
		if _, err := c.command("STARTTLS", 220); err != nil {
			return err
		}
		t := tls.Client(c.conn, l.tls)
		if err := t.Handshake(); err != nil {
			return err
		}
		c.conn, c.r = t, bufio.NewReader(t)
		if _, err := c.command("EHLO bench.example.com", 250); err != nil {
			return err
		}
	}
	if l.login == "" {
		return nil
	}
	token := base64.StdEncoding.EncodeToString([]byte("\x00" + l.login + "\x00" + l.pass))
	_, err := c.command("AUTH PLAIN "+token, 235)
	return err
}

func (c *client) submit(l load) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "MAIL FROM:<%s>\r\n", l.from)
	for i := range l.recipients {
		fmt.Fprintf(&b, "RCPT TO:<r%d@example.net>\r\n", i)
	}
	b.WriteString("DATA\r\n")
	if _, err := c.conn.Write(b.Bytes()); err != nil {
		return err
	}
	for range 1 + l.recipients {
		if err := c.expect(250); err != nil {
			return err
		}
	}
	if err := c.expect(354); err != nil {
		return err
	}
	if _, err := c.conn.Write(append(l.message, ".\r\n"...)); err != nil {
		return err
	}
	return c.expect(250)
}

func (c *client) command(line string, code int) (string, error) {
	if _, err := c.conn.Write([]byte(line + "\r\n")); err != nil {
		return "", err
	}
	return "", c.expect(code)
}

func (c *client) expect(code int) error {
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return err
		}
		if !strings.HasPrefix(line, fmt.Sprint(code)) {
			return fmt.Errorf("wanted %d, got %s", code, strings.TrimSpace(line))
		}
		if len(line) > 3 && line[3] == ' ' {
			return nil
		}
	}
}

// sample makes a message of about size octets with 12 header fields.
func sample(from string, size int) []byte {
	var b bytes.Buffer
	for i := range 5 {
		fmt.Fprintf(&b, "X-Bench-%d: value of field %d, nothing special\r\n", i, i)
	}
	fmt.Fprintf(&b, "From: Bench <%s>\r\nTo: <r0@example.net>\r\nSubject: benchmark\r\n", from)
	b.WriteString("Date: Mon, 01 Jun 2026 11:59:00 +0000\r\nMessage-ID: <bench@bench.example.com>\r\n")
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n")
	line := strings.Repeat("0123456789", 7) + "\r\n"
	for b.Len() < size {
		b.WriteString(line)
	}
	return b.Bytes()
}
