package smtpd

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/smtpd/auth"
)

// asked is a Bearer that notes when it was asked.
type asked struct {
	tokens
	users
	mu   sync.Mutex
	last time.Time
}

func (a *asked) note() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = time.Now()
}

func (a *asked) Name() string { return "asked" }

func (a *asked) Mechanisms() []string {
	return append(a.tokens.Mechanisms(), auth.Plain, auth.LoginMech)
}

func (a *asked) Password(ctx context.Context, login, password string) (auth.Identity, error) {
	a.note()
	return a.users.Password(ctx, login, password)
}

func (a *asked) Token(ctx context.Context, token string) (auth.Identity, error) {
	a.note()
	return a.tokens.Token(ctx, token)
}

// TestThrottleDelayIsWaitedFor: with each mechanism, a right and a wrong password are checked and answered after the delay, and not
// much later. The wait ends with the server.
func TestThrottleDelayIsWaitedFor(t *testing.T) {
	bearer := func(token string) string {
		return encoded("n,a=alice,\x01auth=Bearer " + token + "\x01\x01")
	}
	for name, script := range map[string]string{
		"PLAIN, wrong":       "C: AUTH PLAIN {alice:guess}\nS: 535 5.7.8",
		"PLAIN, right":       "C: AUTH PLAIN {alice:secret}\nS: 235 2.7.0",
		"LOGIN, wrong":       "C: AUTH LOGIN {=alice}\nS: 334\nC: {=guess}\nS: 535 5.7.8",
		"LOGIN, right":       "C: AUTH LOGIN {=alice}\nS: 334\nC: {=secret}\nS: 235 2.7.0",
		"OAUTHBEARER, wrong": "C: AUTH OAUTHBEARER " + bearer("guess") + "\nS: 334",
		"OAUTHBEARER, right": "C: AUTH OAUTHBEARER " + bearer("s3cr3t") + "\nS: 235 2.7.0",
		"XOAUTH2, wrong":     "C: AUTH XOAUTH2 " + encoded("user=alice\x01auth=Bearer guess\x01\x01") + "\nS: 334",
		"SCRAM, wrong":       "", "SCRAM, right": "",
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const delay = 8 * time.Second
				th := &auth.Throttle{MaxDelay: delay}
				for range 20 {
					try, _ := th.Begin(context.Background(), netip.Addr{}, "alice")
					try.Failed()
					try.End()
				}
				backend := &asked{users: users{"alice": "secret"}, tokens: tokens{"s3cr3t": "alice"}}
				s := startPipe(t, wantsAuth, func(s *Server, _ *Listener) { s.Auth, s.Throttle = []auth.Backend{backend}, th })
				if script == "" {
					s.stop()
					s = startPipe(t, wantsAuth, scramUsers(t), func(s *Server, _ *Listener) { s.Throttle = th })
				}
				c := s.talk(secure)
				begin := time.Now()
				if script != "" {
					c.talk(script)
					if wait := backend.last.Sub(begin); wait < delay || wait > delay+delay/4 {
						t.Errorf("the backend was asked after %v", wait)
					}
				} else {
					password, want := "pencil", "235"
					if strings.HasSuffix(name, "wrong") {
						password, want = "guess", "535"
					}
					if got, err := c.scram(auth.ScramSHA256, "alice", password, "", nil); err != nil || !strings.HasPrefix(got, want) {
						t.Errorf("%q, %v", got, err)
					}
				}
				if took := time.Since(begin); took < delay || took > delay+delay/4 {
					t.Errorf("the reply came after %v", took)
				}
			})
		})
	}
}

// TestShutdownEndsTheDelay: a client that waits for its delay does not hold up the end of the server.
func TestShutdownEndsTheDelay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		th := &auth.Throttle{MaxDelay: time.Hour}
		for range 20 {
			try, _ := th.Begin(context.Background(), netip.Addr{}, "alice")
			try.Failed()
			try.End()
		}
		s := startPipe(t, wantsAuth, func(s *Server, _ *Listener) { s.Throttle = th })
		c := s.talk(secure + "C: AUTH PLAIN {alice:guess}\n")
		time.Sleep(time.Second)
		begin := time.Now()
		s.stop()
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("the end took %v", took)
		}
		c.talk("S: 535 5.7.8\nS: 421")
	})
}

