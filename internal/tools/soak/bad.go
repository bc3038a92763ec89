package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/testload"
)

// bad runs the clients that misbehave. Each kind goes on until the context ends.
type bad struct {
	site   *site
	writer *writer
	ledger *ledger
	idle   int // number of idle connections
	pace   time.Duration
	done   counts
	wrong  counts // reactions of the server that should not be

	unplanned *counts // failures of those that begin like good clients
}

func (b *bad) run(ctx context.Context) {
	var wg sync.WaitGroup
	for what, kind := range map[string]struct {
		pace float64 // multiple of b.pace
		do   func(context.Context, *mrand.Rand) error
	}{
		"wrong password": {6, b.wrongPassword}, "slow command": {1, b.slow}, "garbage": {1, b.garbage}, "half a TLS handshake": {1, b.halfTLS},
		"closed in the middle of the data": {1, b.cut}, "endless line": {2, b.endless}, "bare LF": {1, b.bareLF}, "reset": {1, b.rst},
		"garbage to the milter": {1, b.milterGarbage}, "commands after STARTTLS": {2, b.behindStartTLS}, "closed before the reply": {2, b.deaf},
	} {
		wg.Go(func() {
			r := mrand.New(mrand.NewPCG(mrand.Uint64(), mrand.Uint64()))
			for wait(ctx, time.Duration((0.5+r.Float64())*kind.pace*float64(b.pace))) {
				if err := kind.do(ctx, r); err != nil {
					b.wrong.add(what+": "+plain(err.Error()), 1)
				}
				b.done.add(what, 1)
			}
		})
	}
	for range b.idle {
		wg.Go(func() { b.sit(ctx) })
	}
	wg.Wait()
}

// stranger returns a random loopback address, which seldom comes again.
func stranger(r *mrand.Rand) net.IP {
	return net.IPv4(127, byte(100+r.IntN(100)), byte(r.IntN(256)), byte(1+r.IntN(254)))
}

// dial connects from a random address. The connection has a deadline of one minute, and ends with ctx.
func (b *bad) dial(ctx context.Context, r *mrand.Rand, addr string) (*testload.Client, error) {
	c, err := from(stranger(r), addr, time.Minute)
	if err == nil {
		context.AfterFunc(ctx, func() { _ = c.Conn.SetDeadline(time.Now()) })
	}
	return c, err
}

// listener returns the address of a submission listener, with STARTTLS or implicit TLS.
func (b *bad) listener(r *mrand.Rand) string {
	if r.IntN(2) == 0 {
		return b.site.plain
	}
	return b.site.tls
}

// sit holds an idle connection open until the server closes it, again and again.
func (b *bad) sit(ctx context.Context) {
	// The starts are spread, so that the idle time-outs are too.
	for pause := time.Duration(mrand.Int64N(int64(15 * b.pace))); wait(ctx, pause); pause = time.Duration(mrand.Int64N(int64(10 * b.pace))) {
		c, err := from(net.IPv4(127, 0, 0, 2), b.site.plain, 10*time.Minute)
		if err != nil {
			b.wrong.add("idle: "+plain(err.Error()), 1)
			continue
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		if c.Expect(220) == nil && c.Command("EHLO idle.example.com", 250) == nil {
			_, _, _ = c.Reply() // 421 after the idle time-out
		}
		stop()
		c.Close()
		b.done.add("idle connection", 1)
	}
}

func (b *bad) wrongPassword(ctx context.Context, r *mrand.Rand) error {
	login := fmt.Sprintf("user%d", r.IntN(2*logins)) // some of them unknown
	c, err := b.dial(ctx, r, b.site.plain)
	if err != nil {
		return err
	}
	defer c.Close()
	if c.Expect(220) != nil || c.Command("EHLO bad.example.com", 250) != nil || c.StartTLS(anyCertificate) != nil ||
		c.Command("EHLO bad.example.com", 250) != nil {
		return nil
	}
	if err := c.Login(login, "guess"+login); err == nil {
		return fmt.Errorf("%s logged in with a wrong password", login)
	}
	return nil
}

// slow sends a command octet by octet and never completes it.
func (b *bad) slow(ctx context.Context, r *mrand.Rand) error {
	var wg sync.WaitGroup
	for range 5 {
		c, err := b.dial(ctx, r, b.site.plain)
		if err != nil {
			return err
		}
		seconds := 3 + r.IntN(10)
		wg.Go(func() {
			defer c.Close()
			for i := range seconds {
				if _, err := c.Conn.Write([]byte("EHLO slow.example.com"[i : i+1])); err != nil || !wait(ctx, b.pace/2) {
					return
				}
			}
		})
	}
	wg.Wait()
	return nil
}

func (b *bad) garbage(ctx context.Context, r *mrand.Rand) error {
	c, err := b.dial(ctx, r, b.listener(r))
	if err != nil {
		return err
	}
	defer c.Close()
	p := make([]byte, 1+r.IntN(20000))
	_, _ = rand.Read(p)
	_, _ = c.Conn.Write(p)
	_ = c.Conn.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = c.R.WriteTo(io.Discard)
	return nil
}

// halfTLS starts a handshake, at once or after STARTTLS, and sends no more.
func (b *bad) halfTLS(ctx context.Context, r *mrand.Rand) error {
	addr := b.listener(r)
	c, err := b.dial(ctx, r, addr)
	if err != nil {
		return err
	}
	if addr == b.site.plain {
		_ = c.Expect(220)
		_ = c.Command("EHLO bad.example.com", 250)
		_ = c.Command("STARTTLS", 220)
	}
	_, _ = c.Conn.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 1, 2, 3, 4, 5})
	wait(ctx, time.Duration(r.Int64N(int64(10*b.pace))))
	if r.IntN(2) == 0 {
		reset(c.Conn)
	}
	c.Close()
	return nil
}

