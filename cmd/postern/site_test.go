package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/postern-mail/postern/cmd/postern/usersfile"
)

// The one user of a site, who may send as one address.
const (
	siteLogin    = "alice"
	siteAddress  = "alice@example.com"
	sitePassword = "correct horse battery staple"
)

// site is a `postern serve` with a directory, a user and a next hop of its own.
type site struct {
	dir       string
	addr, tls string // listeners with STARTTLS and with TLS from the start
	allTLS    []string
	admin     string
	milter    string // address of its milter, where it has one on TCP
	bundle    string // directory of its policy, where a test changes it
	env       []string
	run       *running
}

// siteHash is cheap to check: what is tested here is not how long guessing takes.
var siteHash = sync.OnceValues(func() (string, error) {
	b, err := bcrypt.GenerateFromPassword([]byte(sitePassword), bcrypt.MinCost)
	return string(b), err
})

// startSite runs the program until the test ends, and wants it to end well. more is YAML laid below the usual configuration;
// change what it is started as.
func startSite(t *testing.T, relay, more string, change ...func(*exec.Cmd)) *site {
	t.Helper()
	s := newSite(t, relay, more)
	s.start(t, change...)
	return s
}

// newSite is a site that does not run yet.
func newSite(t *testing.T, relay, more string) *site {
	t.Helper()
	s := &site{dir: shortDir(t)}
	hash, err := siteHash()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := usersfile.SetPassword(filepath.Join(s.dir, "users.yaml"), siteLogin, hash); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(s.dir, "senders.yaml"), "senders: {"+siteLogin+": ["+siteAddress+"]}\nsettings: {domain: example.com}\n")
	if !strings.Contains(more, "policy:") {
		more += "policy: {data: [senders.yaml], timeout: 2s}\n" // the race detector is slow
	}
	if !strings.Contains(more, "submission:") {
		more += "submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0'}\n"
	}
	if !strings.Contains(more, "\nauth:") {
		more += "\nauth: [{file: users.yaml}]\n"
	}
	if !strings.Contains(more, "\nadmin:") {
		more += "\nadmin: {listen: '127.0.0.1:0'}\n"
	}
	put(t, filepath.Join(s.dir, "postern.yaml"), "hostname: mail.example.com\nstate_dir: state\nrelay: {to: '"+relay+"'}\n"+more)
	return s
}

func (s *site) start(t *testing.T, change ...func(*exec.Cmd)) {
	t.Helper()
	r := s.launch(t, "serve.log", change...)
	t.Cleanup(func() {
		if err := r.stop(syscall.SIGTERM); err != nil {
			t.Errorf("postern serve ended with %v", err)
		}
		if t.Failed() {
			log, _ := os.ReadFile(r.log)
			t.Logf("postern serve logged:\n%s", log[max(0, len(log)-16<<10):])
		}
	})
	s.await(t, r)
}

// launch starts the program and waits for nothing. It logs to a file in the site's directory.
func (s *site) launch(t *testing.T, log string, change ...func(*exec.Cmd)) *running {
	t.Helper()
	r := &running{log: filepath.Join(s.dir, log), done: make(chan error, 1)}
	f, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	program := os.Getenv("POSTERN_BINARY")
	if program == "" {
		program = need(t, "this package's test binary", "postern")
	}
	r.cmd = exec.Command(program, "serve", "--config", filepath.Join(s.dir, "postern.yaml"))
	r.cmd.Dir, r.cmd.Stdout, r.cmd.Stderr = s.dir, f, f
	if s.env != nil {
		r.cmd.Env = append(os.Environ(), s.env...)
	}
	for _, c := range change {
		c(r.cmd)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.done <- r.cmd.Wait() }()
	return r
}

// await waits until r serves, and reads its addresses.
func (s *site) await(t *testing.T, r *running) {
	t.Helper()
	ready, err := r.ready()
	if err != nil {
		t.Fatal(err)
	}
	s.run, s.admin = r, ready.Admin
	if len(ready.Submission) > 0 {
		s.addr = ready.Submission[0]
	}
	if len(ready.Submission) > 1 {
		s.tls, s.allTLS = ready.Submission[1], ready.Submission[1:]
	}
	for _, m := range ready.Milter {
		if addr, ok := strings.CutPrefix(m, "tcp:"); ok {
			s.milter = addr
		}
	}
}

// shortDir is a directory that servers which drop privileges can reach, with a path short enough for unix sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "postern-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// need is the path of a program. A test that cannot run fails: a gate that skips is no gate.
func need(t *testing.T, pkg string, names ...string) string {
	t.Helper()
	for _, n := range names {
		if p, err := exec.LookPath(n); err == nil {
			return p
		}
	}
	t.Fatalf("%s is missing: apt-get install %s", names[0], pkg)
	return ""
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// background runs a server until the test ends, in a process group of its own, which all end together.
func background(t *testing.T, cmd *exec.Cmd, network, addr string) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		kill := time.AfterFunc(10*time.Second, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		cmd.Wait()
		kill.Stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", cmd.Path, out.String())
		}
	})
	for range 1000 {
		if c, err := net.Dial(network, addr); err == nil {
			c.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%s does not answer at %s", cmd.Path, addr)
}

// sinkAt starts Postfix's smtp-sink in a directory into which it writes what arrives, one file a message.
func sinkAt(t *testing.T, args ...string) (addr, dir string) {
	t.Helper()
	addr, dir = freeAddr(t), filepath.Join(shortDir(t), "sink")
	if err := errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		args = append(args, "-u", "nobody")
	}
	cmd := exec.Command(need(t, "postfix", "smtp-sink", "/usr/sbin/smtp-sink"), append(args, addr, "100")...)
	cmd.Dir = dir
	background(t, cmd, "tcp", addr)
	return addr, dir
}

// dovecot starts a Dovecot that takes mail for bob@example.net alone, by LMTP over TCP and over a unix socket, into a Maildir.
func dovecot(t *testing.T) (addr, socket, maildir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("a Dovecot that delivers mail wants to be started by root")
	}
	dir := shortDir(t)
	addr, socket, maildir = freeAddr(t), filepath.Join(dir, "lmtp.sock"), filepath.Join(dir, "mail", "Maildir")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "mail"), 0o755), os.Chown(filepath.Join(dir, "mail"), 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "users"), "bob@example.net::65534:65534::"+filepath.Join(dir, "mail")+"::\n")
	if err := os.Chmod(filepath.Join(dir, "users"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(addr)
	conf := filepath.Join(dir, "dovecot.conf")
	put(t, conf, fmt.Sprintf(`base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = /dev/stderr
protocols = lmtp
ssl = no
postmaster_address = postmaster@example.net
mail_location = maildir:~/Maildir
passdb {
  driver = static
  args = nopassword=y
}
userdb {
  driver = passwd-file
  args = %[1]s/users
}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = %[2]s
  }
  unix_listener %[3]s {
    mode = 0666
  }
}
`, dir, port, socket))
	background(t, exec.Command(need(t, "dovecot-lmtpd", "dovecot", "/usr/sbin/dovecot"), "-F", "-c", conf), "tcp", addr)
	return addr, socket, maildir
}

// files are the messages in a directory and below, as they were written, by name.
func files(t *testing.T, dir string) [][]byte {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // moved from tmp to new meanwhile
			return nil
		}
		if err == nil && d.Type().IsRegular() && !strings.HasPrefix(d.Name(), "dovecot") && d.Name() != "maildirfolder" && filepath.Base(filepath.Dir(p)) != "tmp" {
			names = append(names, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	var all [][]byte
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}
