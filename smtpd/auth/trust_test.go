package auth

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	home  = netip.MustParseAddr("2001:db8:0:1::7") // of alice, and of people who are no friends of hers
	home2 = netip.MustParseAddr("2001:db8:0:1::8") // in the same /64
	away  = netip.MustParseAddr("192.0.2.200")
)

// guess begins a try of a wrong password, waits for its delay by the clock, and fails. It returns why it was not checked.
func guess(th *Throttle, now *time.Time, addr netip.Addr, login string) Refusal {
	try, refusal := th.Begin(context.Background(), addr, login)
	if refusal != "" {
		return refusal
	}
	*now = now.Add(try.Delay)
	try.Failed()
	try.End()
	return ""
}

// TestGuessesFromAProvedAddress: of one login at an address that has proved it, a few wrong passwords are checked at once, ever more
// slowly, and then one each quarter of a minute. Others of the address are not held up, and neither is the login elsewhere.
func TestGuessesFromAProvedAddress(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := &Throttle{Now: func() time.Time { return now }}
	succeeded(th, home, "alice")
	succeeded(th, away, "alice")
	began, checked := now, 0
	for i, want := range []time.Duration{0, 0, 0, time.Second / 2, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second} {
		try := begin(t, th, home2, "ALICE")
		if try.Delay != want || !try.Trusted {
			t.Errorf("try %d: delay %v, want %v; trusted %v", i+1, try.Delay, want, try.Trusted)
		}
		try.Failed()
		try.End()
		checked++
	}
	for range 500 { // in five minutes
		now = now.Add(600 * time.Millisecond)
		if guess(th, &now, home, "alice") == "" {
			checked++
		} else if got := refusal(th, home, "alice"); got != RefusedPair {
			t.Fatalf("refused because of %q", got)
		}
	}
	if most := 8 + int(now.Sub(began)/(15*time.Second)) + 1; checked > most || checked < most/2 {
		t.Errorf("%d were checked in %v, want at most %d", checked, now.Sub(began), most)
	}
	// Another login at the address, and the login where it was proved, are as free as ever.
	if try := begin(t, th, home, "bob"); try.Delay != 0 || try.Trusted {
		t.Errorf("another login at the address: %+v", try)
	}
	if try := begin(t, th, away, "alice"); try.Delay != 0 || !try.Trusted {
		t.Errorf("the login elsewhere, where it was proved: %+v", try)
	}
	// Where it was not proved, the login is slowed down, and not refused.
	if try := begin(t, th, netip.MustParseAddr("203.0.113.1"), "alice"); try.Delay != 8*time.Second || try.Trusted {
		t.Errorf("the login elsewhere: %+v", try)
	}
}

// TestBucketOfAPair: one more wrong password may be checked after exactly trustRefill, and the bucket is full again after eight
// times that.
func TestBucketOfAPair(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := &Throttle{Now: func() time.Time { return now }, MaxDelay: time.Nanosecond}
	succeeded(th, home, "alice")
	count := func() (n int) {
		for guess(th, &now, home, "alice") == "" {
			n++
		}
		return n
	}
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{0, 8}, {0, 0}, {15*time.Second - time.Millisecond, 0}, {time.Millisecond, 1}, {30 * time.Second, 2}, {2 * time.Minute, 8}, {time.Hour, 8}, {-time.Hour, 0}, {time.Hour + 15*time.Second, 1}} {
		now = now.Add(step.after)
		if got := count(); got != step.want {
			t.Errorf("%v later %d are checked, want %d", step.after, got, step.want)
		}
	}
}

// TestBucketAndTheClock: a clock that goes back neither empties the bucket nor fills it.
func TestBucketAndTheClock(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := &Throttle{Now: func() time.Time { return now }, MaxDelay: time.Nanosecond}
	succeeded(th, home, "alice")
	guess(th, &now, home, "alice")
	now = now.Add(-time.Hour)
	for i := range 8 {
		if got := guess(th, &now, home, "alice"); (got == "") != (i < 7) {
			t.Errorf("the %d. after the clock went back: %q", i+1, got)
		}
	}
}

