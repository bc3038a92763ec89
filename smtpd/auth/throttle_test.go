package auth

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"
)

func TestThrottle(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := &Throttle{Now: func() time.Time { return now }, MaxDelay: 8 * time.Second, Refuse: 10}
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	want := func(what string, addr netip.Addr, login string, lo, hi time.Duration, refused bool) {
		t.Helper()
		if d := th.Delay(addr, login); d < lo || d > hi {
			t.Errorf("%s: delay %v, want %v to %v", what, d, lo, hi)
		}
		if r := th.Refused(addr, login); r != refused {
			t.Errorf("%s: refused %v", what, r)
		}
	}
	const s = time.Second
	want("at first", a, "alice", 0, 0, false)
	th.Failed(a, "alice")
	th.Failed(a, "alice")
	want("two are free", a, "alice", 0, 0, false)
	th.Failed(a, "alice")
	want("the third", a, "alice", s/2, s/2, false)
	th.Failed(a, "alice")
	want("the fourth", a, "ALICE", s, s, false)
	want("the login from elsewhere", b, "alice", s, s, false)
	want("another login from there", a, "bob", s, s, false)
	want("another login from elsewhere", b, "bob", 0, 0, false)
	want("the mapped address", netip.MustParseAddr("::ffff:192.0.2.1"), "bob", s, s, false)

	th.Succeeded(b, "alice")
	want("who has proved it", b, "alice", 0, 0, false)
	want("who has not", a, "alice", s, s, false)

	for range 20 {
		th.Failed(a, "mallory")
	}
	want("the most", a, "x", 8*s, 8*s, true)
	want("a login is slowed, not refused", b, "mallory", 8*s, 8*s, false)
	th.Succeeded(a, "alice")
	want("an account of one's own", a, "alice", 0, 0, false)
	want("buys no guesses at others", a, "bob", 8*s, 8*s, true)

	now = now.Add(5 * time.Minute) // 24 have become 12
	want("a half-life later", a, "bob", 8*s, 8*s, true)
	now = now.Add(5 * time.Minute)
	want("another", a, "bob", 4*s, 8*s, false)
	now = now.Add(time.Hour)
	want("an hour later", a, "bob", 0, 0, false)
	now = now.Add(-2 * time.Hour) // a clock that goes back
	want("before it was counted", a, "bob", 8*s, 8*s, true)
}

func TestThrottleAddresses(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := &Throttle{Now: func() time.Time { return now }, Exempt: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	six, near, far := netip.MustParseAddr("2001:db8::1%eth0"), netip.MustParseAddr("2001:db8::ffff:1"), netip.MustParseAddr("2001:db8:0:1::1")
	web := netip.MustParseAddr("10.1.2.3")
	for i := range 40 {
		th.Failed(six, fmt.Sprint(i))
		th.Failed(web, fmt.Sprint("w", i))
		th.Failed(netip.Addr{}, fmt.Sprint("u", i))
	}
	for _, c := range []struct {
		addr netip.Addr
		want bool
	}{{six, true}, {near, true}, {far, false}, {web, false}, {netip.Addr{}, false}} {
		if got := th.Refused(c.addr, "alice"); got != c.want {
			t.Errorf("%v refused: %v", c.addr, got)
		}
	}
	var none *Throttle
	none.Failed(web, "x")
	none.Succeeded(web, "x")
	if none.Delay(web, "x") != 0 || none.Refused(web, "x") {
		t.Error("a nil Throttle throttles")
	}
}

// TestThrottleBounded: a flood of names takes no more memory than allowed, and does not drive out who is being held up.
func TestThrottleBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := &Throttle{Now: func() time.Time { return now }, Entries: 100}
	a := netip.MustParseAddr("192.0.2.1")
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			for i := range 2000 {
				th.Failed(a, fmt.Sprint(g, "-", i))
				th.Succeeded(a, fmt.Sprint(g, "-", i))
			}
		})
	}
	group.Wait()
	if len(th.counts) > 200 || len(th.proved) > 200 { // an address and a login each, a pair and a login each
		t.Errorf("%d counts, %d proved", len(th.counts), len(th.proved))
	}
	if !th.Refused(a, "new") {
		t.Error("the address that fails was driven out")
	}
}

