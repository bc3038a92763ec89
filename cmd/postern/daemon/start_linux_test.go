package daemon

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/internal/safefile"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/internal/yamldoc"
)

func demo(dir, addr string) *config.Config {
	cfg := config.Default(dir)
	cfg.Submission.Listen, cfg.Submission.ListenTLS = []string{addr}, nil
	return cfg
}

// TestLocks: the state directory and the decision log have one server each, and what cannot be locked is not refused.
func TestLocks(t *testing.T) {
	dir, other := filepath.Join(t.TempDir(), "made"), t.TempDir()
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	take := func(state, decisions string) (*locks, string) {
		cfg := config.Default(state)
		cfg.DecisionLog.File = decisions
		l := &locks{}
		if err := l.take(cfg, log); err != nil {
			l.release()
			return nil, err.Error()
		}
		return l, ""
	}
	first, said := take(dir, filepath.Join(dir, "d.jsonl"))
	if said != "" || len(first.held) != 2 {
		t.Fatal(said)
	}
	pid := os.Getpid()
	want := fmt.Sprintf("another postern serve, process %d, uses the state directory %s; stop it, or write another state_dir or --dir", pid, dir)
	if _, said := take(dir, ""); said != want {
		t.Errorf("got %s\nwant %s", said, want)
	}
	want = fmt.Sprintf("another postern serve, process %d, uses the decision log %s/d.jsonl; stop it, or write another decision_log.file", pid, dir)
	if _, said := take(other, filepath.Join(dir, "d.jsonl")); said != want {
		t.Errorf("got %s\nwant %s", said, want)
	}
	second, said := take(other, "/dev/null")
	if said != "" || len(second.held) != 1 {
		t.Fatalf("a device is locked, or the directory of a refused server still is: %s", said)
	}
	first.release()
	if l, said := take(dir, filepath.Join(dir, "d.jsonl")); said != "" {
		t.Errorf("after the first has ended: %s", said)
	} else {
		l.release()
	}
	if text.Len() > 0 {
		t.Errorf("logged %s", text.String())
	}
	if l, said := take("/proc/nowhere", ""); said != "" || len(l.held) != 0 || !strings.Contains(text.String(), "nothing keeps a second server away") {
		t.Errorf("a directory that cannot be written: %s, logged %s", said, text.String())
	}
	if _, said := take(filepath.Join(dir, "d.jsonl.pid"), ""); !strings.Contains(said, "not a directory") {
		t.Errorf("a file in the directory's place: %q", said)
	}
	if err := inUse(&safefile.LockedError{Name: "f"}, "x", "y"); err == nil || !strings.Contains(err.Error(), "another postern serve uses x; y (f is locked by another process)") {
		t.Errorf("without a number: %v", err)
	}
}

