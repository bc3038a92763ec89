package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/postern-mail/postern/internal/testenv"
)

// The one user of a Site, who may send as one address.
const (
	Login    = "alice"
	Address  = "alice@example.com"
	Password = "correct horse battery staple"
)

// Site is a directory with a configuration, a users file and policy data, and the `postern serve` that runs there. The addresses
// are known once it is ready.
type Site struct {
	Dir     string
	Addr    string   // the listener with STARTTLS
	TLS     string   // the first listener with implicit TLS
	AllTLS  []string // every listener with implicit TLS
	Admin   string
	Milter  string   // the milter's TCP address, if it has one
	Env     []string // added to the environment of the program
	Process *Process
}

// passwordHash is cheap to check, because no test measures how long guessing takes.
var passwordHash = sync.OnceValues(func() (string, error) {
	b, err := bcrypt.GenerateFromPassword([]byte(Password), bcrypt.MinCost)
	return string(b), err
})

// StartSite makes a Site and starts it. When the test ends, the program must end without an error. relay is where mail goes; more is
// YAML that replaces sections of the usual configuration; change edits the command that is run.
func StartSite(t testing.TB, relay, more string, change ...func(*exec.Cmd)) *Site {
	t.Helper()
	s := NewSite(t, relay, more)
	s.Start(t, change...)
	return s
}

// NewSite is StartSite without the start.
func NewSite(t testing.TB, relay, more string) *Site {
	t.Helper()
	s := EmptySite(t)
	hash, err := passwordHash()
	testenv.Must(t, err)
	testenv.Write(t, filepath.Join(s.Dir, "users.yaml"), "users:\n  "+Login+": '"+hash+"'\n")
	testenv.Write(t, filepath.Join(s.Dir, "senders.yaml"), "senders: {"+Login+": ["+Address+"]}\nsettings: {domain: example.com}\n")
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
	testenv.Write(t, filepath.Join(s.Dir, "postern.yaml"), "hostname: mail.example.com\nstate_dir: state\nrelay: {to: '"+relay+"'}\n"+more)
	return s
}

// EmptySite is a Site whose directory is empty. The test writes postern.yaml.
func EmptySite(t testing.TB) *Site {
	t.Helper()
	return EmptySiteIn(t, "")
}

// EmptySiteIn is EmptySite below the directory parent. An empty parent is the system's directory for temporary files.
func EmptySiteIn(t testing.TB, parent string) *Site {
	t.Helper()
	testenv.NotShort(t, "the built program")
	return &Site{Dir: testenv.ShortDirIn(t, parent)}
}

// Start starts the program and waits until it is ready. When the test ends, the program must end without an error, unless the test
// has waited for its end.
func (s *Site) Start(t testing.TB, change ...func(*exec.Cmd)) {
	t.Helper()
	p := s.Launch(t, "serve.log", change...)
	t.Cleanup(func() {
		if err := p.Stop(syscall.SIGTERM); err != nil && !p.waited {
			t.Errorf("postern serve ended with %v", err)
		}
		if t.Failed() {
			log, _ := os.ReadFile(p.Log)
			t.Logf("postern serve logged:\n%s", log[max(0, len(log)-16<<10):])
		}
	})
	s.Await(t, p)
}

// Launch starts the program and waits for nothing. Its log goes to the file log of the site. The test must end the process.
func (s *Site) Launch(t testing.TB, log string, change ...func(*exec.Cmd)) *Process {
	t.Helper()
	cmd := exec.Command(Binary(t), "serve", "--config", filepath.Join(s.Dir, "postern.yaml"))
	cmd.Dir = s.Dir
	if s.Env != nil {
		cmd.Env = append(os.Environ(), s.Env...)
	}
	for _, c := range change {
		c(cmd)
	}
	p, err := StartProcess(cmd, filepath.Join(s.Dir, log))
	testenv.Must(t, err)
	return p
}

// Await waits until p is ready, and takes its addresses.
func (s *Site) Await(t testing.TB, p *Process) {
	t.Helper()
	ready, err := p.Ready()
	testenv.Must(t, err)
	s.Process, s.Admin = p, ready.Admin
	if len(ready.Submission) > 0 {
		s.Addr = ready.Submission[0]
	}
	if len(ready.Submission) > 1 {
		s.TLS, s.AllTLS = ready.Submission[1], ready.Submission[1:]
	}
	for _, m := range ready.Milter {
		if addr, ok := strings.CutPrefix(m, "tcp:"); ok {
			s.Milter = addr
		}
	}
}

// Run runs another command of the program in the site's directory. It returns what the command wrote and its exit code.
func (s *Site) Run(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(Binary(t), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Certificate returns the path of the certificate that the program made for itself.
func (s *Site) Certificate() string { return filepath.Join(s.Dir, "state/tls/cert.pem") }
