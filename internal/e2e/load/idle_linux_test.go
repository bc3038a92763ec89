package load

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
)

// idleClients is how many connections do nothing while others are served.
const idleClients = 10_000

// TestTenThousandIdle opens ten thousand connections that do nothing. A new client must be able to log in and send as before, and the
// program must need at most 400 MiB. The log of the test has the memory and the time that the new client waits; the program is built
// without the race detector, so that these figures mean something.
func TestTenThousandIdle(t *testing.T) {
	testenv.NotShort(t, "ten thousand connections")
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Max < idleClients+500 {
		t.Fatalf("%d file descriptors are allowed (%v), and %d are needed: raise ulimit -Hn", files.Max, err, idleClients+500)
	}
	for name, open := range map[string]func(*dialer, int) (net.Conn, error){"in the clear": (*dialer).greeted, "under TLS": (*dialer).secured,
		"logged in under TLS": (*dialer).loggedIn} {
		t.Run(name, func(t *testing.T) {
			s := e2e.StartSite(t, "maildir:out", fmt.Sprintf("submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0', limits: {connections: %d}}\n", idleClients+50),
				func(cmd *exec.Cmd) { cmd.Path = e2e.PlainBinary(t) })
			d := newDialer(s)
			for range 20 { // warms up the program
				d.submit(t)
			}
			empty, before := s.Process.Resident(t), d.medianSubmit(t)
			conns := openIdle(t, func(n int) (net.Conn, error) { return open(d, n) })
			full, after := s.Process.Resident(t), d.medianSubmit(t)
			quiet := full
			for range 30 { // garbage of the handshakes is given back within some seconds
				if quiet = min(quiet, s.Process.Resident(t)); quiet <= 400<<20 {
					break
				}
				time.Sleep(time.Second)
			}
			t.Logf("%d idle connections %s: %d MiB resident before, %d at once, %d at the end, %.1f KiB each; a connection, login and message take %v (median of 21) before and %v with them",
				len(conns), name, empty>>20, full>>20, quiet>>20, float64(quiet-empty)/1024/float64(len(conns)), before, after)
			if quiet > 400<<20 {
				t.Errorf("%d MiB are more than 400", quiet>>20)
			}
			for n, c := range []net.Conn{conns[0], conns[len(conns)/2], conns[len(conns)-1]} {
				if code := say(c, "NOOP"); code != "250" {
					t.Errorf("idle connection %d gets the reply %q", n, code)
				}
			}
			if n := s.Metrics(t)["postern_submission_connections"]; n != float64(len(conns)) {
				t.Errorf("the metric counts %v connections", n)
			}
		})
	}
}

// dialer connects to a site from many addresses of 127.0.0.0/8, so that no address reaches its own limit.
type dialer struct {
	site   *e2e.Site
	config *tls.Config
}

// newDialer resumes TLS sessions, which spares most of the work of a handshake.
func newDialer(s *e2e.Site) *dialer {
	return &dialer{s, &tls.Config{InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(4)}}
}

// dial connects from the address of connection n.
func (d *dialer) dial(n int, addr string) (net.Conn, error) {
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(n/40>>8), byte(n/40))}, Timeout: time.Minute}
	c, err := from.Dial("tcp", addr)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(4 * time.Minute))
	}
	return c, err
}

// greeted opens connection n and sends EHLO in the clear.
func (d *dialer) greeted(n int) (net.Conn, error) {
	c, err := d.dial(n, d.site.Addr)
	if err != nil {
		return nil, err
	}
	return c, converse(c, "220", "EHLO idle.example", "250")
}

// secured opens connection n and sends EHLO under TLS.
func (d *dialer) secured(n int) (net.Conn, error) {
	raw, err := d.dial(n, d.site.TLS)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, d.config)
	return c, converse(c, "220", "EHLO idle.example", "250")
}

// loggedIn is secured with a login after it.
func (d *dialer) loggedIn(n int) (net.Conn, error) {
	c, err := d.secured(n)
	if err != nil {
		return nil, err
	}
	if code := say(c, "AUTH PLAIN "+e2e.AuthPlain()); code != "235" {
		return nil, fmt.Errorf("AUTH is answered %q", code)
	}
	return c, nil
}

// openIdle opens all connections, sixteen at a time, and closes them when the test ends.
func openIdle(t *testing.T, open func(n int) (net.Conn, error)) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, idleClients)
	var all sync.WaitGroup
	next := make(chan int)
	for range 16 {
		all.Go(func() {
			for n := range next {
				c, err := open(n)
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

// converse reads the greeting, and then sends a command and reads its reply for each further pair. Replies are given by their codes.
func converse(c net.Conn, dialogue ...string) error {
	for n, x := range dialogue {
		if n%2 == 1 {
			if _, err := io.WriteString(c, x+"\r\n"); err != nil {
				return err
			}
			continue
		}
		if code, err := readReply(c); code != x {
			return fmt.Errorf("reply %q (%v), want %s", code, err, x)
		}
	}
	return nil
}

// say sends a command and returns the code of the reply, or an error as text.
func say(c net.Conn, command string) string {
	if _, err := io.WriteString(c, command+"\r\n"); err != nil {
		return err.Error()
	}
	code, err := readReply(c)
	if err != nil {
		return err.Error()
	}
	return code
}

// readReply reads one reply and returns its code. The server sends nothing after it.
func readReply(c net.Conn) (code string, err error) {
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

// submit connects, logs in and sends a message, and returns the time that it took.
func (d *dialer) submit(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	raw, err := d.dial(1<<15, d.site.TLS)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := tls.Client(raw, d.config)
	err = converse(c, "220", "EHLO new.example", "250", "AUTH PLAIN "+e2e.AuthPlain(), "235", "MAIL FROM:<"+e2e.Address+">", "250", "RCPT TO:<bob@example.net>", "250", "DATA", "354",
		"From: <"+e2e.Address+">\r\nTo: <bob@example.net>\r\nSubject: as before\r\n\r\nHello\r\n.", "250", "QUIT", "221")
	if err != nil {
		t.Fatalf("a new client is not served: %v", err)
	}
	return time.Since(began)
}

// medianSubmit returns the median time of 21 submissions.
func (d *dialer) medianSubmit(t *testing.T) time.Duration {
	t.Helper()
	var took []time.Duration
	for range 21 {
		took = append(took, d.submit(t))
	}
	slices.Sort(took)
	return took[len(took)/2].Round(100 * time.Microsecond)
}
