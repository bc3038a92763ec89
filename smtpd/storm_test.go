package smtpd

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/smtpd/auth"
)

// tryLogin connects from an address of 127.0.0.0/8, tries one password, and returns the code of the reply to it, or of the reply
// that ended the attempt before.
func tryLogin(s *site, addr string, from net.IP, login, password string) (code string, took time.Duration) {
	began := time.Now()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: time.Minute}
	raw, err := d.Dial("tcp", addr)
	if err != nil {
		return "no connection", time.Since(began)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(2 * time.Minute))
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	r := bufio.NewReader(conn)
	say := ""
	for _, next := range []string{"EHLO client.example\r\n", "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+login+"\x00"+password)) + "\r\n", ""} {
		if say != "" {
			if _, err := conn.Write([]byte(say)); err != nil {
				return "closed", time.Since(began)
			}
		}
		for {
			line, err := r.ReadString('\n')
			if err != nil || len(line) < 4 {
				return "closed", time.Since(began)
			}
			if code = line[:3]; line[3] != '-' {
				break
			}
		}
		if code[0] != '2' {
			break
		}
		say = next
	}
	return code, time.Since(began)
}

// stormSite is a server with real hashes and implicit TLS. remember is the life of its cache.
func stormSite(t testing.TB, remember time.Duration, hash string) (s *site, addr string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(path, []byte("users: {alice: '"+hash+"'}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	users, err := auth.OpenFile(path, auth.FileOptions{CacheLife: remember})
	if err != nil {
		t.Fatal(err)
	}
	s = start(t, func(s *Server, l *Listener) {
		s.Auth, s.Throttle, s.Limits, l.TLS = []auth.Backend{users}, new(auth.Throttle), Limits{}, true
		addr = l.Addr().String()
	})
	return s, addr
}

// storm sends wrong passwords from 127.1.0.1 and up, evenly over a while, and counts the replies.
func storm(s *site, addr string, addresses, tries int, over time.Duration) map[string]int {
	counts, mu := map[string]int{}, sync.Mutex{}
	var group sync.WaitGroup
	began := time.Now()
	for i := range tries {
		time.Sleep(time.Until(began.Add(over * time.Duration(i) / time.Duration(tries))))
		group.Go(func() {
			n := i % addresses
			code, _ := tryLogin(s, addr, net.IPv4(127, 1, byte(n>>8), byte(n)), fmt.Sprint("user", i%997), "guess")
			mu.Lock()
			counts[code]++
			mu.Unlock()
		})
	}
	group.Wait()
	return counts
}

// goodLogins are the times of logins of a good user, one after another with a pause, at least three, until stop.
func goodLogins(t testing.TB, s *site, addr string, stop <-chan struct{}) (took []time.Duration) {
	for {
		code, d := tryLogin(s, addr, net.IPv4(127, 2, 0, 1), "alice", "correct horse")
		if code != "235" {
			t.Errorf("the good user hears %s", code)
		}
		took = append(took, d)
		select {
		case <-stop:
			if len(took) >= 3 {
				return took
			}
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// TestLoginStorm is a small storm: no wrong password is accepted, attempts are counted, and the good user is accepted each time.
// BenchmarkLoginStorm measures how fast.
func TestLoginStorm(t *testing.T) {
	testenv.NotShort(t, "several seconds")
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("correct horse"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	s, addr := stormSite(t, -1, string(hash))
	if code, _ := tryLogin(s, addr, net.IPv4(127, 2, 0, 1), "alice", "correct horse"); code != "235" {
		t.Fatalf("before the storm: %s", code)
	}
	over, during := make(chan struct{}), make(chan []time.Duration, 1)
	go func() { during <- goodLogins(t, s, addr, over) }()
	counts := storm(s, addr, 5, 200, time.Second)
	close(over)
	if n := len(<-during); n < 3 {
		t.Errorf("the good user got in %d times", n)
	}
	total := 0
	for code, n := range counts {
		if total += n; code != "535" && code != "421" && code != "454" {
			t.Errorf("%d tries heard %s", n, code)
		}
	}
	if total != 200 || counts["535"] == 0 {
		t.Errorf("%v", counts)
	}
	guessing, _ := s.Throttle.Failures(netip.MustParseAddr("127.1.0.0"), "")
	good, _ := s.Throttle.Failures(netip.MustParseAddr("127.2.0.1"), "")
	if guessing == 0 || good != 0 {
		t.Errorf("%d failures are held against an address that guesses, %d against the good user's", guessing, good)
	}
}

// BenchmarkLoginStorm is 10,000 wrong passwords in a minute from 100 addresses, while a good user logs in again and again. Run it
// with -benchtime 1x.
func BenchmarkLoginStorm(b *testing.B) {
	hash, err := auth.HashPassword(rand.Reader, "correct horse")
	if err != nil {
		b.Fatal(err)
	}
	for name, remember := range map[string]time.Duration{"remembered": time.Minute, "asked": -1} {
		b.Run("way="+name, func(b *testing.B) {
			s, addr := stormSite(b, remember, hash)
			quiet := make(chan struct{})
			before, tries, long := 10*time.Second, 10_000, time.Minute
			if testing.Short() {
				before, tries, long = before/20, tries/50, long/50
			}
			time.AfterFunc(before, func() { close(quiet) })
			calm := goodLogins(b, s, addr, quiet)
			over, during := make(chan struct{}), make(chan []time.Duration)
			go func() { during <- goodLogins(b, s, addr, over) }()
			counts := storm(s, addr, 100, tries, long)
			close(over)
			after := <-during
			b.ReportMetric(median(calm), "quiet-p50-ms")
			b.ReportMetric(median(after), "storm-p50-ms")
			b.ReportMetric(percentile(calm, 95), "quiet-p95-ms")
			b.ReportMetric(percentile(after, 95), "storm-p95-ms")
			var list []string
			for code, n := range counts {
				list = append(list, fmt.Sprint(code, ": ", n))
			}
			slices.Sort(list)
			b.Log(strings.Join(list, ", "))
		})
	}
}

func median(d []time.Duration) float64 { return percentile(d, 50) }

func percentile(d []time.Duration, p int) float64 {
	slices.Sort(d)
	return float64(d[(len(d)-1)*p/100].Microseconds()) / 1000
}
