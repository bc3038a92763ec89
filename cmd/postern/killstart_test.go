package main

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// killedMore is a configuration with all that a start makes and a killed program leaves behind.
const killedMore = "submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0', recent_logins: {socket: recent.sock}}\nmilter: {listen: ['unix:milter.sock']}\n" +
	"log: {format: json}\n"

// kill9 ends a program that runs.
func (r *running) kill9(t *testing.T) {
	t.Helper()
	r.cmd.Process.Kill()
	err := <-r.done
	r.done <- err
	if err == nil || err.Error() != "signal: killed" {
		text, _ := os.ReadFile(r.log)
		t.Fatalf("it ended with %v before it was killed:\n%s", err, text)
	}
}

// TestKilledAtFirstStart kills the program while it makes its certificate, its keys, its sockets and its copy of the policy, then once more
// when it runs. Each time the next start needs nobody's help, and the message that was taken stays.
func TestKilledAtFirstStart(t *testing.T) {
	t.Parallel()
	start := time.Second // how long a start takes; the first time it is measured
	seen := map[string]int{}
	for i := range (kills(t) + 1) / 2 {
		s := newSite(t, "maildir:outbox", killedMore+"decision_log: {file: decisions.jsonl, mask: {addresses: hash}}\n")
		if i > 0 {
			r := s.launch(t, "first.log")
			time.Sleep(rand.N(start * 5 / 4))
			r.kill9(t)
			s.madeBy(t, seen)
		}
		began := time.Now()
		r := s.launch(t, "second.log")
		t.Cleanup(func() { r.stop(syscall.SIGKILL) })
		s.await(t, r)
		if i == 0 {
			start = time.Since(began)
		}
		s.once(t, "after a kill", "one")
		r.kill9(t)
		r = s.launch(t, "third.log")
		t.Cleanup(func() { r.stop(syscall.SIGKILL) })
		s.await(t, r)
		s.once(t, "after another", "two")
		inMaildir(t, filepath.Join(s.dir, "outbox"), "after two kills", 2)
		if err := r.stop(syscall.SIGTERM); err != nil {
			t.Errorf("it ended with %v", err)
		}
	}
	t.Logf("a start takes %v; what was there when it was killed: %v", start.Round(time.Millisecond), seen)
}

// once submits a message over a connection of its own.
func (s *site) once(t *testing.T, what, subject string) {
	t.Helper()
	x := s.attempt(t)
	x.want(what, subject, 1000, "250 ")
	x.conn.Close()
}

// madeBy counts what a start has made so far.
func (s *site) madeBy(t *testing.T, seen map[string]int) {
	t.Helper()
	err := filepath.WalkDir(s.dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(s.dir, p)
			seen[regexp.MustCompile(`[0-9]{4,}`).ReplaceAllString(name, "*")]++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestHalvesLeftBehind starts the program in a directory in which everything that it writes is cut off, as a machine leaves it
// that goes down: it starts, mends what is its own, says what it cannot read, and loses none of the decision log's whole lines.
func TestHalvesLeftBehind(t *testing.T) {
	t.Parallel()
	s := newSite(t, "maildir:outbox", killedMore+"decision_log: {file: decisions.jsonl}\n")
	r := s.launch(t, "first.log")
	t.Cleanup(func() { r.stop(syscall.SIGKILL) })
	s.await(t, r)
	s.once(t, "at first", "one")
	decisions := filepath.Join(s.dir, "decisions.jsonl")
	for range 500 { // lines are written behind the answer
		if text, _ := os.ReadFile(decisions); bytes.Contains(text, []byte(`"stage":"message"`)) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	r.kill9(t)
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
	half(filepath.Join(s.dir, "state/decoy.key"), nil)
	for _, name := range s.keeps(t) {
		half(name, nil)
	}
	// A certificate and a key of which the renames came to the disk and the octets did not.
	for _, name := range []string{"cert.pem.new", "key.pem.new"} {
		put(t, filepath.Join(s.dir, "state/tls", name), "-----BEGIN")
	}
	put(t, filepath.Join(s.dir, "state/.users-1.yaml"), "users:\n  al")
	put(t, filepath.Join(s.dir, "outbox/tmp/1.M1P1Q1R1.here"), "Return-Path: <al")
	must(t, os.WriteFile(decisions, append(whole, whole[:200]...), 0o600))

	s.start(t)
	s.once(t, "afterwards", "two")
	if err := s.run.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if key, err := os.ReadFile(filepath.Join(s.dir, "state/decoy.key")); err != nil || len(key) != 32 {
		t.Errorf("decoy.key has %d octets, %v", len(key), err)
	}
	after, err := os.ReadFile(decisions)
	if err != nil || !bytes.HasPrefix(after, whole) || !strings.Contains(string(after), "two") {
		t.Errorf("the decision log lost whole lines, or goes on with none: %v", err)
	}
	policies, err := filepath.Abs("../../policies")
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.postern(t, "replay", "--config", "postern.yaml", "--bundle", policies, "decisions.jsonl")
	if err == nil || !regexp.MustCompile(`decisions.jsonl:`+strconv.Itoa(lines+1)+`: the JSON ends in the middle`).MatchString(out) || !strings.Contains(out, "6 decisions replayed, 6 the same") {
		t.Errorf("replay: %v\n%s", err, out)
	}
}

// keeps are the copies of the last good policy.
func (s *site) keeps(t *testing.T) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(filepath.Join(s.dir, "state"), func(p string, d os.DirEntry, err error) error {
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

// postern runs another of the program's commands in the site's directory.
func (s *site) postern(t *testing.T, args ...string) (string, error) {
	t.Helper()
	program := os.Getenv("POSTERN_BINARY")
	if program == "" {
		program = need(t, "this package's test binary", "postern")
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = s.dir
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), err
}
