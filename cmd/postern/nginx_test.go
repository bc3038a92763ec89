package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// nginx serves one directory on loopback.
type nginx struct {
	t         *testing.T
	dir, addr string
	published int
	cmd       *exec.Cmd
	done      chan error
}

func newNginx(t *testing.T) *nginx {
	t.Helper()
	n := &nginx{t: t, dir: shortDir(t), addr: freeAddr(t)}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	put(t, filepath.Join(n.dir, "nginx.conf"), fmt.Sprintf(`%s
worker_processes 1; pid %[2]s/nginx.pid; error_log %[2]s/error.log; daemon off;
events { worker_connections 64; }
http {
  access_log %[2]s/access.log; default_type application/octet-stream;
  client_body_temp_path %[2]s/t1; proxy_temp_path %[2]s/t2; fastcgi_temp_path %[2]s/t3; uwsgi_temp_path %[2]s/t4; scgi_temp_path %[2]s/t5;
  server { listen %[3]s; root %[2]s/www; }
}
`, user, n.dir, n.addr))
	if err := os.Mkdir(filepath.Join(n.dir, "www"), 0o755); err != nil {
		t.Fatal(err)
	}
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

func (n *nginx) start() {
	n.t.Helper()
	n.cmd = exec.Command(need(n.t, "nginx-light", "nginx", "/usr/sbin/nginx"), "-p", n.dir, "-c", filepath.Join(n.dir, "nginx.conf"), "-e", filepath.Join(n.dir, "error.log"))
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.done = make(chan error, 1)
	go func() { n.done <- n.cmd.Wait() }()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if resp, err := http.Get("http://" + n.addr + "/"); err == nil {
			resp.Body.Close()
			return
		}
	}
	text, _ := os.ReadFile(filepath.Join(n.dir, "error.log"))
	n.t.Fatalf("nginx does not answer\n%s", text)
}

// stop may be called twice.
func (n *nginx) stop() {
	if n.cmd == nil {
		return
	}
	n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.done:
	case <-time.After(30 * time.Second):
		n.cmd.Process.Kill()
		<-n.done
	}
	n.cmd = nil
}

