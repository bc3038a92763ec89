package load

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
)

// limited writes a script that runs the program with at most n file descriptors, and returns its path.
func limited(t *testing.T, n int) string {
	t.Helper()
	testenv.NotShort(t, "the built program")
	script := filepath.Join(t.TempDir(), "limited")
	testenv.Write(t, script, fmt.Sprintf("#!/bin/sh\nulimit -n %d\nexec %s \"$@\"\n", n, e2e.Binary(t)))
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	return script
}

// TestRefusesToStart: the program does not start where the configured connections need more file descriptors than it may open.
func TestRefusesToStart(t *testing.T) {
	dir := testenv.ShortDir(t)
	testenv.Write(t, filepath.Join(dir, "postern.yaml"), "submission: {listen: '127.0.0.1:0', require_auth: false, limits: {connections: 500}}\nauth: []\n")
	out, err := exec.Command(limited(t, 300), "serve", "--config", filepath.Join(dir, "postern.yaml")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the connections that are configured take 600 file descriptors, and 300 are allowed: raise the limit of open files") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestDescriptorsRunOut: clients that use up every file descriptor do not end the server. Connected clients are served or
// deferred, the others wait, the log has one line about it, and everyone is served once there are descriptors again.
func TestDescriptorsRunOut(t *testing.T) {
	t.Parallel()
	program := limited(t, 150)
	s := e2e.StartSite(t, "maildir:out", "submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0', limits: {connections_per_ip: 1000}}\n",
		func(cmd *exec.Cmd) { cmd.Path = program })
	inside, err := net.Dial("tcp", s.Addr)
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
		c, err := net.Dial("tcp", s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		many = append(many, c)
		defer c.Close()
	}
	time.Sleep(2 * time.Second) // many tries to accept
	for range 20 {
		if code := say(inside, "NOOP"); code != "250" {
			t.Fatalf("the connected client gets the reply %q", code)
		}
	}
	log, _ := os.ReadFile(s.Process.Log)
	if n := strings.Count(string(log), "no connection can be accepted"); n != 1 {
		t.Errorf("%d lines of it in the log", n)
	}
	for _, c := range many {
		c.Close()
	}
	newDialer(s).submit(t)
	if n := s.Metrics(t)[`postern_submission_limit_hits_total{limit="file_descriptors"}`]; n < 3 {
		t.Errorf("it was counted %v times", n)
	}
	for range 100 { // the listener that had none left tries again within a second
		if log, _ = os.ReadFile(s.Process.Log); strings.Contains(string(log), "connections are accepted again") {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if !strings.Contains(string(log), "connections are accepted again") || strings.Count(string(log), "\n") > 100 {
		t.Errorf("the log has %d lines:\n%s", strings.Count(string(log), "\n"), log)
	}
}
