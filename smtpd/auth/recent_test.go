package auth

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRecentLogins(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := &RecentLogins{Now: func() time.Time { return now }}
	home, six := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::1")
	for _, n := range []string{"192.0.2.7 Alice\n", "2001:db8::1 bob", "192.0.2.7 carol\r\n", "::ffff:192.0.2.8 dora", "2001:db8::5%eth0 erik"} {
		if err := r.notice([]byte(n)); err != nil {
			t.Errorf("%q: %v", n, err)
		}
	}
	for _, n := range []string{"", " ", "alice", "192.0.2.9", "192.0.2.9 ", "192.0.2.9  alice", "192.0.2.9 a b", "192.0.2.9 a\x00", "192.0.2.9 a\n192.0.2.9 b", "0.0.0.0 alice",
		":: alice", "192.0.2.9/24 alice", "mail.example.com alice", "192.0.2.9 \xff", "192.0.2.9 " + strings.Repeat("a", 256), "192.0.2.9\talice", strings.Repeat("1", 400)} {
		if err := r.notice([]byte(n)); err == nil {
			t.Errorf("%q was taken", n)
		}
	}
	now = now.Add(9 * time.Minute)
	for addr, want := range map[netip.Addr]string{home: "carol", six: "bob", netip.MustParseAddr("192.0.2.8"): "dora", netip.MustParseAddr("2001:db8::5"): "erik",
		netip.MustParseAddr("2001:db8::2"): "", netip.MustParseAddr("192.0.2.9"): "", {}: ""} {
		login, age, ok := r.Last(addr)
		if login != want || ok != (want != "") || ok && age != 9*time.Minute {
			t.Errorf("%v: %q, %v, %v; want %q", addr, login, age, ok, want)
		}
	}
	now = now.Add(time.Minute)
	if login, _, ok := r.Last(home); ok {
		t.Errorf("%q is still remembered", login)
	}
}

func TestRecentLoginsBounded(t *testing.T) {
	r := &RecentLogins{Entries: 50}
	for i := range 10_000 {
		if err := r.Add(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), fmt.Sprint("u", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(r.last); n > 50 {
		t.Errorf("%d entries of at most 50", n)
	}
	if login, _, ok := r.Last(netip.AddrFrom4([4]byte{10, 0, 9999 >> 8, 9999 & 255})); !ok || login != "u9999" {
		t.Error("the newest was driven out")
	}
}

func TestRecentLoginsServe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "recent.sock")
	c, err := ListenRecent(path, 0o660)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Error(info.Mode(), err)
	}
	if _, err := ListenRecent(path, 0o660); err == nil {
		t.Error("a socket that is in use was taken over")
	}
	ctx, cancel := context.WithCancel(context.Background())
	r, ended := new(RecentLogins), make(chan error)
	go func() { ended <- r.Serve(ctx, c) }()
	w, err := net.Dial("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, s := range []string{"nonsense", strings.Repeat("x", 4000), "", "192.0.2.1 alice\n"} {
		if _, err := w.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	addr := netip.MustParseAddr("192.0.2.1")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if login, _, ok := r.Last(addr); ok && login == "alice" {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("the notice was not taken")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// What Close leaves behind is replaced, and what is no socket is not.
	if c, err = ListenRecent(path, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Close()
	write(t, path+".file", "x")
	if _, err := ListenRecent(path+".file", 0o600); err == nil {
		t.Error("a file was replaced")
	}
}