// TestPortBeforePassword: a port that is taken ends the start before anything is made or printed.
func TestPortBeforePassword(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testenv.Must(t, err)
	defer l.Close()
	dir := t.TempDir()
	for range 2 { // a server that ended holds no lock
		var notice bytes.Buffer
		err = Run(t.Context(), Options{Config: demo(dir, l.Addr().String()), Log: slog.New(slog.DiscardHandler), Notice: &notice})
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.HasPrefix(err.Error(), "submission "+l.Addr().String()) || notice.Len() > 0 {
			t.Errorf("%v\n%s", err, notice.String())
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "users.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("users: %v", err)
	}
}

// endless is a policy with a test that takes for ever.
func endless(t *testing.T) string {
	dir := t.TempDir()
	testenv.Write(t, filepath.Join(dir, "p.rego"), "package postern.connect\n\nreject contains \"x\" if input.client.ip == \"192.0.2.1\"\n")
	testenv.Write(t, filepath.Join(dir, "p_test.rego"), "package p_test\n\ntest_a if count([1 | some x in numbers.range(1, 100000); some y in numbers.range(1, 100000); x == y]) == 0\n")
	return dir
}

// TestStopWhileStarting: clients wait in the queue of the socket while the policy is tested, and a signal ends the start at once.
func TestStopWhileStarting(t *testing.T) {
	var log bytes.Buffer
	cfg := demo(t.TempDir(), "127.0.0.1:0")
	cfg.Policy.Bundle = endless(t)
	d := &daemon{cfg: cfg, log: slog.New(slog.NewTextHandler(&log, nil)), reloadAll: make(chan struct{}, 1)}
	testenv.Must(t, d.open())
	defer d.close()
	client, err := net.Dial("tcp", d.submission.listeners[0].Addr().String())
	testenv.Must(t, err)
	defer client.Close()
	signals := make(chan os.Signal, 2)
	signals <- syscall.SIGHUP
	time.AfterFunc(300*time.Millisecond, func() { signals <- syscall.SIGTERM })
	began := time.Now()
	stopped, err := d.buildUnlessStopped(t.Context(), &bytes.Buffer{}, signals)
	if took := time.Since(began); !stopped || err != nil || took < 250*time.Millisecond || took > 20*time.Second {
		t.Errorf("%v, %v after %v", stopped, err, took)
	}
	if !strings.Contains(log.String(), `msg="stopping before all was ready" signal=terminated reason="asked to stop"`) {
		t.Errorf("logged %s", log.String())
	}
}

// TestCompareConfig: what SIGHUP says about the configuration.
func TestCompareConfig(t *testing.T) {
	name := filepath.Join(t.TempDir(), "postern.yaml")
	load := func(text string) (*config.Config, yamldoc.Findings, error) {
		testenv.Write(t, name, "milter: {listen: 'tcp:127.0.0.1:8891'}\n"+text)
		c, found := config.Check(name, "")
		return c, found, found.Err()
	}
	cfg, _, _ := load("admin: {listen: '127.0.0.1:0'}\n")
	for text, want := range map[string]string{
		"admin: {listen: '127.0.0.1:0'}\n":                  "",
		"admin: {listen: '127.0.0.1:1'}\n":                  `level=WARN msg="the configuration has changed; these keys need a restart" file=` + name + ` keys=[admin.listen]`,
		"admin: {lisen: '127.0.0.1:0'}\n":                   `level=ERROR msg="the configuration is broken; what was read at the start stays in use" finding="` + name + `:2:9: admin: unknown key`,
		"labels: {" + strings.Repeat("\n a: 1,", 100) + "}": "finding=",
	} {
		var log bytes.Buffer
		d := &daemon{cfg: cfg, log: slog.New(slog.NewTextHandler(&log, nil)), reread: func() (*config.Config, yamldoc.Findings, error) { return load(text) }}
		d.compareConfig()
		if got := log.String(); want == "" && got != "" || !strings.Contains(got, want) || strings.Count(got, "\n") > maxFindings+1 {
			t.Errorf("%s: logged %s\nwant %s", text, got, want)
		}
		d.reread = nil
		log.Reset()
		if d.compareConfig(); log.Len() > 0 {
			t.Errorf("without a file: %s", log.String())
		}
	}
	var log bytes.Buffer
	d := &daemon{cfg: cfg, log: slog.New(slog.NewTextHandler(&log, nil)), reread: func() (*config.Config, yamldoc.Findings, error) { return nil, nil, context.Canceled }}
	if d.compareConfig(); !strings.Contains(log.String(), "cannot be read") {
		t.Errorf("logged %s", log.String())
	}
}

// TestHUPCompares: SIGHUP is what compares the configuration, and the server runs on.
func TestHUPCompares(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	logged := make(chan string, 100)
	go func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			logged <- lines.Text()
		}
		close(logged)
	}()
	until := func(text string) {
		t.Helper()
		for {
			select {
			case line, open := <-logged:
				if !open {
					t.Fatalf("never logged: %s", text)
				} else if strings.Contains(line, text) {
					return
				}
			case <-time.After(30 * time.Second):
				t.Fatalf("not logged: %s", text)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Options{Config: demo(t.TempDir(), "127.0.0.1:0"), Log: slog.New(slog.NewTextHandler(w, nil)), Notice: io.Discard,
			Reread: func() (*config.Config, yamldoc.Findings, error) { return nil, nil, errors.New("gone") }})
	}()
	until("msg=ready")
	for range 2 {
		testenv.Must(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
		until("the configuration cannot be read; what was read at the start stays in use\" error=gone")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestHangUp: a terminal that was closed, a terminal that is there, nohup and no terminal at all.
func TestHangUp(t *testing.T) {
	if os.Getenv("DAEMON_TERMINAL") != "" {
		h := newHangUp()
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGHUP)
		fmt.Println("ready")
		<-c
		fmt.Println("hung up:", h.happened())
		os.Exit(0)
	}
	self, err := os.Executable()
	testenv.Must(t, err)
	for name, c := range map[string]struct {
		before          []string
		terminal, close bool
		want            string
	}{
		"closed":        {nil, true, true, "hung up: true\n"},
		"still there":   {nil, true, false, "hung up: false\n"},
		"nohup":         {[]string{"/usr/bin/nohup"}, true, true, "hung up: false\n"},
		"there is none": {nil, false, false, "hung up: false\n"},
	} {
		t.Run(name, func(t *testing.T) {
			person, terminal := testenv.Terminal(t)
			args := append(c.before, self, "-test.run=^TestHangUp$")
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Env = append(os.Environ(), "DAEMON_TERMINAL=1")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if c.terminal {
				cmd.Stdin, cmd.SysProcAttr.Setctty = terminal, true
			}
			out, err := cmd.StdoutPipe()
			testenv.Must(t, err)
			testenv.Must(t, cmd.Start())
			defer func() { cmd.Process.Kill(); cmd.Wait() }()
			lines := bufio.NewReader(out)
			if line, err := lines.ReadString('\n'); line != "ready\n" {
				t.Fatal(line, err)
			}
			terminal.Close()
			if c.close {
				person.Close()
			} else {
				testenv.Must(t, cmd.Process.Signal(syscall.SIGHUP))
			}
			if line, err := lines.ReadString('\n'); line != c.want {
				t.Errorf("%q, %v", line, err)
			}
		})
	}
}