// TestTrustEndsOnce: of several tries under way, only the 50th failure is the one that ends the trust.
func TestTrustEndsOnce(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := &Throttle{Now: func() time.Time { return now }}
	succeeded(th, home, "alice")
	for range 49 {
		begin(t, th, home, "alice").Failed()
		now = now.Add(time.Minute)
	}
	first, second := begin(t, th, home, "alice"), begin(t, th, home, "alice")
	if !first.Failed() || second.Failed() {
		t.Error("not only the 50th failure ends the trust")
	}
}

// TestSuccessAndTheBucket: a success ends the delay, but does not refill the bucket, and not that of another login.
func TestSuccessAndTheBucket(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := &Throttle{Now: func() time.Time { return now }}
	succeeded(th, home, "alice")
	succeeded(th, home, "bob")
	for range 7 {
		guess(th, &now, home, "alice")
		guess(th, &now, home, "bob")
	}
	owner := begin(t, th, home, "alice")
	if owner.Delay < time.Second {
		t.Errorf("after 7 failures the delay is %v", owner.Delay)
	}
	owner.Succeeded("alice")
	owner.End()
	if try := begin(t, th, home, "alice"); try.Delay != 0 {
		t.Errorf("after a success the delay is %v", try.Delay)
	} else {
		try.End()
	}
	if try := begin(t, th, home, "bob"); try.Delay == 0 {
		t.Error("a success of one login ended the delay of another")
	} else {
		try.End()
	}
	now = now.Add(time.Hour) // the bucket is full again
	th.MaxDelay = time.Nanosecond
	for i := range 9 { // wrong and right passwords by turns
		if got := guess(th, &now, home, "alice"); (got == "") != (i < 8) {
			t.Fatalf("the %d. wrong password: %q", i+1, got)
		}
		if i < 7 {
			try := begin(t, th, home, "alice")
			try.Succeeded("alice")
			try.End()
		}
	}
}

// TestTrustEnds: after 50 wrong passwords since the last success the pair is treated like any other, and a success brings the trust
// back, with the bucket as it was. A proof counts for a day.
func TestTrustEnds(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := &Throttle{Now: func() time.Time { return now }, Refuse: 10}
	succeeded(th, home, "alice")
	for i := range 100 {
		try, refusal := th.Begin(context.Background(), home, "alice")
		if refusal != "" || !try.Trusted {
			t.Fatalf("failure %d: %q, %+v", i+1, refusal, try)
		}
		ended := try.Failed()
		try.End()
		if ended != (i == 49) {
			t.Fatalf("failure %d: trust ended %v", i+1, ended)
		}
		if ended {
			break
		}
		now = now.Add(15 * time.Second)
	}
	if byAddr, _ := th.Failures(home, "alice"); byAddr != 0 {
		t.Errorf("%d failures are counted at the address", byAddr)
	}
	for i := range 10 {
		try := begin(t, th, home, "alice")
		if try.Trusted || try.Delay == 0 {
			t.Fatalf("after the trust has ended: %+v", try)
		}
		if try.Failed() {
			t.Errorf("failure %d: the trust ended again", i)
		}
		try.End()
	}
	if got := refusal(th, home, "alice"); got != RefusedAddress {
		t.Errorf("after ten more failures: %q", got)
	}
	now = now.Add(time.Hour)
	owner := begin(t, th, home, "alice")
	owner.Succeeded("alice")
	owner.End()
	if try := begin(t, th, home, "alice"); !try.Trusted {
		t.Error("a success does not bring the trust back")
	}
	now = now.Add(24*time.Hour - time.Nanosecond)
	if try := begin(t, th, home, "alice"); !try.Trusted || !th.Proved("Alice") {
		t.Error("a proof does not count for a day")
	}
	now = now.Add(time.Nanosecond)
	if try := begin(t, th, home, "alice"); try.Trusted || th.Proved("alice") {
		t.Error("a proof counts for longer than a day")
	}
}

