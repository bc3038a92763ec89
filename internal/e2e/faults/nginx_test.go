package faults

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
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
	n := &nginx{t: t, dir: testenv.ShortDir(t), addr: testenv.FreeAddr(t)}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	testenv.Write(t, filepath.Join(n.dir, "nginx.conf"), fmt.Sprintf(`%s
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
	n.cmd = exec.Command(testenv.Program(n.t, "nginx-light", "nginx", "/usr/sbin/nginx"), "-p", n.dir, "-c", filepath.Join(n.dir, "nginx.conf"), "-e", filepath.Join(n.dir, "error.log"))
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
	testenv.Write(t, filepath.Join(dir, "b/postern/connect/p.rego"), "package postern.connect\n\nnote contains \""+revision+"\"\n")
	testenv.Write(t, filepath.Join(dir, "b/postern/connect/p_test.rego"), "package postern.connect_test\n\nimport data.postern.connect\n\ntest_note if connect.note == {\""+
		map[bool]string{true: revision, false: "another"}[passes]+"\"}\n")
	args := []string{"build", "--bundle", "--revision", revision, "--output", filepath.Join(dir, "out.tar.gz")}
	if key != "" {
		args = append(args, "--signing-key", key, "--signing-alg", "ES256")
	}
	path, err := testenv.StockOPA()
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

func untilActive(t *testing.T, s *e2e.Site, revision string) {
	t.Helper()
	s.UntilHealth(t, "the revision "+revision, func(h e2e.Health) bool { return h.Status == "ok" && h.Revision == revision })
}

// untilRefused waits for a refusal at a stage while another revision goes on deciding.
func untilRefused(t *testing.T, s *e2e.Site, stage, active, message string) {
	t.Helper()
	s.UntilHealth(t, "refused at "+stage+": "+message, func(h e2e.Health) bool {
		return h.Status == "degraded" && h.Revision == active && h.Refused.Stage == stage && strings.Contains(h.Refused.Findings[0].Message, message)
	})
}

// checkAddress runs `postern check` on the address of a bundle, with the site's keys.
func checkAddress(t *testing.T, s *e2e.Site, address, want string) {
	t.Helper()
	out, errs, code := s.Run(t, "check", "--config", "postern.yaml", address)
	if (code == 0) != (want == "ok") || !strings.Contains(out+errs, want) {
		t.Errorf("check %s: exit code %d\n%s%s\nwant %s", address, code, out, errs, want)
	}
}

// TestNginx follows a bundle that stock OPA builds and signs and nginx serves, through all that goes wrong on the way.
func TestNginx(t *testing.T) {
	keys := t.TempDir()
	private, public := filepath.Join(keys, "key.pem"), filepath.Join(keys, "pub.pem")
	openssl := testenv.Program(t, "openssl", "openssl")
	for _, args := range [][]string{{"ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private}, {"ec", "-in", private, "-pubout", "-out", public}} {
		if out, err := exec.Command(openssl, args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %q: %v\n%s", args, err, out)
		}
	}
	web := newNginx(t)
	web.publish(release(t, private, "one", true))
	s := e2e.StartSite(t, "maildir:outbox", fmt.Sprintf("policy: {bundle: 'http://%s/bundle.tar.gz', poll: 1s, verify: {keys: {release: {file: '%s', algorithm: ES256}}}}\n"+
		"submission: {listen: '127.0.0.1:0'}\nlog: {format: json}\n", web.addr, public))
	untilActive(t, s, "one")
	web.publish(release(t, private, "two", true))
	untilActive(t, s, "two")
	checkAddress(t, s, "http://"+web.addr+"/bundle.tar.gz", "ok")
	checkAddress(t, s, "http://"+web.addr+"/none.tar.gz", "the server answers 404 Not Found")

	web.publish(release(t, private, "three", false))
	untilRefused(t, s, "test", "two", "test_note fails")
	web.publish(release(t, "", "four", true))
	untilRefused(t, s, "signature", "two", "the bundle is not signed")
	whole := release(t, private, "five", true)
	web.publish(whole[:len(whole)/2])
	untilRefused(t, s, "read", "two", "the archive is truncated")
	if err := os.Remove(filepath.Join(web.dir, "www", "bundle.tar.gz")); err != nil {
		t.Fatal(err)
	}
	untilRefused(t, s, "read", "two", "404 Not Found")
	web.publish(whole)
	untilActive(t, s, "five")

	web.stop()
	untilRefused(t, s, "read", "five", "no connection to the server")
	if err := s.Process.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.Process.Log, s.Process.Log+".1"); err != nil {
		t.Fatal(err)
	}
	s.Start(t)
	untilRefused(t, s, "read", "five", "no connection to the server")
	web.start()
	untilActive(t, s, "five")
	web.publish(release(t, private, "six", true))
	untilActive(t, s, "six")

	log, err := os.ReadFile(filepath.Join(web.dir, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`"GET /bundle.tar.gz HTTP/1.1" 304 .*"postern"`).Match(log) {
		t.Errorf("nothing was asked for by its entity tag:\n%s", log)
	}
	text, err := os.ReadFile(s.Process.Log + ".1")
	if err != nil {
		t.Fatal(err)
	}
	for _, message := range []string{"test_note fails", "the bundle is not signed", "the archive is truncated", "404 Not Found", "no connection to the server"} {
		if n := strings.Count(string(text), message); n != 1 {
			t.Errorf("%q stands %d times in the log:\n%s", message, n, text)
		}
	}
}
