package restart

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/internal/testmilter"
)

// workers is how many clients send through Postfix at the same time.
const workers = 4

// policy is a policy with 1,000 tests, each of which takes about a millisecond.
func policy(t *testing.T, dir, comment string) {
	t.Helper()
	testenv.Must(t, os.MkdirAll(dir, 0o700))
	testenv.Write(t, filepath.Join(dir, "p.rego"), "# "+comment+"\npackage postern.mail\n\nreject contains \"no\" if input.envelope.from.address == \"mallory@example.com\"\n")
	var tests strings.Builder
	tests.WriteString("package p_test\n\nimport data.postern.mail\n")
	for i := range 1000 {
		fmt.Fprintf(&tests, "\ntest_%d if {\n\tcount([n | some n in numbers.range(1, 1000); n %% 7 == 0]) > 0\n\tcount(mail.reject) == 0 with input.envelope.from.address as \"user%[1]d@example.com\"\n}\n", i)
	}
	testenv.Write(t, filepath.Join(dir, "p_test.rego"), tests.String())
}

// clients send through a mail server until they are stopped, each of them one transaction after the other.
type clients struct {
	mu       sync.Mutex
	sent     int
	refused  []time.Time
	longest  time.Duration // of one transaction
	failures []string      // anything but 250 and 451
}

// gap is what the clients of a mail server notice of one restart.
type gap struct {
	refused      int           // transactions that got 451
	span         time.Duration // between the first and the last of them
	longest      time.Duration // transaction
	first220     time.Duration // from the start of the program to the greeting of its submission server
	testedBefore bool
}

func (c *clients) run(ctx context.Context, addr string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				reply := transaction(addr)
				c.mu.Lock()
				c.sent++
				c.longest = max(c.longest, time.Since(began))
				switch {
				case strings.HasPrefix(reply, "250 "):
				case strings.HasPrefix(reply, "451 "):
					c.refused = append(c.refused, time.Now())
				default:
					c.failures = append(c.failures, reply)
				}
				c.mu.Unlock()
			}
		})
	}
	return func() { cancel(); all.Wait() }
}

// transaction gives a mail server one sender and one recipient. It returns the last reply, or the first that refuses.
func transaction(addr string) string {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	in := bufio.NewReader(conn)
	reply := ""
	for _, line := range []string{"", "EHLO client.example.com\r\n", "MAIL FROM:<alice@example.com>\r\n", "RCPT TO:<bob@example.net>\r\n", "QUIT\r\n"} {
		if _, err := conn.Write([]byte(line)); err != nil {
			return err.Error()
		}
		said := "-"
		for ; len(said) < 4 || said[3] == '-'; said, err = in.ReadString('\n') {
			if err != nil {
				return err.Error()
			}
		}
		if line != "QUIT\r\n" {
			reply = strings.TrimSpace(said)
		}
		if said[0] > '3' {
			return reply
		}
	}
	return reply
}

// restarted stops the program while clients send through mta, changes its files, starts it again, and says what the clients noticed.
func restarted(t *testing.T, s *e2e.Site, mta, log string, change func(), start ...func(*exec.Cmd)) gap {
	t.Helper()
	c := &clients{}
	stop := c.run(t.Context(), mta)
	time.Sleep(300 * time.Millisecond)
	change()
	if err := s.Process.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	greeted := make(chan time.Duration, 1)
	addr := s.Addr // Await writes it again
	go func() {
		for time.Since(began) < time.Minute {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				time.Sleep(2 * time.Millisecond)
				continue
			}
			conn.SetDeadline(time.Now().Add(time.Minute))
			if line, _ := bufio.NewReader(conn).ReadString('\n'); strings.HasPrefix(line, "220 ") {
				greeted <- time.Since(began)
				conn.Close()
				return
			}
			conn.Close()
		}
	}()
	p := s.Launch(t, log, start...)
	t.Cleanup(func() { p.Stop(syscall.SIGKILL) })
	s.Await(t, p)
	g := gap{}
	select {
	case g.first220 = <-greeted:
	case <-time.After(time.Minute):
		t.Fatal("no greeting")
	}
	time.Sleep(300 * time.Millisecond)
	stop()
	text := testenv.Read(t, filepath.Join(s.Dir, log))
	g.testedBefore = strings.Contains(text, `"tested_before":true`)
	g.refused, g.longest = len(c.refused), c.longest
	if n := len(c.refused); n > 0 {
		g.span = c.refused[n-1].Sub(c.refused[0])
	}
	if len(c.failures) > 0 || c.sent < 2*workers || c.sent == g.refused {
		t.Fatalf("of %d transactions, %d were refused and these failed: %q", c.sent, g.refused, c.failures)
	}
	t.Logf("%-30s %4d transactions, %3d got 451 within %v; the longest took %v, the first 220 %v", log, c.sent, g.refused,
		g.span.Round(time.Millisecond), g.longest.Round(time.Millisecond), g.first220.Round(time.Millisecond))
	return g
}