// TestGuessesElsewhere: guesses at the login from many addresses, and at other logins from the same address, do not hold up the
// login at an address that has proved it.
func TestGuessesElsewhere(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := &Throttle{Now: func() time.Time { return now }}
	succeeded(th, home, "alice")
	succeeded(th, away, "bob")
	for i := range 1000 {
		failed(th, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), "alice")
		failed(th, home, "bob")
	}
	if got := refusal(th, home, "bob"); got != RefusedAddress {
		t.Errorf("the address that guesses: %q", got)
	}
	for _, c := range []struct {
		addr  netip.Addr
		login string
	}{{home, "alice"}, {home2, "alice"}, {away, "bob"}} {
		if try := begin(t, th, c.addr, c.login); !try.Trusted || try.Delay != 0 {
			t.Errorf("%v, %s: %+v", c.addr, c.login, try)
		}
	}
}

// TestAliasIsTrusted: a login that the backend spells otherwise is trusted in both forms, and an attempt without a login by its
// address.
func TestAliasIsTrusted(t *testing.T) {
	th := &Throttle{}
	try := begin(t, th, home, "alice@example.com")
	try.Succeeded("alice")
	try.End()
	for login, want := range map[string]bool{"alice@example.com": true, "ALICE": true, "bob": false} {
		if got := begin(t, th, home, login).Trusted; got != want {
			t.Errorf("%s: trusted %v", login, got)
		}
		if got := th.Proved(login); got != want {
			t.Errorf("%s: proved %v", login, got)
		}
	}
}

// TestGuessesInParallel: at most eight tries of a pair are under way. Others wait for them: if those fail they are refused, and if
// they succeed all are checked.
func TestGuessesInParallel(t *testing.T) {
	for _, right := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			th := &Throttle{}
			succeeded(th, home, "alice")
			var mu sync.Mutex
			now, most, results := 0, 0, map[Refusal]int{}
			var group sync.WaitGroup
			for range 50 {
				group.Go(func() {
					try, refusal := th.Begin(context.Background(), home, "alice")
					mu.Lock()
					results[refusal]++
					mu.Unlock()
					if refusal != "" {
						return
					}
					mu.Lock()
					now++
					most = max(most, now)
					mu.Unlock()
					time.Sleep(100 * time.Millisecond) // the check
					mu.Lock()
					now--
					mu.Unlock()
					if right {
						try.Succeeded("alice")
					} else {
						try.Failed()
					}
					try.End()
				})
			}
			group.Wait()
			want := map[Refusal]int{"": 8, RefusedPair: 42}
			if right {
				want = map[Refusal]int{"": 50}
			}
			if fmt.Sprint(results) != fmt.Sprint(want) || most > 8 {
				t.Errorf("right %v: %v, at most %d at once; want %v", right, results, most, want)
			}
			if p := th.trusts[th.pair(home, "alice")]; p.checking != 0 {
				t.Errorf("%d are still under way", p.checking)
			}
		})
	}
}

// TestWaitOfAPair: the wait for others ends after ten seconds, or with the context.
func TestWaitOfAPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := &Throttle{}
		succeeded(th, home, "alice")
		for range 8 {
			begin(t, th, home, "alice")
		}
		began := time.Now()
		if got := refusal(th, home, "alice"); got != RefusedParallel || time.Since(began) != 10*time.Second {
			t.Errorf("%q after %v", got, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		began = time.Now()
		if _, got := th.Begin(ctx, home, "alice"); got != RefusedParallel || time.Since(began) != time.Second {
			t.Errorf("%q after %v", got, time.Since(began))
		}
	})
}

// TestTrustsAreBounded: a full table drops old proofs, also if the clock went back, and never the newest.
func TestTrustsAreBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	th := &Throttle{Now: func() time.Time { return now }, Entries: 10}
	for i := range 1000 {
		if i == 500 {
			now = now.Add(-48 * time.Hour)
		}
		now = now.Add(time.Second)
		succeeded(th, home, fmt.Sprint("user", i))
		if len(th.trusts) > 10 {
			t.Fatalf("%d proofs", len(th.trusts))
		}
		if !begin(t, th, home, fmt.Sprint("user", i)).Trusted {
			t.Fatalf("the newest, %d, was dropped", i)
		}
	}
}
