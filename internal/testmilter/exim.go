package testmilter

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// Exim is a real Exim in a directory of its own that relays to a Sink.
type Exim struct {
	Addr string
	conf string
	path string
	t    testing.TB
}

// StartExim needs root, the user that Debian's Exim was built for, and Exim unpacked where Sendmail is (see .ci/install).
func StartExim(t testing.TB, relay string) *Exim {
	t.Helper()
	testenv.NotShort(t, "Exim")
	owner, err := user.Lookup("Debian-exim")
	if err != nil || os.Getuid() != 0 {
		t.Fatalf("Exim needs root and the user Debian-exim, which .ci/install creates: uid %d, %v", os.Getuid(), err)
	}
	e := &Exim{path: unpacked(t, "exim4-daemon-light", "usr/sbin/exim4").Path, t: t}
	dir := testenv.ShortDir(t)
	spool := filepath.Join(dir, "spool")
	testenv.Must(t, os.Mkdir(spool, 0o755))
	uid, _ := strconv.Atoi(owner.Uid)
	testenv.Must(t, os.Chown(spool, uid, -1))
	e.Addr = testenv.FreeAddr(t)
	_, port, _ := strings.Cut(e.Addr, ":")
	host, relayPort, _ := strings.Cut(relay, ":")
	e.conf = write(t, filepath.Join(dir, "exim.conf"), fmt.Sprintf(`primary_hostname = mta.example.com
exim_path = %[1]s
spool_directory = %[2]s
log_file_path = %[2]s/log/%%slog
pid_file_path = %[2]s/pid
keep_environment =
deliver_drop_privilege
local_interfaces = 127.0.0.1
daemon_smtp_ports = %[3]s
tls_advertise_hosts =
rfc1413_query_timeout = 0s
message_size_limit = 0
smtp_accept_max = 0
smtp_accept_queue_per_connection = 0
acl_smtp_rcpt = accept
acl_smtp_data = accept
begin routers
sink:
  driver = manualroute
  transport = smtp
  route_list = * %[4]s
  self = send
begin transports
smtp:
  driver = smtp
  port = %[5]s
  message_linelength_limit = 1000000
`, e.path, spool, port, host, relayPort), 0o644)
	p := testenv.Start(t, exec.Command(e.path, "-C", e.conf, "-bdf"))
	log := func() string {
		b, _ := os.ReadFile(filepath.Join(spool, "log", "mainlog"))
		return p.Output() + string(b)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Exim's log:\n%s", log())
		}
	})
	p.Await(t, testenv.Answers("tcp", e.Addr))
	return e
}

// Queued is how many messages it has and has not delivered.
func (e *Exim) Queued() int {
	e.t.Helper()
	out, err := exec.Command(e.path, "-C", e.conf, "-bpc").Output()
	testenv.Must(e.t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	testenv.Must(e.t, err)
	return n
}
