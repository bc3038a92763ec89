package main

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// idleClients is how many connections do nothing while others are served.
const idleClients = 10_000

// TestTenThousandIdle: with ten thousand connections that do nothing, a new client logs in and sends as before. The log of the test
// has what they take, and how long the new client waits: a refusal is a failure, and so are more than 400 MiB. The server is a program without the race
// detector, so that the figures mean something.
func TestTenThousandIdle(t *testing.T) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Max < idleClients+500 {
		t.Fatalf("%d file descriptors are allowed (%v), and %d are needed: raise ulimit -Hn", files.Max, err, idleClients+500)
	}
	program := filepath.Join(t.TempDir(), "postern")
	if out, err := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Setenv("POSTERN_BINARY", program)
	for name, idle := range map[string]func(*idler) (net.Conn, error){"in the clear": (*idler).greeted, "under TLS": (*idler).secured,
		"logged in under TLS": (*idler).proved} {
		t.Run(name, func(t *testing.T) {
			s := startSite(t, "maildir:out", fmt.Sprintf("submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0', limits: {connections: %d}}\n", idleClients+50))
			i := &idler{s: s, config: clientTLS()}
			for range 20 { // the first ones warm everything up
				i.submit(t)
			}
			empty, before := s.memory(t), i.waits(t)
			conns := i.open(t, idle)
			full, after := s.memory(t), i.waits(t)
			quiet := full
			for range 30 { // until what the storm of connections left behind has been given back
				time.Sleep(time.Second)
				quiet = min(quiet, s.memory(t))
			}
			t.Logf("%d idle connections %s: %d MiB resident before, %d at once, %d when quiet, %.1f KiB each; a connection, login and message take %v (median of 21) before and %v with them",
				len(conns), name, empty>>20, full>>20, quiet>>20, float64(quiet-empty)/1024/float64(len(conns)), before, after)
			if quiet > 400<<20 {
				t.Errorf("%d MiB are more than 400", quiet>>20)
			}
			for n, c := range []net.Conn{conns[0], conns[len(conns)/2], conns[len(conns)-1]} {
				if code := say(c, "NOOP"); code != "250" {
					t.Errorf("idle connection %d hears %q", n, code)
				}
			}
			if n := s.metrics(t)["postern_submission_connections"]; n != float64(len(conns)) {
				t.Errorf("%v connections are counted", n)
			}
		})
	}
}

// idler opens connections to a site, from many addresses of 127.0.0.0/8, so that the limit of each address holds.
type idler struct {
	s      *site
	config *tls.Config
}

// clientTLS resumes sessions, which spares the machine most of the work of a handshake.
func clientTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
}

func (i *idler) dial(n int, addr string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(n/40>>8), byte(n/40))}, Timeout: time.Minute}
	c, err := d.Dial("tcp", addr)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(4 * time.Minute))
	}
	return c, err
}

// open opens them all, some at a time.
func (i *idler) open(t *testing.T, idle func(*idler) (net.Conn, error)) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, idleClients)
	var all sync.WaitGroup
	next := make(chan int)
	for range 16 {
		all.Go(func() {
			for n := range next {
				one := *i
				one.s = &site{addr: i.s.addr, tls: i.s.tls, dir: strconv.Itoa(n)}
				c, err := idle(&one)
				if err != nil {
					t.Errorf("connection %d: %v", n, err)
					continue
				}
				conns[n] = c
			}
		})
	}
	for n := range conns {
		if t.Failed() {
			break
		}
		next <- n
	}
	close(next)
	all.Wait()
	t.Cleanup(func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	return conns
}

func (i *idler) number() int { n, _ := strconv.Atoi(i.s.dir); return n }

// greeted has heard the greeting and said EHLO, in the clear.
func (i *idler) greeted() (net.Conn, error) {
	c, err := i.dial(i.number(), i.s.addr)
	if err != nil {
		return nil, err
	}
	return c, converse(c, "220", "EHLO idle.example", "250")
}

// secured has done the same under TLS.
func (i *idler) secured() (net.Conn, error) {
	raw, err := i.dial(i.number(), i.s.tls)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, i.config)
	return c, converse(c, "220", "EHLO idle.example", "250")
}

// proved has logged in as well.
func (i *idler) proved() (net.Conn, error) {
	c, err := i.secured()
	if err != nil {
		return nil, err
	}
	if code := say(c, "AUTH PLAIN "+siteProof()); code != "235" {
		return nil, fmt.Errorf("AUTH hears %q", code)
	}
	return c, nil
}

// siteProof is the right login, as AUTH PLAIN has it.
func siteProof() string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + siteLogin + "\x00" + sitePassword))
}

// converse reads a reply to nothing and then one to each command.
func converse(c net.Conn, dialogue ...string) error {
	for n, x := range dialogue {
		if n%2 == 1 {
			if _, err := io.WriteString(c, x+"\r\n"); err != nil {
				return err
			}
			continue
		}
		if code, err := hear(c); code != x {
			return fmt.Errorf("reply %q (%v), want %s", code, err, x)
		}
	}
	return nil
}

func say(c net.Conn, command string) string {
	if _, err := io.WriteString(c, command+"\r\n"); err != nil {
		return err.Error()
	}
	code, err := hear(c)
	if err != nil {
		return err.Error()
	}
	return code
}

// hear reads one reply; the server says nothing behind it.
func hear(c net.Conn) (code string, err error) {
	r := bufio.NewReaderSize(c, 1024)
	for {
		line, err := r.ReadString('\n')
		if err != nil || len(line) < 4 {
			return line, err
		}
		if line[3] == ' ' {
			return line[:3], nil
		}
	}
}

// submit connects, logs in and sends a message, and gives the time that it took.
func (i *idler) submit(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	raw, err := i.dial(1<<15, i.s.tls)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := tls.Client(raw, i.config)
	err = converse(c, "220", "EHLO new.example", "250", "AUTH PLAIN "+siteProof(), "235", "MAIL FROM:<"+siteAddress+">", "250", "RCPT TO:<bob@example.net>", "250", "DATA", "354",
		"From: <"+siteAddress+">\r\nTo: <bob@example.net>\r\nSubject: as before\r\n\r\nHello\r\n.", "250", "QUIT", "221")
	if err != nil {
		t.Fatalf("a new client is not served: %v", err)
	}
	return time.Since(began)
}

// waits is the median of some submissions.
func (i *idler) waits(t *testing.T) time.Duration {
	t.Helper()
	var took []time.Duration
	for range 21 {
		took = append(took, i.submit(t))
	}
	slices.Sort(took)
	return took[len(took)/2].Round(100 * time.Microsecond)
}

// memory of the process, in octets resident.
func (s *site) memory(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.run.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
