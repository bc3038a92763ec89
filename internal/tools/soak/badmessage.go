package main

import (
	"bytes"
	"context"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"time"
)

// begun has logged in and begun a message that must never arrive.
func (b *bad) begun(r *mrand.Rand) (c *connection, l *letter, ok bool) {
	c, err := b.site.connect(net.IPv4(127, 0, 0, 1), fmt.Sprintf("user%d", r.IntN(logins)))
	if err != nil {
		b.unplanned.add("no connection: "+plain(err.Error()), 1)
		return nil, nil, false
	}
	l = b.writer.write(r, c.login, 1<<20)
	b.ledger.change(l.id, func(e *entry) { e.plan = never })
	return c, l, true
}

func envelope(c *connection, l *letter, last string) bool {
	_, err := fmt.Fprintf(c.Conn, "MAIL FROM:<%s@example.com>\r\nRCPT TO:<%s>\r\n%s", c.login, l.to[0], last)
	if err != nil || c.Expect(250) != nil {
		return false
	}
	return c.Expect(250) == nil // not where the hop fails
}

// cut hangs up before the end of the data.
func (b *bad) cut(_ context.Context, r *mrand.Rand) error {
	c, l, ok := b.begun(r)
	if !ok {
		return nil
	}
	defer c.Close()
	defer b.ledger.replied(l.id, 0)
	whole := append([]byte(l.head), stuffed(l.body)...)
	last := "DATA\r\n"
	if l.bdat {
		last = fmt.Sprintf("BDAT %d\r\n", len(whole))
	}
	if !envelope(c, l, last) || !l.bdat && c.Expect(354) != nil {
		return nil
	}
	_, _ = c.Conn.Write(whole[:r.IntN(len(whole))])
	if r.IntN(2) == 0 {
		_ = c.Conn.SetDeadline(time.Now())
	}
	return nil
}

// bareLF has one in the message, which refuses it for good.
func (b *bad) bareLF(_ context.Context, r *mrand.Rand) error {
	c, l, ok := b.begun(r)
	if !ok {
		return nil
	}
	defer c.Close()
	code := 0
	defer func() { b.ledger.replied(l.id, code) }()
	if !envelope(c, l, "DATA\r\n") || c.Expect(354) != nil {
		return nil
	}
	body := append([]byte("first\n.\nMAIL FROM:<user0@example.com>\r\n"), stuffed(l.body[:min(len(l.body), 2000)])...)
	if _, err := c.Conn.Write(append(append([]byte(l.head), bytes.TrimSuffix(body, []byte("\r\n"))...), "\r\n.\r\n"...)); err != nil {
		return nil
	}
	got, err := c.read()
	if code = got.code; err == nil && got.code != 554 && got.code/100 != 4 {
		return fmt.Errorf("a bare LF was answered with %d %s", got.code, got.text)
	}
	return nil
}

// deaf sends a whole message and hangs up before the reply: it may arrive, once.
func (b *bad) deaf(_ context.Context, r *mrand.Rand) error {
	c, l, ok := b.begun(r)
	if !ok {
		return nil
	}
	defer c.Close()
	defer b.ledger.replied(l.id, 0)
	plan := l.plan
	if l.sender != c.login+"@example.com" {
		plan = pass // the envelope below is the login's own
	}
	b.ledger.change(l.id, func(e *entry) { e.plan = plan })
	whole := append([]byte(l.head), l.body...)
	if envelope(c, l, fmt.Sprintf("BDAT %d LAST\r\n", len(whole))) {
		_, _ = c.Conn.Write(whole)
	}
	return nil
}