func (b *bad) endless(ctx context.Context, r *mrand.Rand) error {
	c, err := b.dial(ctx, r, b.site.plain)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.Expect(220)
	_, _ = c.Conn.Write(bytes.Repeat([]byte("EHLO x"), 10_000+r.IntN(100_000)))
	_ = c.Conn.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = c.R.WriteTo(io.Discard)
	return nil
}

// rst resets the connection at some point before MAIL.
func (b *bad) rst(ctx context.Context, r *mrand.Rand) error {
	c, err := b.dial(ctx, r, b.listener(r))
	if err != nil {
		return err
	}
	if r.IntN(2) == 0 {
		_, _ = c.Conn.Write([]byte("EHLO gone.example.com\r\nNOOP\r\n"))
	}
	reset(c.Conn)
	return nil
}

// behindStartTLS pipelines commands after STARTTLS, which the server must not obey.
func (b *bad) behindStartTLS(ctx context.Context, r *mrand.Rand) error {
	c, err := b.dial(ctx, r, b.site.plain)
	if err != nil {
		return err
	}
	defer c.Close()
	if c.Expect(220) != nil || c.Command("EHLO bad.example.com", 250) != nil {
		return nil
	}
	_, _ = c.Conn.Write([]byte("STARTTLS\r\nNOOP\r\nMAIL FROM:<user0@example.com>\r\n"))
	if code, _, err := c.Reply(); err != nil || code != 220 {
		return nil
	}
	if code, _, err := c.Reply(); err == nil && code/100 == 2 {
		return fmt.Errorf("the server obeyed a plain-text command after STARTTLS: %d", code)
	}
	return nil
}

// milterGarbage sends an invalid milter frame, or closes in the middle of one.
func (b *bad) milterGarbage(_ context.Context, r *mrand.Rand) error {
	network, address := "unix", b.site.unix
	if r.IntN(2) == 0 {
		network, address = "tcp", b.site.tcp
	}
	c, err := net.DialTimeout(network, address, 30*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	negotiate := []byte{0, 0, 0, 13, 'O', 0, 0, 0, 6, 0, 0, 1, 255, 0, 31, 255, 255}
	switch r.IntN(4) {
	case 0:
		p := make([]byte, 4+r.IntN(2000))
		_, _ = rand.Read(p)
		_, _ = c.Write(p)
	case 1:
		_, _ = c.Write(binary.BigEndian.AppendUint32(negotiate, 1<<31-1))
	case 2:
		_, _ = c.Write(append(negotiate, 0, 0, 0, 100, 'M', '<'))
	case 3:
		_, _ = c.Write(negotiate[:r.IntN(len(negotiate))])
	}
	_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	_, _ = c.Read(make([]byte, 512))
	return nil
}

// begun logs in and opens a message that must not arrive.
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
	return c.Expect(250) == nil // false if the next hop fails
}

// cut closes the connection before the end of the data.
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

// bareLF sends a message with a bare LF, which the server must refuse.
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
		return fmt.Errorf("the reply to a bare LF was %d %s", got.code, got.text)
	}
	return nil
}

// deaf sends a whole message and closes before the reply. The message may arrive, but only once.
func (b *bad) deaf(_ context.Context, r *mrand.Rand) error {
	c, l, ok := b.begun(r)
	if !ok {
		return nil
	}
	defer c.Close()
	defer b.ledger.replied(l.id, 0)
	plan := l.plan
	if l.sender != c.login+"@example.com" {
		plan = pass // the envelope below has the login's own address
	}
	b.ledger.change(l.id, func(e *entry) { e.plan = plan })
	whole := append([]byte(l.head), l.body...)
	if envelope(c, l, fmt.Sprintf("BDAT %d LAST\r\n", len(whole))) {
		_, _ = c.Conn.Write(whole)
	}
	return nil
}