// TestWaitingTriesAreBounded: after failures, at most four tries of one address wait for their delay. A further one is refused at
// once, and other addresses are not held up.
func TestWaitingTriesAreBounded(t *testing.T) {
	t.Parallel()
	th := &auth.Throttle{MaxDelay: time.Hour}
	registry := prometheus.NewRegistry()
	s := start(t, wantsAuth, counts(registry), func(s *Server, _ *Listener) { s.Throttle = th })
	for range 3 {
		try, _ := th.Begin(context.Background(), netip.MustParseAddr("127.0.0.1"), "mallory")
		try.Failed()
		try.End()
	}
	replies := make(chan string, 5)
	for range 5 {
		c := s.talk(secure + "C: AUTH PLAIN {bob:guess}\n")
		go func() {
			reply, _ := c.reply()
			replies <- reply
		}()
	}
	if got := <-replies; !strings.HasPrefix(got, "421 4.7.0 Too many logins at once from your address, try again later") {
		t.Errorf("the first reply is %q", got)
	}
	select {
	case got := <-replies:
		t.Errorf("a second one is %q", got)
	case <-time.After(50 * time.Millisecond):
	}
	if got := gather(t, registry)["postern_submission_auth_throttled_total parallel"]; got != 1 {
		t.Errorf("%v were counted as too many at once", got)
	}
}

// TestGuessingAndTheOwner: guesses over many connections, in each direction, and who still gets in.
func TestGuessingAndTheOwner(t *testing.T) {
	t.Parallel()
	addr, registry := "", prometheus.NewRegistry()
	// The flood comes faster than unused_per_ip allows, because only what counts logins is tested here.
	s := start(t, wantsAuth, counts(registry), func(s *Server, l *Listener) {
		s.Limits.UnusedPerIP = 1 << 20
		s.Auth = []auth.Backend{users{"alice": "secret", "bob": "secret", "carol": "secret"}}
		s.Throttle, l.TLS = &auth.Throttle{MaxDelay: time.Nanosecond}, true
		addr = l.Addr().String()
	})
	home, away, other := net.IPv4(127, 3, 0, 1), net.IPv4(127, 3, 0, 2), net.IPv4(127, 3, 0, 3)
	in := func(from net.IP, login, what string) {
		t.Helper()
		if code, _ := tryLogin(s, addr, from, login, "secret"); code != "235" {
			t.Errorf("%s: %s", what, code)
		}
	}
	flood := func(from net.IP, login string, tries int) map[string]int {
		codes, mu := map[string]int{}, sync.Mutex{}
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				for range tries / 20 {
					code, _ := tryLogin(s, addr, from, login, "guess")
					mu.Lock()
					codes[code]++
					mu.Unlock()
				}
			})
		}
		group.Wait()
		return codes
	}
	in(home, "alice", "at first")
	in(away, "alice", "at first, elsewhere")

	began := time.Now()
	replies := flood(home, "alice", 200)
	if most := 8 + int(time.Since(began)/(15*time.Second)) + 1; replies["535"] < 8 || replies["535"] > most || replies["535"]+replies["421"] != 200 {
		t.Errorf("from an address that has proved the login: %v, want 535 at most %d times", replies, most)
	}
	if !strings.Contains(s.log.String(), "reason=login_at_address") || gather(t, registry)["postern_submission_auth_throttled_total login_at_address"] != float64(replies["421"]) {
		t.Error("log or metric does not say why")
	}
	in(home, "bob", "another login at the address that guessed at its own")
	in(away, "alice", "the owner where she proved the login")
	in(other, "alice", "the owner where she did not")

	for n := range byte(3) {
		flood(net.IPv4(127, 4, 0, n), "alice", 60)
	}
	in(away, "alice", "after guesses from elsewhere")

	replies = flood(away, "bob", 100)
	if replies["421"] == 0 || replies["535"] > 30+20 {
		t.Errorf("guesses at another login: %v", replies)
	}
	if code, _ := tryLogin(s, addr, away, "carol", "secret"); code != "421" {
		t.Errorf("a login that the guessing address has not proved: %s", code)
	}
	in(away, "alice", "the owner behind the address that guessed at another's login")
	in(home, "bob", "the owner of the login that was guessed at")
}