func TestLogin(t *testing.T) {
	for in, want := range map[string]string{
		"Alice": "alice", "ÄRGER": "Ärger", "A\u0308": "Ä", "J\u030c": "\u01f0", "\u212a": "k", "a@B.Example": "a@b.example", "": "", "a b": "", "a\tb": "", "a\u202eb": "", "\xff": "",
	} {
		if got, ok := Login(in); got != want || ok != (want != "") {
			t.Errorf("Login(%q) = %q, %v; want %q", in, got, ok, want)
		}
	}
	for _, s := range []string{"\u00c4\u0041", "x", "J\u030c", "I\u0307"} {
		once, _ := Login(s)
		if twice, _ := Login(once); twice != once {
			t.Errorf("Login is not stable on %q", s)
		}
	}
}

func TestThrottleFailures(t *testing.T) {
	now := time.Unix(1e9, 0)
	web := netip.MustParsePrefix("10.0.0.0/8")
	th := &Throttle{Now: func() time.Time { return now }, HalfLife: time.Minute, Exempt: []netip.Prefix{web}}
	a, near := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	for range 8 {
		th.Failed(a, "alice")
	}
	th.Failed(web.Addr().Next(), "alice")
	for _, c := range []struct {
		addr           netip.Addr
		login          string
		after          time.Duration
		byAddr, login9 int
	}{
		{a, "alice", 0, 8, 9}, {near, "ALICE", 0, 8, 9}, {a, "bob", 0, 8, 0}, {web.Addr().Next(), "alice", 0, 0, 9}, {netip.Addr{}, "", 0, 0, 0},
		{a, "alice", time.Minute, 4, 5}, {a, "alice", time.Hour, 0, 0},
	} {
		now = now.Add(c.after)
		if byAddr, byLogin := th.Failures(c.addr, c.login); byAddr != c.byAddr || byLogin != c.login9 {
			t.Errorf("%v, %q: %d, %d; want %d, %d", c.addr, c.login, byAddr, byLogin, c.byAddr, c.login9)
		}
	}
	var none *Throttle
	if x, y := none.Failures(a, "alice"); x != 0 || y != 0 {
		t.Error(x, y)
	}
}

func TestThrottleHold(t *testing.T) {
	a, near, far := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("192.0.2.1")
	th := &Throttle{Waiting: 2, Exempt: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	for range 3 {
		th.Failed(a, "x")
		th.Failed(far, "x")
	}
	first, ok1 := th.Hold(a, "x")
	_, ok2 := th.Hold(near, "y")
	_, ok3 := th.Hold(a, "x")
	_, other := th.Hold(far, "x")
	if !ok1 || !ok2 || ok3 || !other {
		t.Errorf("%v %v %v, another address %v", ok1, ok2, ok3, other)
	}
	first()
	second, ok := th.Hold(a, "x")
	if !ok {
		t.Error("nothing was released")
	}
	second()
	for range 100 {
		if _, ok := th.Hold(netip.MustParseAddr("10.1.1.1"), "x"); !ok {
			t.Fatal("an exempt address was counted")
		}
	}
	if len(th.held) != 2 {
		t.Errorf("%d addresses are held", len(th.held))
	}
	th = &Throttle{}
	var releases []func()
	for range 100 {
		release, ok := th.Hold(a, "x")
		if !ok {
			t.Fatal("an address of which nothing has failed is bounded")
		}
		releases = append(releases, release)
	}
	for _, release := range releases {
		release()
	}
	for range 3 {
		th.Failed(a, "x")
	}
	for i := range 6 {
		if _, ok := th.Hold(a, "x"); ok != (i < 4) {
			t.Errorf("after failures, the %d. try: %v", i+1, ok)
		}
	}
	th.Succeeded(a, "x")
	if _, ok := th.Hold(a, "x"); !ok {
		t.Error("who has proved the login is held up")
	}
	var none *Throttle
	release, ok := none.Hold(a, "x")
	if release(); !ok {
		t.Error("a nil Throttle holds")
	}
}
