package auth

import (
	"context"
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
		try, refusal := th.Begin(context.Background(), addr, login)
		if (refusal == RefusedAddress) != refused || (try == nil) != refused {
			t.Fatalf("%s: refused %q", what, refusal)
		}
		if !refused && (try.Delay < lo || try.Delay > hi) {
			t.Errorf("%s: delay %v, want %v to %v", what, try.Delay, lo, hi)
		}
		if !refused {
			try.End()
		}
	}
	const s = time.Second
	want("at first", a, "alice", 0, 0, false)
	failed(th, a, "alice")
	failed(th, a, "alice")
	want("two are free", a, "alice", 0, 0, false)
	failed(th, a, "alice")
	want("the third", a, "alice", s/2, s/2, false)
	failed(th, a, "alice")
	want("the fourth", a, "ALICE", s, s, false)
	want("the login from elsewhere", b, "alice", s, s, false)
	want("another login from there", a, "bob", s, s, false)
	want("another login from elsewhere", b, "bob", 0, 0, false)
	want("the mapped address", netip.MustParseAddr("::ffff:192.0.2.1"), "bob", s, s, false)

	succeeded(th, b, "alice")
	want("who has proved it", b, "alice", 0, 0, false)
	want("who has not", a, "alice", s, s, false)

	for range 20 {
		failed(th, a, "mallory")
	}
	want("the most", a, "x", 8*s, 8*s, true)
	want("a login is slowed, not refused", b, "mallory", 8*s, 8*s, false)
	succeeded(th, a, "alice")
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
		failed(th, six, fmt.Sprint(i))
		failed(th, web, fmt.Sprint("w", i))
		failed(th, netip.Addr{}, fmt.Sprint("u", i))
	}
	for _, c := range []struct {
		addr netip.Addr
		want bool
	}{{six, true}, {near, true}, {far, false}, {web, false}, {netip.Addr{}, false}} {
		if got := refusal(th, c.addr, "alice"); (got == RefusedAddress) != c.want {
			t.Errorf("%v refused: %q", c.addr, got)
		}
	}
	var none *Throttle
	if try, refusal := none.Begin(context.Background(), web, "x"); refusal != "" || try.Delay != 0 || try.Trusted || try.Failed() {
		t.Error("a nil Throttle throttles")
	} else {
		try.Succeeded("x")
		try.End()
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
				failed(th, a, fmt.Sprint(g, "-", i))
				succeeded(th, a, fmt.Sprint(g, "-", i))
			}
		})
	}
	group.Wait()
	if len(th.counts) > 200 || len(th.proved) > 200 || len(th.trusts) > 100 { // an address and a login each
		t.Errorf("%d counts, %d proved, %d trusted", len(th.counts), len(th.proved), len(th.trusts))
	}
	if refusal(th, a, "new") != RefusedAddress {
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
		failed(th, a, "alice")
	}
	failed(th, web.Addr().Next(), "alice")
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
		failed(th, a, "x")
		failed(th, far, "x")
	}
	first := begin(t, th, a, "x")
	begin(t, th, near, "y")
	if got := refusal(th, a, "x"); got != RefusedParallel {
		t.Errorf("the third: %q", got)
	}
	begin(t, th, far, "x")
	first.End()
	first.End() // ends nothing more
	begin(t, th, a, "x")
	if got := refusal(th, a, "x"); got != RefusedParallel {
		t.Errorf("an end counted twice: %q", got)
	}
	for range 100 {
		begin(t, th, netip.MustParseAddr("10.1.1.1"), "x") // exempt
	}
	if len(th.held) != 2 {
		t.Errorf("%d addresses are held", len(th.held))
	}
	th = &Throttle{}
	var tries []*Try
	for range 100 { // an address of which nothing has failed is not bounded
		tries = append(tries, begin(t, th, a, "x"))
	}
	for _, try := range tries {
		try.End()
	}
	if len(th.held) != 0 {
		t.Errorf("%d addresses are held", len(th.held))
	}
	for range 3 {
		failed(th, a, "x")
	}
	for i := range 6 {
		if got := refusal(th, a, "x"); (got == "") != (i < 4) {
			t.Errorf("after failures, the %d. try: %q", i+1, got)
		}
	}
	succeeded(th, a, "x")
	if !begin(t, th, a, "x").Trusted {
		t.Error("who has proved the login is held up")
	}
}

// failed and succeeded count the end of a try that is not trusted, whether it would have been refused or not.
func failed(th *Throttle, addr netip.Addr, login string) {
	(&Try{throttle: th, addr: addr, login: login}).Failed()
}

func succeeded(th *Throttle, addr netip.Addr, login string) {
	(&Try{throttle: th, addr: addr, login: login}).Succeeded(login)
}

// begin begins a try that must not be refused.
func begin(t testing.TB, th *Throttle, addr netip.Addr, login string) *Try {
	t.Helper()
	try, refusal := th.Begin(context.Background(), addr, login)
	if refusal != "" {
		t.Fatalf("%v, %q: refused because of %q", addr, login, refusal)
	}
	return try
}

// refusal begins a try and says why it was refused, if it was.
func refusal(th *Throttle, addr netip.Addr, login string) Refusal {
	_, r := th.Begin(context.Background(), addr, login)
	return r
}
