package kill

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
)

// killedMore is a configuration with all that a start makes and a killed program leaves behind.
const killedMore = "submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0', recent_logins: {socket: recent.sock}}\nmilter: {listen: ['unix:milter.sock']}\n" +
	"log: {format: json}\n"

// TestKilledAtFirstStart kills the program while it makes its certificate, its keys, its sockets and its copy of the policy, and
// once more when it runs. Each next start succeeds without help, and the message that was accepted is still there.
func TestKilledAtFirstStart(t *testing.T) {
	t.Parallel()
	start := time.Second // how long a start takes; the first time it is measured
	seen := map[string]int{}
	for i := range kills(t, 3) {
		s := e2e.NewSite(t, "maildir:outbox", killedMore+"decision_log: {file: decisions.jsonl, mask: {addresses: hash}}\n")
		if i > 0 {
			r := s.Launch(t, "first.log")
			time.Sleep(rand.N(start * 5 / 4))
			r.Kill(t)
			madeBy(t, s, seen)
		}
		began := time.Now()
		r := s.Launch(t, "second.log")
		t.Cleanup(func() { r.Stop(syscall.SIGKILL) })
		s.Await(t, r)
		if i == 0 {
			start = time.Since(began)
		}
		once(t, s, "after a kill", "one")
		r.Kill(t)
		r = s.Launch(t, "third.log")
		t.Cleanup(func() { r.Stop(syscall.SIGKILL) })
		s.Await(t, r)
		once(t, s, "after another", "two")
		e2e.CheckMaildir(t, filepath.Join(s.Dir, "outbox"), "after two kills", 2)
		if err := r.Stop(syscall.SIGTERM); err != nil {
			t.Errorf("it ended with %v", err)
		}
	}
	t.Logf("a start takes %v; what was there when it was killed: %v", start.Round(time.Millisecond), seen)
}

// once submits a message over a connection of its own.
func once(t *testing.T, s *e2e.Site, what, subject string) {
	t.Helper()
	x := s.Client(t)
	x.Want(what, subject, 1000, "250 ")
	x.Conn.Close()
}

// madeBy counts what a start has made so far.
func madeBy(t *testing.T, s *e2e.Site, seen map[string]int) {
	t.Helper()
	err := filepath.WalkDir(s.Dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(s.Dir, p)
			seen[regexp.MustCompile(`[0-9]{4,}`).ReplaceAllString(name, "*")]++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestHalvesLeftBehind starts the program in a directory in which every file that it writes is cut off, as after a power
// failure. It starts, replaces its own files, reports what it cannot read, and loses no complete line of the decision log.
func TestHalvesLeftBehind(t *testing.T) {
	t.Parallel()
	s := e2e.NewSite(t, "maildir:outbox", killedMore+"decision_log: {file: decisions.jsonl}\n")
	r := s.Launch(t, "first.log")
	t.Cleanup(func() { r.Stop(syscall.SIGKILL) })
	s.Await(t, r)
	once(t, s, "at first", "one")
	decisions := filepath.Join(s.Dir, "decisions.jsonl")
	for range 500 { // lines are written behind the answer
		if text, _ := os.ReadFile(decisions); bytes.Contains(text, []byte(`"stage":"message"`)) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	r.Kill(t)
	whole, err := os.ReadFile(decisions)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Count(whole, []byte("\n"))
	half := func(name string, more []byte) {
		t.Helper()
		data, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(name, append(data[:len(data)/2:len(data)/2], more...), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	half(filepath.Join(s.Dir, "state/decoy.key"), nil)
	for _, name := range keeps(t, s) {
		half(name, nil)
	}
	// A certificate and a key of which the renames came to the disk and the octets did not.
	for _, name := range []string{"cert.pem.new", "key.pem.new"} {
		testenv.Write(t, filepath.Join(s.Dir, "state/tls", name), "-----BEGIN")
	}
	testenv.Write(t, filepath.Join(s.Dir, "state/.users-1.yaml"), "users:\n  al")
	testenv.Write(t, filepath.Join(s.Dir, "outbox/tmp/1.M1P1Q1R1.here"), "Return-Path: <al")
	testenv.Must(t, os.WriteFile(decisions, append(whole, whole[:200]...), 0o600))

	s.Start(t)
	once(t, s, "afterwards", "two")
	if err := s.Process.Stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if key, err := os.ReadFile(filepath.Join(s.Dir, "state/decoy.key")); err != nil || len(key) != 32 {
		t.Errorf("decoy.key has %d octets, %v", len(key), err)
	}
	after, err := os.ReadFile(decisions)
	if err != nil || !bytes.HasPrefix(after, whole) || !strings.Contains(string(after), "two") {
		t.Errorf("the decision log lost whole lines, or goes on with none: %v", err)
	}
	out, errs, code := s.Run(t, "replay", "--config", "postern.yaml", "--bundle", e2e.Path(t, "policies"), "decisions.jsonl")
	if code == 0 || !strings.Contains(out+errs, "decisions.jsonl:"+strconv.Itoa(lines+1)+": the JSON ends in the middle") || !strings.Contains(out, "6 decisions replayed, 6 the same") {
		t.Errorf("replay: exit code %d\n%s%s", code, out, errs)
	}
}

// keeps are the copies of the last good policy.
func keeps(t *testing.T, s *e2e.Site) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(filepath.Join(s.Dir, "state"), func(p string, d os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), "last-good") {
			names = append(names, p)
		}
		return err
	})
	if err != nil || len(names) != 2 {
		t.Fatalf("copies of the policy: %q, %v", names, err)
	}
	return names
}
