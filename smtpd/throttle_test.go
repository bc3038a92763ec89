package smtpd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
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

// TestTriesAreEnded: tries one after another are never too many at once, whether they fail or succeed.
func TestTriesAreEnded(t *testing.T) {
	t.Parallel()
	s := start(t, wantsAuth, func(s *Server, _ *Listener) { s.Throttle = &auth.Throttle{MaxDelay: time.Nanosecond} })
	for range 10 {
		s.talk(secure + "C: AUTH PLAIN {alice:guess}\nS: 535 5.7.8" + quit)
	}
	for range 20 { // more than may be under way of a login at an address that has proved it
		s.talk(secure + "C: AUTH PLAIN {alice:secret}\nS: 235 2.7.0" + quit)
	}
}

// TestEndOfTrustIsLogged: after 50 wrong passwords the log says that the address is no longer trusted with the login.
func TestEndOfTrustIsLogged(t *testing.T) {
	t.Parallel()
	var minutes atomic.Int64
	now := func() time.Time { return time.Unix(1e9, 0).Add(time.Duration(minutes.Load()) * time.Minute) }
	s := start(t, wantsAuth, limits(func(l *Limits) { l.AuthFailures, l.Errors, l.Commands = 1000, 1000, 1000 }), func(s *Server, _ *Listener) {
		s.Throttle = &auth.Throttle{MaxDelay: time.Nanosecond, Now: now}
	})
	s.talk(secure + "C: AUTH PLAIN {alice:secret}\nS: 235 2.7.0" + quit)
	const text = "the address is no longer trusted with the login"
	c := s.talk(secure)
	for range 49 {
		minutes.Add(1)
		c.talk("C: AUTH PLAIN {alice:guess}\nS: 535 5.7.8")
	}
	if strings.Contains(s.log.String(), text) {
		t.Error("the log says too early that the trust has ended")
	}
	c.talk("C: AUTH PLAIN {alice:guess}\nS: 535 5.7.8")
	if strings.Count(s.log.String(), text) != 1 {
		t.Error("the log does not say that the trust has ended")
	}
}

// TestTrustReachesTheBackend: a backend that has no room for strangers still checks a login that its address has proved.
func TestTrustReachesTheBackend(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(path, []byte("users:\n  alice: \""+scramLine()+"\"\n  bob: \""+scramLine()+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := auth.OpenFile(path, auth.FileOptions{Queue: -1, CacheLife: -1})
	if err != nil {
		t.Fatal(err)
	}
	th := new(auth.Throttle)
	try, _ := th.Begin(t.Context(), netip.MustParseAddr("127.0.0.1"), "alice")
	try.Succeeded("alice")
	try.End()
	s := start(t, wantsAuth, func(s *Server, _ *Listener) { s.Auth, s.Throttle = []auth.Backend{f}, th })
	s.talk(secure + "C: AUTH PLAIN {bob:pencil}\nS: 454 4.7.0" + quit)
	s.talk(secure + "C: AUTH PLAIN {alice:pencil}\nS: 235 2.7.0" + quit)
}

// TestPauseVaries: the reply to a failed login comes after its delay and up to a quarter more, which is not always the same.
func TestPauseVaries(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := startPipe(t, wantsAuth, limits(func(l *Limits) { l.AuthDelay, l.AuthFailures = time.Second, 1 }))
		seen := map[time.Duration]bool{}
		for range 5 {
			c := s.talk(secure)
			begin := time.Now()
			c.talk("C: AUTH PLAIN {alice:guess}\nS: 421 4.7.0")
			seen[time.Since(begin)] = true
		}
		if len(seen) < 2 {
			t.Errorf("each reply came after %v", seen)
		}
	})
}

// lenient is a backend that accepts every password for alice, also under her alias. Of the login "both" it says that the password is
// wrong and that it could not be checked.
type lenient struct{}

func (lenient) Name() string { return "lenient" }

func (lenient) Password(_ context.Context, login, _ string) (auth.Identity, error) {
	if login == "both" {
		return auth.Identity{}, errors.Join(auth.ErrCredentials, auth.ErrUnavailable)
	}
	return auth.Identity{Login: "alice", Backend: "lenient"}, nil
}

// TestWhatIsAskedAndBelieved: no backend is asked about an empty or endless password, an error that says both is no failure, and a
// client may act as the login that it claims, also where the backend spells it otherwise.
func TestWhatIsAskedAndBelieved(t *testing.T) {
	t.Parallel()
	s := start(t, wantsAuth, limits(func(l *Limits) { l.AuthFailures = 100 }), func(s *Server, _ *Listener) { s.Auth = []auth.Backend{lenient{}} })
	long := strings.Repeat("x", auth.MaxPassword)
	s.talk(secure + "C: AUTH PLAIN {alice:}\nS: 535 5.7.8\nC: AUTH PLAIN {alice:" + long + "x}\nS: 535 5.7.8\nC: AUTH PLAIN {both:x}\nS: 454 4.7.0\n" +
		"C: AUTH PLAIN {alice:" + long + "}\nS: 235 2.7.0" + quit)
	s.talk(secure + "C: AUTH PLAIN {=alias\x00alias\x00x}\nS: 235 2.7.0" + quit)
	s.talk(secure + "C: AUTH PLAIN {=ceo\x00alias\x00x}\nS: 535 5.7.8" + quit)
}

// TestUnavailableIsAnError: tries that could not be checked count as errors of the connection, which so has an end.
func TestUnavailableIsAnError(t *testing.T) {
	t.Parallel()
	s := start(t, wantsAuth, limits(func(l *Limits) { l.Errors = 3 }), func(s *Server, _ *Listener) { s.Auth = []auth.Backend{unavailable{}} })
	s.talk(secure + strings.Repeat("C: AUTH PLAIN {alice:x}\nS: 454 4.7.0\n", 4) + "S: 421 4.7.0 Too many errors\nEOF")
}
