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

// bad are the clients that do what they should not. Each kind goes on until its context ends.
type bad struct {
	site   *site
	writer *writer
	ledger *ledger
	idle   int // connections that only sit there
	pace   time.Duration
	done   counts
	wrong  counts // what should not have come of it

	unplanned *counts // what became of those that begin as good clients do
}

func (b *bad) run(ctx context.Context) {
	var wg sync.WaitGroup
	for what, kind := range map[string]struct {
		pace time.Duration
		do   func(context.Context, *mrand.Rand) error
	}{
		"wrong password": {6, b.wrongPassword}, "slow command": {1, b.slow}, "garbage": {1, b.garbage}, "half a TLS handshake": {1, b.halfTLS},
		"gone in the middle of the data": {1, b.cut}, "endless line": {2, b.endless}, "bare LF": {1, b.bareLF}, "reset": {1, b.rst},
		"garbage to the milter": {1, b.milterGarbage}, "commands behind STARTTLS": {2, b.behindStartTLS}, "gone before the reply": {2, b.deaf},
	} {
		wg.Go(func() {
			r := mrand.New(mrand.NewPCG(mrand.Uint64(), mrand.Uint64()))
			for wait(ctx, time.Duration((0.5+r.Float64())*float64(kind.pace*b.pace))) {
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

// stranger is an address that is seldom seen again.
func stranger(r *mrand.Rand) net.IP {
	return net.IPv4(127, byte(100+r.IntN(100)), byte(r.IntN(256)), byte(1+r.IntN(254)))
}

// dial comes from a strange address; it all ends within a minute, and with ctx.
func (b *bad) dial(ctx context.Context, r *mrand.Rand, addr string) (*testload.Client, error) {
	c, err := from(stranger(r), addr, time.Minute)
	if err == nil {
		context.AfterFunc(ctx, func() { _ = c.Conn.SetDeadline(time.Now()) })
	}
	return c, err
}

func (b *bad) door(r *mrand.Rand) string {
	if r.IntN(2) == 0 {
		return b.site.plain
	}
	return b.site.tls
}

// sit holds a connection open until the server has had enough, and comes again.
func (b *bad) sit(ctx context.Context) {
	// Not all at once, or all would be told at once that they have been idle for too long.
	for pause := time.Duration(mrand.Int64N(int64(15 * b.pace))); wait(ctx, pause); pause = time.Duration(mrand.Int64N(int64(10 * b.pace))) {
		c, err := from(net.IPv4(127, 0, 0, 2), b.site.plain, 10*time.Minute)
		if err != nil {
			b.wrong.add("idle: "+plain(err.Error()), 1)
			continue
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		if c.Expect(220) == nil && c.Command("EHLO idle.example.com", 250) == nil {
			_, _, _ = c.Reply() // 421 when it has had enough
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
		return fmt.Errorf("%s got in with a wrong password", login)
	}
	return nil
}

// slow sends a command octet by octet and never ends it.
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
	c, err := b.dial(ctx, r, b.door(r))
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

// halfTLS begins a handshake, by itself or after STARTTLS, and goes silent.
func (b *bad) halfTLS(ctx context.Context, r *mrand.Rand) error {
	addr := b.door(r)
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

// rst comes at any point before MAIL.
func (b *bad) rst(ctx context.Context, r *mrand.Rand) error {
	c, err := b.dial(ctx, r, b.door(r))
	if err != nil {
		return err
	}
	if r.IntN(2) == 0 {
		_, _ = c.Conn.Write([]byte("EHLO gone.example.com\r\nNOOP\r\n"))
	}
	reset(c.Conn)
	return nil
}

// behindStartTLS pipelines commands that must not be obeyed.
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
		return fmt.Errorf("a command in the clear behind STARTTLS was obeyed: %d", code)
	}
	return nil
}

// milterGarbage is a frame that is none, or a connection that ends in the middle of one.
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