// TestRestartGap restarts the program beside a Postfix that answers 451 when its milter does not (milter_default_action=tempfail), with
// 1,000 tests in the policy. With an unchanged policy and the same program, the tests do not run, so that the first greeting comes in a
// fraction of the time. With a changed policy, clients wait in the sockets: they are refused only until the sockets are open, which does not
// depend on the tests.
func TestRestartGap(t *testing.T) {
	milter, submission := testenv.FreeAddr(t), testenv.FreeAddr(t)
	s := e2e.NewSite(t, "maildir:outbox", "submission: {listen: '"+submission+"'}\nmilter: {listen: 'tcp:"+milter+"'}\npolicy: {bundle: bundle, timeout: 2s}\nlog: {format: json}\n")
	bundle := filepath.Join(s.Dir, "bundle")
	policy(t, bundle, "one")
	program := filepath.Join(s.Dir, "postern")
	testenv.Must(t, exec.Command("cp", "-p", e2e.PlainBinary(t), program).Run())
	own := func(cmd *exec.Cmd) { cmd.Path, cmd.Args[0] = program, program }
	p := s.Launch(t, "first.log", own)
	t.Cleanup(func() { p.Stop(syscall.SIGKILL) })
	s.Await(t, p)
	mta := testmilter.StartPostfix(t, testmilter.PostfixOptions{Milter: "inet:" + milter, Relay: testmilter.StartSink(t).Addr})

	same := restarted(t, s, mta.Addr, "unchanged.log", func() {}, own)
	changed := restarted(t, s, mta.Addr, "changed.log", func() { policy(t, bundle, "two") }, own)
	again := restarted(t, s, mta.Addr, "unchanged-again.log", func() {}, own)
	rebuilt := restarted(t, s, mta.Addr, "rebuilt.log", func() {
		now := time.Now()
		testenv.Must(t, os.Chtimes(program, now, now))
	}, own)
	for name, g := range map[string]gap{"unchanged": same, "unchanged again": again} {
		if !g.testedBefore || g.first220 > changed.first220/2 {
			t.Errorf("%s: the tests ran: the first 220 took %v, with a changed policy %v", name, g.first220, changed.first220)
		}
	}
	for name, g := range map[string]gap{"changed": changed, "rebuilt": rebuilt} {
		if g.testedBefore || g.first220 < 2*same.first220 {
			t.Errorf("%s: the tests did not run: the first 220 took %v, with an unchanged policy %v", name, g.first220, same.first220)
		}
		if g.span > g.first220/2 {
			t.Errorf("%s: clients were refused for %v of the %v until the first 220", name, g.span, g.first220)
		}
	}
}

// TestRestartGapActivated does the same with sockets that stay open from one process to the next, as with systemd: only a transaction that
// was under way may be refused.
func TestRestartGapActivated(t *testing.T) {
	s := e2e.NewSite(t, "maildir:outbox", "submission: {listen: 'systemd:submission'}\nmilter: {listen: 'systemd:milter'}\npolicy: {bundle: bundle, timeout: 2s}\nlog: {format: json}\n")
	bundle := filepath.Join(s.Dir, "bundle")
	policy(t, bundle, "one")
	var files []*os.File
	var addrs []string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		testenv.Must(t, err)
		f, err := l.(*net.TCPListener).File()
		testenv.Must(t, err)
		t.Cleanup(func() { f.Close() })
		files, addrs = append(files, f), append(addrs, l.Addr().String())
		l.Close()
	}
	passed := func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"/bin/sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", cmd.Path}, cmd.Args[1:]...)
		cmd.Path, cmd.ExtraFiles = "/bin/sh", files
		cmd.Env = append(cmd.Environ(), "LISTEN_FDS=2", "LISTEN_FDNAMES=submission:milter")
	}
	p := s.Launch(t, "first.log", passed)
	t.Cleanup(func() { p.Stop(syscall.SIGKILL) })
	s.Await(t, p)
	mta := testmilter.StartPostfix(t, testmilter.PostfixOptions{Milter: "inet:" + addrs[1], Relay: testmilter.StartSink(t).Addr})
	for log, change := range map[string]func(){"activated-unchanged.log": func() {}, "activated-changed.log": func() { policy(t, bundle, "two") }} {
		if g := restarted(t, s, mta.Addr, log, change, passed); g.refused > workers {
			t.Errorf("%s: %d transactions were refused; %d can have been under way", log, g.refused, workers)
		}
	}
}