// publish puts a file in place at once, as a deployment does, with a time of its own: nginx makes its entity tags of time and size.
func (n *nginx) publish(content []byte) {
	n.t.Helper()
	name := filepath.Join(n.dir, "www", "bundle.tar.gz")
	err := os.WriteFile(name+".new", content, 0o644)
	if err == nil { // nginx's ETag is size and second: two versions within one would be the same to it
		n.published++
		at := time.Now().Add(time.Duration(n.published-100) * 10 * time.Second)
		err = os.Chtimes(name+".new", at, at)
	}
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// release is a bundle that stock OPA has built and signed. It says its revision, and whether its own test passes.
func release(t *testing.T, key, revision string, passes bool) []byte {
	t.Helper()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "b/postern/connect/p.rego"), "package postern.connect\n\nnote contains \""+revision+"\"\n")
	put(t, filepath.Join(dir, "b/postern/connect/p_test.rego"), "package postern.connect_test\n\nimport data.postern.connect\n\ntest_note if connect.note == {\""+
		map[bool]string{true: revision, false: "another"}[passes]+"\"}\n")
	args := []string{"build", "--bundle", "--revision", revision, "--output", filepath.Join(dir, "out.tar.gz")}
	if key != "" {
		args = append(args, "--signing-key", key, "--signing-alg", "ES256")
	}
	path, err := stockOPA()
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command(path, append(args, ".")...)
	build.Dir = filepath.Join(dir, "b")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("opa %q: %v\n%s", args, err, out)
	}
	content, err := os.ReadFile(filepath.Join(dir, "out.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// wellness is /healthz?verbose.
type wellness struct {
	Status, Revision string
	Refused          struct {
		Stage    string
		Findings []struct {
			File, Message string
			Line          int
		}
	} `json:"policy_refused"`
}

// untilHealth waits until the program says so.
func (s *site) untilHealth(t *testing.T, what string, ok func(wellness) bool) {
	t.Helper()
	var text []byte
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get("http://" + s.admin + "/healthz?verbose")
		if err != nil {
			t.Fatal(err)
		}
		text, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
		var h wellness
		if err == nil && json.Unmarshal(text, &h) == nil && ok(h) {
			return
		}
	}
	t.Fatalf("never %s, but at last\n%s", what, text)
}

func (s *site) untilActive(t *testing.T, revision string) {
	t.Helper()
	s.untilHealth(t, "the revision "+revision, func(h wellness) bool { return h.Status == "ok" && h.Revision == revision })
}

// untilRefused waits for a refusal at a stage while another revision goes on deciding.
func (s *site) untilRefused(t *testing.T, stage, active, message string) {
	t.Helper()
	s.untilHealth(t, "refused at "+stage+": "+message, func(h wellness) bool {
		return h.Status == "degraded" && h.Revision == active && h.Refused.Stage == stage && strings.Contains(h.Refused.Findings[0].Message, message)
	})
}

// checks runs `postern check` on an address, with the site's keys.
func (s *site) checks(t *testing.T, address, want string) {
	t.Helper()
	program := os.Getenv("POSTERN_BINARY")
	if program == "" {
		program = need(t, "this package's test binary", "postern")
	}
	out, err := exec.Command(program, "check", "--config", filepath.Join(s.dir, "postern.yaml"), address).CombinedOutput()
	if (err == nil) != (want == "ok") || !strings.Contains(string(out), want) {
		t.Errorf("check %s: %v\n%s\nwant %s", address, err, out, want)
	}
}

// TestNginx follows a bundle that stock OPA builds and signs and nginx serves, through all that goes wrong on the way.
func TestNginx(t *testing.T) {
	keys := t.TempDir()
	private, public := filepath.Join(keys, "key.pem"), filepath.Join(keys, "pub.pem")
	openssl := need(t, "openssl", "openssl")
	for _, args := range [][]string{{"ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private}, {"ec", "-in", private, "-pubout", "-out", public}} {
		if out, err := exec.Command(openssl, args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %q: %v\n%s", args, err, out)
		}
	}
	web := newNginx(t)
	web.publish(release(t, private, "one", true))
	s := startSite(t, "maildir:outbox", fmt.Sprintf("policy: {bundle: 'http://%s/bundle.tar.gz', poll: 1s, verify: {keys: {release: {file: '%s', algorithm: ES256}}}}\n"+
		"submission: {listen: '127.0.0.1:0'}\nlog: {format: json}\n", web.addr, public))
	s.untilActive(t, "one")
	web.publish(release(t, private, "two", true))
	s.untilActive(t, "two")
	s.checks(t, "http://"+web.addr+"/bundle.tar.gz", "ok")
	s.checks(t, "http://"+web.addr+"/none.tar.gz", "the server answers 404 Not Found")

	web.publish(release(t, private, "three", false))
	s.untilRefused(t, "test", "two", "test_note fails")
	web.publish(release(t, "", "four", true))
	s.untilRefused(t, "signature", "two", "the bundle is not signed")
	whole := release(t, private, "five", true)
	web.publish(whole[:len(whole)/2])
	s.untilRefused(t, "read", "two", "the archive is truncated")
	if err := os.Remove(filepath.Join(web.dir, "www", "bundle.tar.gz")); err != nil {
		t.Fatal(err)
	}
	s.untilRefused(t, "read", "two", "404 Not Found")
	web.publish(whole)
	s.untilActive(t, "five")

	web.stop()
	s.untilRefused(t, "read", "five", "no connection to the server")
	if err := s.run.stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.run.log, s.run.log+".1"); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	s.untilRefused(t, "read", "five", "no connection to the server")
	web.start()
	s.untilActive(t, "five")
	web.publish(release(t, private, "six", true))
	s.untilActive(t, "six")

	log, err := os.ReadFile(filepath.Join(web.dir, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`"GET /bundle.tar.gz HTTP/1.1" 304 .*"postern"`).Match(log) {
		t.Errorf("nothing was asked for by its entity tag:\n%s", log)
	}
	text, err := os.ReadFile(s.run.log + ".1")
	if err != nil {
		t.Fatal(err)
	}
	for _, message := range []string{"test_note fails", "the bundle is not signed", "the archive is truncated", "404 Not Found", "no connection to the server"} {
		if n := strings.Count(string(text), message); n != 1 {
			t.Errorf("%q stands %d times in the log:\n%s", message, n, text)
		}
	}
}
