package systemd

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/internal/testmilter"
)

// passed is what systemd hands over: sockets with names.
type passed struct {
	names []string
	files []*os.File
}

func (p *passed) add(t *testing.T, name, network, addr string) string {
	t.Helper()
	var f *os.File
	var at net.Addr
	var err error
	switch network {
	case "udp":
		var c net.PacketConn
		if c, err = net.ListenPacket(network, addr); err == nil {
			defer c.Close()
			f, err = c.(*net.UDPConn).File()
			at = c.LocalAddr()
		}
	default:
		var l net.Listener
		if l, err = net.Listen(network, addr); err == nil {
			defer l.Close()
			at = l.Addr()
			if u, ok := l.(*net.UnixListener); ok {
				u.SetUnlinkOnClose(false)
				f, err = u.File()
			} else {
				f, err = l.(*net.TCPListener).File()
			}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	p.names, p.files = append(p.names, name), append(p.files, f)
	return at.String()
}

// to makes a command get them. The shell knows the number of the process that it becomes.
func (p *passed) to(cmd *exec.Cmd) {
	cmd.Args = append([]string{"/bin/sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", cmd.Path}, cmd.Args[1:]...)
	cmd.Path, cmd.ExtraFiles = "/bin/sh", p.files
	cmd.Env = append(cmd.Environ(), fmt.Sprintf("LISTEN_FDS=%d", len(p.files)), "LISTEN_FDNAMES="+strings.Join(p.names, ":"))
}

const allActivated = `submission: {listen: "systemd:submission", listen_tls: ["systemd:submissions"]}
milter: {listen: [{address: "systemd:milter", name: mta}]}
policy: {data: [senders.yaml], timeout: 2s}

admin: {listen: "systemd:admin", autoconfig: {domain: example.com}}
`

// TestActivated passes sockets to the program, several under one name among them, and a milter on both networks. They serve like
// sockets that the program opens. A client that connects while the program does not run is served after the next start.
func TestActivated(t *testing.T) {
	t.Parallel()
	s := e2e.NewSite(t, "maildir:outbox", allActivated)
	p := &passed{}
	starttls := p.add(t, "submission", "tcp", "127.0.0.1:0")
	second := p.add(t, "submissions", "tcp", "127.0.0.1:0")
	first := p.add(t, "submissions", "tcp", "[::1]:0")
	unix := p.add(t, "milter", "unix", filepath.Join(s.Dir, "milter.sock"))
	tcp := p.add(t, "milter", "tcp", "127.0.0.1:0")
	admin := p.add(t, "admin", "tcp", "127.0.0.1:0")
	early := make(chan string, 1)
	go func() { early <- e2e.Submit(first, e2e.Login, e2e.Password, e2e.Address) }() // before anybody listens to it
	s.Start(t, p.to)
	for _, got := range []string{<-early, e2e.Submit(second, e2e.Login, e2e.Password, e2e.Address)} {
		if got != "sent" {
			t.Error(got)
		}
	}
	if said := e2e.SClient(t, starttls, "QUIT\r\n", "-starttls", "smtp"); !strings.Contains(said, "221 2.0.0") {
		t.Error(said)
	}
	for network, addr := range map[string]string{"unix": unix, "tcp": tcp} {
		m, err := testmilter.Dial(network, addr, testmilter.Options{})
		if err != nil {
			t.Fatal(network, err)
		}
		m.Quit()
	}
	if got := e2e.Get(t, "http://"+admin+"/healthz"); got != "ok\n" {
		t.Error(got)
	}
	_, port, _ := net.SplitHostPort(starttls)
	if got := e2e.Get(t, "http://"+admin+"/mail/config-v1.1.xml"); !strings.Contains(got, "<port>"+port+"</port>") {
		t.Errorf("the port %s is not told:\n%s", port, got)
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.Process.Pid()))
	if err != nil || !bytes.Contains(env, []byte("LISTEN_FDS=6")) {
		t.Errorf("%q, %v", env, err) // what it was started with; no child is ever started with it
	}
	if err := s.Process.Stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	go func() { early <- e2e.Submit(second, e2e.Login, e2e.Password, e2e.Address) }()
	s.Start(t, p.to)
	if got := <-early; got != "sent" {
		t.Error(got)
	}
}

// TestSocketActivate is the same with systemd's own program in systemd's place.
func TestSocketActivate(t *testing.T) {
	t.Parallel()
	program := testenv.Program(t, "systemd", "systemd-socket-activate")
	s := e2e.NewSite(t, "maildir:outbox", "submission: {listen_tls: 'systemd:submissions'}\nmilter: {listen: 'systemd:milter'}\npolicy: {data: [senders.yaml], timeout: 2s}\n")
	tls, socket := testenv.FreeAddr(t), filepath.Join(s.Dir, "milter.sock")
	early := make(chan string, 1)
	go func() { // it starts the program at the first connection
		for i := 0; i < 500; i++ {
			if c, err := net.Dial("tcp", tls); err == nil {
				c.Close()
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		early <- e2e.Submit(tls, e2e.Login, e2e.Password, e2e.Address)
	}()
	s.Start(t, func(cmd *exec.Cmd) {
		cmd.Args = append([]string{program, "-l", tls, "-l", socket, "--fdname=submissions:milter", cmd.Path}, cmd.Args[1:]...)
		cmd.Path = program
	})
	if got := <-early; got != "sent" {
		t.Error(got)
	}
	m, err := testmilter.Dial("unix", socket, testmilter.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m.Quit()
}

// TestActivationErrors: what was passed and what is configured must be the same, or nothing starts.
func TestActivationErrors(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		config string
		pass   func(*passed)
		want   string
	}{
		"none": {"submission: {listen: 'systemd:submission'}\n", func(*passed) {},
			"systemd:submission: systemd has passed no sockets; start the socket unit (systemctl start postern.socket), or write an address instead"},
		"another name": {"submission: {listen: 'systemd:submission'}\n", func(p *passed) { p.add(t, "submit", "tcp", "127.0.0.1:0") },
			`systemd:submission: systemd has passed no socket of that name, but "submit"; write FileDescriptorName=submission in the socket unit, and Sockets= in the service unit`},
		"one too many": {"submission: {listen: '127.0.0.1:0'}\n", func(p *passed) { p.add(t, "milter", "tcp", "127.0.0.1:0") },
			`systemd has passed the socket "milter", which the configuration does not use, so its clients would wait for ever; write systemd:milter where it belongs, or remove it from the socket unit`},
		"datagrams": {"submission: {listen: 'systemd:submission'}\n", func(p *passed) { p.add(t, "submission", "udp", "127.0.0.1:0") },
			"submission systemd:submission: systemd:submission: descriptor 3 is a datagram or packet socket; write ListenStream= in its unit, not ListenDatagram="},
		"a file": {"submission: {listen: 'systemd:submission'}\n", func(p *passed) {
			f, err := os.Open("/dev/null")
			if err != nil {
				t.Fatal(err)
			}
			p.names, p.files = append(p.names, "submission"), append(p.files, f)
		}, "descriptor 3 is not a socket; the unit must be a socket unit with ListenStream="},
		"a connection": {"submission: {listen: 'systemd:submission'}\n", func(p *passed) {
			pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
			if err != nil {
				t.Fatal(err)
			}
			p.names, p.files = append(p.names, "submission"), append(p.files, os.NewFile(uintptr(pair[0]), "a"))
			syscall.Close(pair[1])
		}, "descriptor 3 is the connection of one client, not a listening socket; write Accept=no in its unit"},
		"unix for submission": {"submission: {listen: 'systemd:submission'}\n", func(p *passed) { p.add(t, "submission", "unix", filepath.Join(testenv.ShortDir(t), "s")) },
			"is of network unix, but must be of tcp"},
		"open admin": {"submission: {listen: '127.0.0.1:0'}\n\nadmin: {listen: 'systemd:admin'}\n", func(p *passed) { p.add(t, "admin", "tcp", "0.0.0.0:0") },
			"which other machines can reach, and the admin server asks nobody for a password; write ListenStream=127.0.0.1:8880, or add public: true"},
	} {
		t.Run(name, func(t *testing.T) {
			s, p := e2e.NewSite(t, "maildir:outbox", tt.config), &passed{}
			tt.pass(p)
			cmd := exec.Command(e2e.Binary(t), "serve", "--config", filepath.Join(s.Dir, "postern.yaml"))
			p.to(cmd)
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() < 1 || !strings.Contains(string(out), tt.want) {
				t.Errorf("%v\n%s\nwant %s", err, out, tt.want)
			}
		})
	}
}

// TestNotify checks that the service manager is notified when the program is ready, reloading and stopping, and that it gets
// watchdog messages in between.
func TestNotify(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(testenv.ShortDir(t), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(2 * time.Minute))
	hear := func(want string) (beats int) {
		t.Helper()
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				t.Fatalf("waiting for %s: %v", want, err)
			}
			switch got := string(b[:n]); {
			case got == "WATCHDOG=1":
				if beats++; want == got && beats == 3 {
					return beats
				}
			case want != "" && strings.HasPrefix(got, want):
				return beats
			default:
				t.Fatalf("heard %q, want %s", got, want)
			}
		}
	}
	s := e2e.StartSite(t, "maildir:outbox", "", func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Environ(), "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=400000")
	})
	hear("READY=1\nSTATUS=policy ")
	hear("WATCHDOG=1")
	s.Process.Signal(syscall.SIGHUP)
	hear("RELOADING=1\nMONOTONIC_USEC=")
	hear("READY=1\nSTATUS=reload asked for")
	s.Process.Signal(syscall.SIGTERM)
	hear("STOPPING=1")
}

