package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the test binary be the program: scripts and tests run `postern` as a process of its own. With
// POSTERN_BINARY set they run that file instead, so that the built artefact passes the same scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"postern": main})
}

// TestScript runs the scenarios of testdata/script: one readable file each.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": cmdServe, "smtp": cmdSMTP, "sink": cmdSink, "signal": cmdSignal, "end": cmdStop, "until": cmdUntil, "collect": cmdCollect,
			"opa": cmdOPA, "eventually": cmdEventually,
		},
		Setup: func(e *testscript.Env) error {
			policies, err := filepath.Abs("../../policies")
			if err != nil {
				return err
			}
			e.Setenv("POLICIES", policies) // the default bundle, to copy and change
			opa, err := stockOPA()
			if err != nil {
				return err
			}
			programs := map[string]string{"opa": opa}
			if p := os.Getenv("POSTERN_BINARY"); p != "" {
				programs["postern"] = p
			}
			dir := filepath.Join(e.WorkDir, ".bin")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			for name, path := range programs {
				if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
					return err
				}
			}
			e.Setenv("PATH", dir+":"+e.Getenv("PATH"))
			return nil
		},
	})
}

// stockOPA is OPA's own program, in the version that go.mod names.
var stockOPA = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "tool", "-n", "opa").Output()
	if err != nil {
		return "", fmt.Errorf("go tool -n opa: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
})

// running is a `postern serve` that a script started.
type running struct {
	cmd  *exec.Cmd
	done chan error
	log  string
}

// scripts finds the server of a script by its directory: testscript's commands have no other place to keep it.
var scripts = struct {
	sync.Mutex
	byDir map[string]*running
}{byDir: map[string]*running{}}

func server(ts *testscript.TestScript) *running {
	scripts.Lock()
	defer scripts.Unlock()
	r := scripts.byDir[ts.Getenv("WORK")]
	if r == nil {
		ts.Fatalf("no server was started")
	}
	return r
}

// cmdServe starts `postern serve ARGS`, waits until it says that it is ready, and sets ADDR0, ADDR1, ... to its
// submission listeners, PORT0 ... to their ports, MILTER0 ... to its milters', ADMIN, and SERVER to its pid. Its log is in serve.log.
func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	r := &running{log: ts.MkAbs("serve.log"), done: make(chan error, 1)}
	f, err := os.OpenFile(r.log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	ts.Check(err)
	defer f.Close()
	path, err := exec.LookPath("postern")
	ts.Check(err)
	for _, dir := range strings.Split(ts.Getenv("PATH"), ":") {
		if p := filepath.Join(dir, "postern"); executable(p) {
			path = p
			break
		}
	}
	r.cmd = exec.Command(path, append([]string{"serve"}, args...)...)
	r.cmd.Dir, r.cmd.Stderr, r.cmd.Stdout = ts.MkAbs("."), f, f
	r.cmd.Env = append(os.Environ(), "HOME="+ts.MkAbs("."))
	ts.Check(r.cmd.Start())
	go func() { r.done <- r.cmd.Wait() }()
	ts.Defer(func() { r.stop(syscall.SIGKILL) })
	ready, err := r.ready()
	if neg {
		if err == nil {
			ts.Fatalf("serve is ready; it should have refused to start")
		}
		return
	}
	if err != nil {
		log, _ := os.ReadFile(r.log)
		ts.Fatalf("%v\n%s", err, log)
	}
	for i, a := range ready.Submission {
		ts.Setenv(fmt.Sprintf("ADDR%d", i), a)
		_, port, _ := net.SplitHostPort(a)
		ts.Setenv(fmt.Sprintf("PORT%d", i), port)
	}
	for i, a := range ready.Milter {
		ts.Setenv(fmt.Sprintf("MILTER%d", i), a)
	}
	ts.Setenv("ADMIN", ready.Admin)
	ts.Setenv("SERVER", strconv.Itoa(r.cmd.Process.Pid))
	scripts.Lock()
	scripts.byDir[ts.Getenv("WORK")] = r
	scripts.Unlock()
}

func executable(p string) bool {
	info, err := os.Stat(p)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

type readyLine struct {
	Msg        string   `json:"msg"`
	Submission []string `json:"submission"`
	Milter     []string `json:"milter"`
	Admin      string   `json:"admin"`
}

// ready waits for the log line that says so.
func (r *running) ready() (readyLine, error) {
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		b, err := os.ReadFile(r.log)
		if err != nil {
			return readyLine{}, err
		}
		for _, line := range bytes.Split(b, []byte("\n")) {
			var l readyLine
			if json.Unmarshal(line, &l) == nil && l.Msg == "ready" {
				return l, nil
			}
		}
		select {
		case err := <-r.done:
			r.done <- err
			return readyLine{}, fmt.Errorf("serve ended before it was ready: %v", err)
		default:
		}
	}
	return readyLine{}, fmt.Errorf("serve was not ready within a minute")
}

// stop sends sig and waits; after 30 seconds it kills.
func (r *running) stop(sig syscall.Signal) error {
	r.cmd.Process.Signal(sig)
	select {
	case err := <-r.done:
		r.done <- err
		return err
	case <-time.After(30 * time.Second):
		r.cmd.Process.Kill()
		err := <-r.done
		r.done <- err
		return fmt.Errorf("did not end within 30 seconds of %v: %w", sig, err)
	}
}

// cmdSignal sends HUP or TERM to the server.
func cmdSignal(ts *testscript.TestScript, _ bool, args []string) {
	sig := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM}[args[0]]
	ts.Check(server(ts).cmd.Process.Signal(sig))
}

// cmdStop ends the server with SIGTERM and wants a clean exit.
func cmdStop(ts *testscript.TestScript, _ bool, _ []string) {
	if err := server(ts).stop(syscall.SIGTERM); err != nil {
		log, _ := os.ReadFile(server(ts).log)
		ts.Fatalf("serve ended with %v\n%s", err, log)
	}
}

// cmdOPA runs stock OPA in the script's current directory.
func cmdOPA(ts *testscript.TestScript, neg bool, args []string) {
	path, err := stockOPA()
	ts.Check(err)
	if err := ts.Exec(path, args...); (err != nil) != neg {
		ts.Fatalf("opa %v: %v", args, err)
	}
}

// cmdEventually waits until what an address of the admin server answers matches a pattern: eventually URL PATTERN.
func cmdEventually(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile(args[1])
	var last string
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get(args[0])
		ts.Check(err)
		text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
		ts.Check(err)
		if last = string(text); pattern.MatchString(last) {
			return
		}
	}
	ts.Fatalf("%s never said %s, but at last\n%s", args[0], args[1], last)
}

// cmdSink starts Postfix's smtp-sink with ARGS, sets SINK to its address, and lets it write messages to sink/.
func cmdSink(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	addr := l.Addr().String()
	l.Close()
	dir := ts.MkAbs("sink")
	ts.Check(os.MkdirAll(dir, 0o777))
	ts.Check(os.Chmod(dir, 0o777))
	if os.Geteuid() == 0 {
		args = append(args, "-u", "nobody")
	}
	cmd := exec.Command("/usr/sbin/smtp-sink", append(args, "-d", "%H%M%S.", addr, "100")...)
	cmd.Dir = dir
	ts.Check(cmd.Start())
	ts.Defer(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 250 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			ts.Setenv("SINK", addr)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("smtp-sink does not answer at %s", addr)
}
