package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// limited is a program that runs another with n file descriptors at most, for POSTERN_BINARY.
func limited(t *testing.T, n int) string {
	t.Helper()
	script := filepath.Join(t.TempDir(), "limited")
	put(t, script, fmt.Sprintf("#!/bin/sh\nulimit -n %d\nexec %s \"$@\"\n", n, need(t, "this package's test binary", "postern")))
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	return script
}

// TestRefusesToStart where the configured connections cannot be.
func TestRefusesToStart(t *testing.T) {
	dir := shortDir(t)
	put(t, filepath.Join(dir, "postern.yaml"), "submission: {listen: '127.0.0.1:0', require_auth: false, limits: {connections: 500}}\nauth: []\n")
	out, err := exec.Command(limited(t, 300), "serve", "--config", filepath.Join(dir, "postern.yaml")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the connections that are configured take 600 file descriptors, and 300 are allowed: raise the limit of open files") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestDescriptorsRunOut: clients that take every file descriptor there is do not end the server. Those inside are served, or deferred; the
// others wait; the log has one line of it and not a flood; and when there is room again, everybody is served.
func TestDescriptorsRunOut(t *testing.T) {
	t.Setenv("POSTERN_BINARY", limited(t, 150))
	s := startSite(t, "maildir:out", "submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0', limits: {connections_per_ip: 1000}}\n")
	inside, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	inside.SetDeadline(time.Now().Add(time.Minute))
	if err := converse(inside, "220"); err != nil {
		t.Fatal(err)
	}
	var many []net.Conn
	for range 300 {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		many = append(many, c)
		defer c.Close()
	}
	time.Sleep(2 * time.Second) // many tries to accept
	for range 20 {
		if code := say(inside, "NOOP"); code != "250" {
			t.Fatalf("who is inside hears %q", code)
		}
	}
	log, _ := os.ReadFile(s.run.log)
	if n := strings.Count(string(log), "no connection can be accepted"); n != 1 {
		t.Errorf("%d lines of it in the log", n)
	}
	for _, c := range many {
		c.Close()
	}
	i := &idler{s: s, config: clientTLS()}
	i.submit(t)
	if n := s.metrics(t)[`postern_submission_limit_hits_total{limit="file_descriptors"}`]; n < 3 {
		t.Errorf("it was counted %v times", n)
	}
	for range 100 { // the listener that had none left tries again within a second
		if log, _ = os.ReadFile(s.run.log); strings.Contains(string(log), "connections are accepted again") {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if !strings.Contains(string(log), "connections are accepted again") || strings.Count(string(log), "\n") > 100 {
		t.Errorf("the log has %d lines:\n%s", strings.Count(string(log), "\n"), log)
	}
}
