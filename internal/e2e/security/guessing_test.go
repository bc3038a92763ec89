package security

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
)

// login connects to addr from an address of 127.0.0.0/8, tries one password, and returns the code of the reply to it, or of the
// one that ended the attempt before.
func login(addr, from, name, password string) string {
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 30 * time.Second}
	conn, err := tls.DialWithDialer(d, "tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return "no connection"
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(conn)
	line := ""
	for _, next := range []string{"EHLO client.example\r\n", "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+name+"\x00"+password)) + "\r\n", ""} {
		for {
			if line, err = r.ReadString('\n'); err != nil || len(line) < 4 {
				return "closed"
			}
			if line[3] != '-' {
				break
			}
		}
		if next == "" || line[0] != '2' {
			break
		}
		if _, err := conn.Write([]byte(next)); err != nil {
			return "closed"
		}
	}
	return line[:3]
}

// TestGuessesFromTheOwnersAddress sends 500 wrong passwords over 40 connections at once, from an address that has proved the login.
// Only a few are checked, other logins from that address and the owner elsewhere get in, and the metrics say why the others were
// refused.
func TestGuessesFromTheOwnersAddress(t *testing.T) {
	testenv.NotShort(t, "several seconds")
	t.Parallel()
	// The connections come faster than the default of unused_per_ip allows, which would close most of them before a guess.
	s := e2e.StartSite(t, "maildir:outbox", "submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0', limits: {unused_per_ip: 1000}}\n")
	addr := s.TLS
	const home, away = "127.5.0.1", "127.5.0.2"
	for _, from := range []string{home, away} {
		if code := login(addr, from, "alice", e2e.Password); code != "235" {
			t.Fatalf("before, from %s: %s", from, code)
		}
	}
	began := time.Now()
	jobs, codes, mu := make(chan int), map[string]int{}, sync.Mutex{}
	var group sync.WaitGroup
	for range 40 {
		group.Go(func() {
			for range jobs {
				code := login(addr, home, "alice", "guess")
				mu.Lock()
				codes[code]++
				mu.Unlock()
			}
		})
	}
	for i := range 500 {
		jobs <- i
	}
	close(jobs)
	group.Wait()
	took := time.Since(began)
	t.Logf("500 wrong passwords in %v: %v", took, codes)
	if most := 8 + int(took/(15*time.Second)) + 1; codes["535"] == 0 || codes["535"] > most || codes["535"]+codes["421"] != 500 {
		t.Errorf("%v in %v, want 535 at most %d times, and else 421", codes, took, most)
	}
	for _, c := range []struct{ from, name, password, want string }{
		{away, "alice", e2e.Password, "235"},        // where she has proved the login too
		{"127.5.0.3", "alice", e2e.Password, "235"}, // where she has not
		{home, "bob", "guess", "535"},               // another login is still checked there
	} {
		if code := login(addr, c.from, c.name, c.password); code != c.want {
			t.Errorf("afterwards %s from %s: %s, want %s", c.name, c.from, code, c.want)
		}
	}
	if got := s.Metrics(t)[`postern_submission_auth_throttled_total{reason="login_at_address"}`]; int(got) != codes["421"] {
		t.Errorf("the metric counts %v", got)
	}
	if log := testenv.Read(t, s.Process.Log); !strings.Contains(log, "login_at_address") {
		t.Error("the log does not say why")
	}
}
