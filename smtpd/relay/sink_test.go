package relay

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// smtpSink starts Postfix's smtp-sink, which ends with the test, on loopback or, with scheme lmtp+unix, on a unix socket; it gives
// the target and the directory in which smtp-sink puts each message that it took as a file.
func smtpSink(t *testing.T, scheme string, args ...string) (target, dir string) {
	t.Helper()
	testenv.NotShort(t, "smtp-sink")
	program, err := exec.LookPath("/usr/sbin/smtp-sink")
	if err != nil {
		t.Fatalf("smtp-sink is missing, install Postfix: %v", err)
	}
	dir, err = os.MkdirTemp("", "relay-test-") // that smtp-sink can enter when it is no longer root
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	args = append(args, "-d", "mail.")
	if os.Geteuid() == 0 {
		args = append(args, "-u", "nobody")
	}
	for range 20 {
		network, addr := "unix", filepath.Join(dir, "s")
		listen := "unix:" + addr
		if scheme != "lmtp+unix" {
			// Below the ports that outgoing connections get, of which other tests use many.
			network, addr = "tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
			listen = addr
		}
		if runSink(t, exec.Command(program, append(args, listen, "100")...), dir, network, addr) {
			return scheme + "://" + addr, dir
		}
	}
	t.Fatal("smtp-sink does not listen")
	return "", ""
}

// runSink reports whether the program came to listen; it may not, where the port is in use.
func runSink(t *testing.T, cmd *exec.Cmd, dir, network, addr string) bool {
	t.Helper()
	var out strings.Builder
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = dir, &out, &out, 5*time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	stop := func() {
		_ = cmd.Process.Kill()
		<-ended
	}
	for began := time.Now(); time.Since(began) < long; time.Sleep(10 * time.Millisecond) {
		select {
		case <-ended:
			t.Logf("smtp-sink ended: %s", out.String())
			return false
		default:
		}
		if nc, err := net.DialTimeout(network, addr, time.Second); err == nil {
			_ = nc.Close()
			t.Cleanup(stop)
			return true
		}
	}
	stop()
	return false
}

// TestSmtpSink: an independent server, with good behaviour and with each fault that it offers, and two messages on kept connections.
func TestSmtpSink(t *testing.T) {
	eight := letter("X1", small) + "J\xc3\xbcrgen\r\n"
	for _, tc := range []struct {
		args   string
		scheme string
		text   string
		out    int
		stage  string
		reply  string // beginning of the reply to the client
	}{
		{"", "smtp", eight, delivered, "", "250 2.0.0 Ok"},
		{"", "smtp", letter("X1", 2_000_000), delivered, "", "250 2.0.0 Ok"},
		{"-L", "lmtp", eight, delivered, "", "250 2.2.0 Ok"},
		{"-L", "lmtp+unix", eight, delivered, "", "250 2.2.0 Ok"},
		{"-p", "smtp", eight, delivered, "", "250 2.0.0 Ok"}, // no pipelining
		{"-e", "smtp", letter("X1", small), delivered, "", "250"},
		{"-e", "smtp", eight, lost, stageData, "554 5.6.3"},
		{"-8", "smtp", eight, lost, stageData, "554 5.6.3"},
		{"-f CONNECT", "smtp", eight, lost, stageConnect, "451 4.4.1"},
		{"-f EHLO,HELO", "smtp", eight, lost, stageConnect, "451 4.4.1"},
		{"-f MAIL", "smtp", eight, lost, stageMail, "500 5.3.0 Error: command failed"},
		{"-f RCPT", "smtp", eight, lost, stageRcpt, "500 5.3.0 Error: command failed"},
		{"-f DATA", "smtp", eight, lost, stageData, "500 5.3.0 Error: command failed"},
		{"-f .", "smtp", eight, lost, stageEnd, "500 5.3.0 Error: command failed"},
		{"-r MAIL", "smtp", eight, lost, stageMail, "450 4.3.0 Error: command failed"},
		{"-r RCPT", "smtp", eight, lost, stageRcpt, "450 4.3.0 Error: command failed"},
		{"-r .", "smtp", eight, lost, stageEnd, "450 4.3.0 Error: command failed"},
		{"-L -r .", "lmtp", eight, lost, stageEnd, "450 4.3.0 Error: command failed"},
		{"-q CONNECT", "smtp", eight, lost, stageConnect, "451 4.4.1"},
		{"-q EHLO", "smtp", eight, lost, stageConnect, "451 4.4.1"},
		{"-q MAIL", "smtp", eight, lost, stageMail, "451 4.4.2"},
		{"-q RCPT", "smtp", eight, lost, stageRcpt, "451 4.4.2"},
		{"-q DATA", "smtp", eight, lost, stageData, "451 4.4.2"},
		{"-q .", "smtp", eight, uncertain, stageEnd, "451 4.4.2"},
		{"-L -q .", "lmtp", eight, uncertain, stageEnd, "451 4.4.2"},
		{"-Q CONNECT", "smtp", eight, lost, stageConnect, "451 4.4.1"},
		{"-Q MAIL", "smtp", eight, lost, stageMail, "451 4."},
		{"-Q RCPT", "smtp", eight, lost, stageRcpt, "451 4."},
		{"-Q DATA", "smtp", eight, lost, stageData, "451 4."},
		{"-Q .", "smtp", eight, lost, stageEnd, "451 4."},
		{"-A 0", "smtp", letter("X1", 4_000_000), lost, stageData, "550"}, // answers in the middle of the data and reads no more
	} {
		t.Run(tc.scheme+tc.args, func(t *testing.T) {
			t.Parallel()
			target, dir := smtpSink(t, tc.scheme, strings.Fields(tc.args)...)
			h := openHop(t, Options{}, target)
			for range 2 {
				reply, err := transfer(h, tc.text, "<a@example.com>", nil, "<b@example.net>", "<c@example.net>")
				stage := ""
				if err != nil {
					e := failure(t, err)
					reply, stage = e.Reply, e.Stage
				}
				if outcome(err) != tc.out || stage != tc.stage || !strings.HasPrefix(reply.String(), tc.reply) {
					t.Errorf("got %q at %s, %v; want %q at %s", reply, stage, err, tc.reply, tc.stage)
				}
			}
			if files, _ := filepath.Glob(filepath.Join(dir, "mail.*")); tc.out == delivered && len(files) != 2 {
				t.Errorf("%d messages arrived", len(files))
			}
		})
	}
}
