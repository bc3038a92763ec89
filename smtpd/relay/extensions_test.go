package relay

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var everything = Extensions{EightBit: true, UTF8: true, DSN: true, MaxSize: 10_000_000}

// TestExtensions: what each kind of next hop is found to have, before a message went there and after.
func TestExtensions(t *testing.T) {
	for name, tt := range map[string]struct {
		s    script
		want Extensions
	}{
		"all":                        {script{}, everything},
		"LMTP":                       {script{lmtp: true}, everything},
		"none":                       {script{caps: []string{}}, Extensions{}},
		"without DSN":                {script{caps: without("DSN")}, Extensions{EightBit: true, UTF8: true, MaxSize: 10_000_000}},
		"SMTPUTF8 alone":             {script{caps: []string{"SMTPUTF8", "SIZE"}}, Extensions{}},
		"HELO only":                  {script{say: map[string]string{"EHLO": "502 5.5.1 What?\r\n", "HELO": "250-fake.example\r\n250 DSN\r\n"}}, Extensions{}},
		"told under TLS, not before": {script{tls: testCA().server("127.0.0.1")}, everything},
	} {
		t.Run(name, func(t *testing.T) {
			hop := startHop(t, tt.s)
			h := openHop(t, Options{}, hop.url)
			for range 2 {
				if got, seen := h.Extensions(t.Context()); got != tt.want || !seen {
					t.Errorf("got %+v, %v", got, seen)
				}
				if err := send(h, "X1", small); err != nil {
					t.Fatal(err)
				}
			}
			if conns, _, _, _ := hop.seen(); conns != 1 {
				t.Errorf("%d connections: that of the probe was not kept", conns)
			}
		})
	}
	if got, seen := openHop(t, Options{}, "maildir:"+t.TempDir()).Extensions(t.Context()); got != (Extensions{EightBit: true, UTF8: true}) || !seen {
		t.Errorf("Maildir: got %+v, %v", got, seen)
	}
}

// TestExtensionsChange: the last connection counts.
func TestExtensionsChange(t *testing.T) {
	hop := startHop(t, script{caps: allCaps})
	h := openHop(t, Options{Pool: Pool{MaxIdle: -1}}, hop.url)
	if got, _ := h.Extensions(t.Context()); got != everything {
		t.Errorf("got %+v", got)
	}
	hop.note(func() { hop.say = map[string]string{"EHLO": "250 fake.example\r\n"} })
	if err := send(h, "X1", small); err != nil {
		t.Fatal(err)
	}
	if got, seen := h.Extensions(t.Context()); got != (Extensions{}) || !seen {
		t.Errorf("got %+v", got)
	}
}

// TestExtensionsUnreached: a next hop that cannot be reached is asked again only after a pause, and at once known when a message got there.
func TestExtensionsUnreached(t *testing.T) {
	hop := startHop(t, script{})
	var dials atomic.Int64
	var down atomic.Bool
	var mu sync.Mutex
	now := time.Unix(1_000_000_000, 0)
	pass := func(d time.Duration) { mu.Lock(); now = now.Add(d); mu.Unlock() }
	o := Options{
		Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now },
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dials.Add(1); down.Load() {
				return nil, errors.New("down")
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	}
	want := func(h Hop, seen bool, n int64) {
		t.Helper()
		if got, ok := h.Extensions(t.Context()); ok != seen || seen != (got == everything) || dials.Load() != n {
			t.Errorf("got %+v, %v after %d dials, want %v after %d", got, ok, dials.Load(), seen, n)
		}
	}
	down.Store(true)
	h := openHop(t, o, hop.url)
	want(h, false, 1)
	pass(probePause - time.Second)
	want(h, false, 1)
	down.Store(false)
	want(h, false, 1)
	pass(time.Second)
	want(h, true, 2)

	down.Store(true)
	h = openHop(t, o, hop.url)
	want(h, false, 3)
	down.Store(false)
	if err := send(h, "X1", small); err != nil {
		t.Fatal(err)
	}
	want(h, true, 4)
}

// TestExtensionsHang: a next hop that hangs keeps callers for as long as they want to wait, and they ask one at a time.
func TestExtensionsHang(t *testing.T) {
	hop := startHop(t, script{at: func(c *fakeConn, stage string) bool { return stage == "greeting" && c.die(hangs) },
		say: map[string]string{"greeting": "220-wait\r\n"}})
	h := openHop(t, Options{}, hop.url)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if got, seen := h.Extensions(ctx); seen || got != (Extensions{}) {
				t.Errorf("got %+v, %v", got, seen)
			}
		})
	}
	all.Wait()
	if conns, _, _, _ := hop.seen(); conns != 1 {
		t.Errorf("%d connections", conns)
	}
}

// TestExtensionsOfSeveral: what all have that were reached.
func TestExtensionsOfSeveral(t *testing.T) {
	closed := "smtp://127.0.0.1:1"
	url := func(caps ...string) string { return startHop(t, script{caps: caps}).url }
	for name, tt := range map[string]struct {
		urls []string
		want Extensions
		seen bool
	}{
		"same":                  {[]string{url(allCaps...), url(allCaps...)}, everything, true},
		"intersection":          {[]string{url("8BITMIME", "DSN", "SIZE 3000"), url("8BITMIME", "SMTPUTF8", "SIZE 2000")}, Extensions{EightBit: true, MaxSize: 2000}, true},
		"the other way":         {[]string{url("8BITMIME", "SMTPUTF8", "SIZE 2000"), url("8BITMIME", "DSN", "SIZE 3000")}, Extensions{EightBit: true, MaxSize: 2000}, true},
		"one without a size":    {[]string{url("SIZE 3000"), url("SIZE 0")}, Extensions{MaxSize: 3000}, true},
		"8BITMIME is missing":   {[]string{url(allCaps...), url("SMTPUTF8", "DSN")}, Extensions{DSN: true, MaxSize: 10_000_000}, true},
		"one was never reached": {[]string{closed, url(allCaps...)}, everything, true},
		"none was ever reached": {[]string{closed, closed}, Extensions{}, false},
		"a Maildir":             {[]string{url(allCaps...), "maildir:" + t.TempDir()}, Extensions{EightBit: true, UTF8: true, MaxSize: 10_000_000}, true},
	} {
		if got, seen := openHop(t, Options{}, tt.urls...).Extensions(t.Context()); got != tt.want || seen != tt.seen {
			t.Errorf("%s: got %+v, %v", name, got, seen)
		}
	}
}
