package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
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

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the test binary be the program: scripts and tests run `postern` as a process of its own. With
// POSTERN_BINARY set they run that file instead, so that the built artefact passes the same scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"postern": main})
}

// TestScript runs the scenarios of testdata/script: one readable file each.
func TestScript(t *testing.T) {
	testenv.NotShort(t, "several seconds and smtp-sink")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": cmdServe, "smtp": cmdSMTP, "sink": cmdSink, "signal": cmdSignal, "end": cmdStop, "until": cmdUntil, "collect": cmdCollect,
			"opa": cmdOPA, "default-ports": cmdDefaultPorts, "eventually": cmdEventually,
		},
		Setup: func(e *testscript.Env) error {
			policies, err := filepath.Abs("../../policies")
			if err != nil {
				return err
			}
			e.Setenv("POLICIES", policies) // the default bundle, to copy and change
			opa, err := testenv.StockOPA()
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

// scripts finds the server of a script by its directory: testscript's commands have no other place to keep it.
var scripts = struct {
	sync.Mutex
	byDir map[string]*e2e.Process
}{byDir: map[string]*e2e.Process{}}

func server(ts *testscript.TestScript) *e2e.Process {
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
	path, err := exec.LookPath("postern")
	ts.Check(err)
	for _, dir := range strings.Split(ts.Getenv("PATH"), ":") {
		if p := filepath.Join(dir, "postern"); executable(p) {
			path = p
			break
		}
	}
	log := ts.MkAbs("serve.log")
	if err := os.Remove(log); !errors.Is(err, fs.ErrNotExist) { // that of an earlier run was ready, too
		ts.Check(err)
	}
	cmd := exec.Command(path, append([]string{"serve"}, args...)...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(os.Environ(), "HOME="+ts.MkAbs("."))
	p, err := e2e.StartProcess(cmd, log)
	ts.Check(err)
	ts.Defer(func() { p.Stop(syscall.SIGKILL) })
	ready, err := p.Ready()
	if neg {
		if err == nil {
			ts.Fatalf("serve is ready; it should have refused to start")
		}
		return
	}
	if err != nil {
		text, _ := os.ReadFile(log)
		ts.Fatalf("%v\n%s", err, text)
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
	ts.Setenv("SERVER", strconv.Itoa(p.Pid()))
	scripts.Lock()
	scripts.byDir[ts.Getenv("WORK")] = p
	scripts.Unlock()
}

func executable(p string) bool {
	info, err := os.Stat(p)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// cmdSignal sends HUP or TERM to the server.
func cmdSignal(ts *testscript.TestScript, _ bool, args []string) {
	sig := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM}[args[0]]
	ts.Check(server(ts).Signal(sig))
}

// cmdStop ends the server with SIGTERM and wants a clean exit.
func cmdStop(ts *testscript.TestScript, _ bool, _ []string) {
	if err := server(ts).Stop(syscall.SIGTERM); err != nil {
		log, _ := os.ReadFile(server(ts).Log)
		ts.Fatalf("serve ended with %v\n%s", err, log)
	}
}

// cmdDefaultPorts keeps the ports of a program without a configuration for this script, which may have to wait for another test.
func cmdDefaultPorts(ts *testscript.TestScript, _ bool, _ []string) {
	release, err := testenv.LockDefaultPorts()
	ts.Check(err)
	ts.Defer(release)
}

// cmdOPA runs stock OPA in the script's current directory.
func cmdOPA(ts *testscript.TestScript, neg bool, args []string) {
	path, err := testenv.StockOPA()
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