// unit copies the units with another program in them, and returns the service.
func unit(t *testing.T, program string) string {
	t.Helper()
	dir := testenv.ShortDir(t)
	files, err := filepath.Glob(e2e.Path(t, "docs/systemd/postern*.s*"))
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		testenv.Write(t, filepath.Join(dir, filepath.Base(f)), strings.ReplaceAll(testenv.Read(t, f), "/usr/bin/postern", program))
	}
	return filepath.Join(dir, "postern.service")
}

// TestUnits wants systemd-analyze to find no fault in the units, and the exposure level that the page names.
func TestUnits(t *testing.T) {
	testenv.NotShort(t, "systemd-analyze")
	t.Parallel()
	analyze := testenv.Program(t, "systemd", "systemd-analyze")
	service := unit(t, "/bin/true")
	sockets, _ := filepath.Glob(filepath.Join(filepath.Dir(service), "*.socket"))
	out, err := exec.Command(analyze, append([]string{"verify", "--recursive-errors=no", service}, sockets...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("verify: %v\n%s", err, out)
	}
	out, err = exec.Command(analyze, "security", "--offline=true", "--no-pager", service).CombinedOutput()
	if err != nil {
		t.Fatalf("security: %v\n%s", err, out)
	}
	score := regexp.MustCompile(`Overall exposure level for postern.service: ([0-9.]+)`).FindSubmatch(out)
	page := regexp.MustCompile(`exposure level ([0-9.]+)`).FindStringSubmatch(testenv.Read(t, e2e.Path(t, "docs/how-to/systemd.md")))
	version, err := exec.Command(analyze, "--version").Output()
	if err != nil || score == nil || page == nil {
		t.Fatalf("systemd says %q, the page %q, %v\n%s", score, page, err, out)
	}
	// Each version weighs a little differently; the page names the one it speaks of.
	if string(score[1]) != page[1] && bytes.HasPrefix(version, []byte("systemd 252 ")) || string(score[1]) > "2.0" {
		t.Errorf("systemd says %s, the page %s\n%s", score[1], page[1], out)
	}
}

// TestConfined checks that the program needs no privilege and nothing that the unit forbids. It runs as the user nobody without
// a capability, on a file system that is read-only except for its state, with ports below 1024 that were opened for it, and
// serves both doors. strace shows its system calls.
func TestConfined(t *testing.T) {
	t.Parallel()
	program, trace := filepath.Join(testenv.ShortDir(t), "postern"), filepath.Join(testenv.ShortDir(t), "trace")
	// strace finds the program's start by its path, which must be its own.
	if out, err := exec.Command("cp", e2e.PlainBinary(t), program).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := e2e.NewSite(t, "maildir:state/outbox", allActivated)
	state := filepath.Join(s.Dir, "state")
	for _, name := range []string{"users.yaml", "senders.yaml", "postern.yaml"} {
		if err := os.Chmod(filepath.Join(s.Dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := &passed{}
	p.add(t, "submission", "tcp", lowPort(t))
	tls := p.add(t, "submissions", "tcp", lowPort(t))
	milter := p.add(t, "milter", "unix", filepath.Join(s.Dir, "milter.sock"))
	admin := p.add(t, "admin", "tcp", "127.0.0.1:0")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(state, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	s.Start(t, func(cmd *exec.Cmd) {
		cmd.Args = append([]string{testenv.Program(t, "strace", "strace"), "-f", "-qq", "-s", "0", "-o", trace, "unshare", "--mount", "/bin/sh", "-c",
			`set -e; mount --make-rprivate /; mount --bind "$0" "$0"; mount -o remount,bind,ro /; export TMPDIR="$0"; export LISTEN_PID=$$
exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs "$@"`, state, program}, cmd.Args[1:]...)
		cmd.Path, cmd.ExtraFiles = cmd.Args[0], p.files
		cmd.Env = append(cmd.Environ(), fmt.Sprintf("LISTEN_FDS=%d", len(p.files)), "LISTEN_FDNAMES="+strings.Join(p.names, ":"))
	})
	if got := e2e.Submit(tls, e2e.Login, e2e.Password, e2e.Address); got != "sent" {
		t.Error(got)
	}
	if got := e2e.Submit(tls, e2e.Login, e2e.Password, "ceo@example.com"); !strings.HasPrefix(got, "550 ") {
		t.Error(got)
	}
	m, err := testmilter.Dial("unix", milter, testmilter.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m.Macros('M', "{auth_authen}", e2e.Login)
	for _, step := range []func() (testmilter.Answer, error){
		func() (testmilter.Answer, error) { return m.Connect("client.example", '4', 1234, "192.0.2.1") },
		func() (testmilter.Answer, error) { return m.Helo("client.example") },
		func() (testmilter.Answer, error) { return m.Mail("<" + e2e.Address + ">") },
		func() (testmilter.Answer, error) { return m.Rcpt("<bob@example.net>") },
	} {
		if a, err := step(); err != nil || a.Refused() {
			t.Fatal(a, err)
		}
	}
	if r, err := m.Message(e2e.Address, []string{"bob@example.net"}, []byte("From: "+e2e.Address+"\r\nSubject: x\r\n\r\nx\r\n")); err != nil {
		t.Error(r, err)
	}
	m.Quit()
	if got := e2e.Get(t, "http://"+admin+"/metrics"); !strings.Contains(got, "process_open_fds") {
		t.Errorf("metrics are missing:\n%s", got)
	}
	pid := programPid(t, trace, program)
	syscall.Kill(pid, syscall.SIGHUP)
	s.UntilHealth(t, "ok", func(e2e.Health) bool { return true })
	syscall.Kill(pid, syscall.SIGTERM)
	if err := s.Process.Wait(); err != nil {
		t.Error(err)
	}
	if got := e2e.Messages(t, filepath.Join(state, "outbox")); len(got) != 1 {
		t.Errorf("%d messages", len(got))
	}
	forbidden(t, testenv.Read(t, trace), program)
}

// lowPort returns an address with a free port below 1024.
func lowPort(t *testing.T) string {
	t.Helper()
	for port := 1023; port > 600; port-- {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port below 1024 is free, or this is not root")
	return ""
}

// programPid is the process that became the program.
func programPid(t *testing.T, trace, program string) (pid int) {
	t.Helper()
	if _, err := fmt.Sscanf(execLine(t, testenv.Read(t, trace), program), "%d", &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

func execLine(t *testing.T, trace, program string) string {
	t.Helper()
	for line := range strings.Lines(trace) {
		if strings.Contains(line, `execve("`+program+`"`) && !strings.Contains(line, "= -1") {
			return line
		}
	}
	// With -s 0 the path is not printed: the last program that was started.
	last := ""
	for line := range strings.Lines(trace) {
		if strings.Contains(line, " execve(") && strings.Contains(line, " = 0") {
			last = line
		}
	}
	return last
}

// forbidden complains of each call of the program that the unit does not allow.
func forbidden(t *testing.T, trace, program string) {
	t.Helper()
	start := execLine(t, trace, program)
	_, trace, _ = strings.Cut(trace, start)
	allowed := filterSet(t, "@system-service")
	for _, line := range strings.Split(testenv.Read(t, e2e.Path(t, "docs/systemd/postern.service")), "\n") {
		if sets, ok := strings.CutPrefix(line, "SystemCallFilter=~"); ok {
			for _, set := range strings.Fields(sets) {
				for call := range filterSet(t, set) {
					delete(allowed, call)
				}
			}
		}
	}
	if len(allowed) < 100 || allowed["chown"] || !allowed["openat"] {
		t.Fatalf("%d calls are allowed", len(allowed))
	}
	call := regexp.MustCompile(`^[0-9]+ +([a-z0-9_]+)\(([^ ,)]*)`)
	used := map[string]int{}
	for line := range strings.Lines(trace) {
		m := call.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		name := m[1]
		if used[name]++; used[name] == 1 && !allowed[name] {
			t.Errorf("the unit forbids %s: %s", name, line)
		}
		if name == "socket" && !slices.Contains([]string{"AF_INET", "AF_INET6", "AF_UNIX"}, m[2]) {
			t.Errorf("the unit forbids %s", line)
		}
		if strings.Contains(line, "PROT_WRITE|PROT_EXEC") || strings.HasPrefix(name, "mprotect") && strings.Contains(line, "PROT_EXEC") {
			t.Errorf("the unit forbids %s", line)
		}
	}
	if used["accept4"] == 0 || used["fsync"] == 0 || used["openat"] == 0 {
		t.Errorf("the trace is of something else: %v", used)
	}
	t.Logf("%d kinds of calls: %v", len(used), used)
}

// filterSet is a set of systemd's, with the sets in it.
func filterSet(t *testing.T, name string) map[string]bool {
	t.Helper()
	out, err := exec.Command(testenv.Program(t, "systemd", "systemd-analyze"), "syscall-filter", "--no-pager", name).Output()
	if err != nil {
		t.Fatal(name, err)
	}
	set := map[string]bool{}
	for _, line := range strings.Split(string(out), "\n")[1:] {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '@':
			for call := range filterSet(t, line) {
				set[call] = true
			}
		default:
			set[line] = true
		}
	}
	return set
}
