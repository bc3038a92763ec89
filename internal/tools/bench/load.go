package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/testload"
)

// load describes one run: count messages over a number of workers, each with one connection at a time that carries keep
// messages (1: a new connection for each message).
type load struct {
	addr        string
	tls         *tls.Config // nil: no TLS
	login, pass string      // "": no AUTH
	from        string
	recipients  int
	count, keep int
	workers     int
	message     []byte // dot-stuffed, with the final dot
	once        bool   // stop at the first error; Dovecot, for example, delays each reply to a wrong password more

	envelope []byte // the commands from MAIL to DATA, sent in one write
}

// timeout is the time for a dialogue up to the login, and for each message.
const timeout = 2 * time.Minute

// measured is the result of a run.
type measured struct {
	Messages int           `json:"messages"`
	Errors   int           `json:"errors"`
	First    string        `json:"first_error,omitempty"`
	Elapsed  time.Duration `json:"elapsed_ns"`
	P50      time.Duration `json:"p50_ns"`
	P99      time.Duration `json:"p99_ns"`
}

// PerSecond returns messages a second.
func (m measured) PerSecond() float64 { return float64(m.Messages) / m.Elapsed.Seconds() }

// run sends the messages and measures. The latency of a message runs from MAIL, or from the dial for the first message of a
// connection, to the reply after the message.
func (l load) run() measured {
	l.envelope = l.commands()
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
				stop := out.Errors > 20 || l.once && err != nil
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

// connection submits up to l.keep messages over one connection and returns their latencies.
func (l load) connection(left *atomic.Int64) (times []time.Duration, err error) {
	start := time.Now()
	c, err := l.open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for i := 0; i < l.keep && left.Add(-1) >= 0; i++ {
		if i > 0 {
			start = time.Now()
		}
		if err := l.submit(c); err != nil {
			return times, err
		}
		times = append(times, time.Since(start))
	}
	return times, c.Command("QUIT", 221)
}

func (l load) open() (*testload.Client, error) {
	c, err := testload.Dial(l.addr, timeout)
	if err != nil {
		return nil, err
	}
	if err := l.greet(c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (l load) greet(c *testload.Client) error {
	if err := c.Expect(220); err != nil {
		return err
	}
	if err := c.Command("EHLO bench.example.com", 250); err != nil {
		return err
	}
	if l.tls != nil {
		if err := c.StartTLS(l.tls); err != nil {
			return err
		}
		if err := c.Command("EHLO bench.example.com", 250); err != nil {
			return err
		}
	}
	if l.login == "" {
		return nil
	}
	return c.Login(l.login, l.pass)
}

// commands returns the commands of a message, from MAIL to DATA.
func (l load) commands() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "MAIL FROM:<%s>\r\n", l.from)
	for i := range l.recipients {
		fmt.Fprintf(&b, "RCPT TO:<r%d@example.net>\r\n", i)
	}
	b.WriteString("DATA\r\n")
	return b.Bytes()
}

func (l load) submit(c *testload.Client) error {
	if err := c.Conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := c.Conn.Write(l.envelope); err != nil {
		return err
	}
	for range 1 + l.recipients {
		if err := c.Expect(250); err != nil {
			return err
		}
	}
	if err := c.Expect(354); err != nil {
		return err
	}
	if _, err := c.Conn.Write(l.message); err != nil {
		return err
	}
	return c.Expect(250)
}

// sample returns a message of about size octets with 12 header fields.
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
	b.WriteString(".\r\n")
	return b.Bytes()
}
