package testmilter

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// Postfix is a real Postfix in a directory of its own, with a milter, STARTTLS and Dovecot SASL, that relays to a Sink.
type Postfix struct {
	Addr  string // of smtpd
	dir   string
	queue string
	t     testing.TB
}

// PostfixOptions are what differs between tests.
type PostfixOptions struct {
	Milter    string // "inet:127.0.0.1:8891" or "unix:/path": both smtpd_milters and non_smtpd_milters
	NonSMTPD  string // of non_smtpd_milters, where it is another
	Relay     string // host:port that mail goes to
	SASL      string // host:port of a Dovecot auth service; "": no AUTH
	Main      string // further lines of main.cf
	Master    string // further lines of master.cf
	Queue     string // its queue directory; "": in a directory of its own
	NoMilters bool
}

// StartPostfix needs root, as Postfix does. It is stopped with the test.
func StartPostfix(t testing.TB, o PostfixOptions) *Postfix {
	t.Helper()
	testenv.NotShort(t, "Postfix")
	postfix := testenv.Program(t, "postfix", "/usr/sbin/postfix")
	owner, err := user.Lookup("postfix")
	if err != nil || os.Getuid() != 0 {
		t.Fatalf("a Postfix of our own needs root and Debian's postfix installed: uid %d, %v", os.Getuid(), err)
	}
	p := &Postfix{dir: testenv.ShortDir(t), t: t}
	for _, d := range []string{"conf", "data"} {
		testenv.Must(t, os.Mkdir(filepath.Join(p.dir, d), 0o755))
	}
	if p.queue = o.Queue; p.queue == "" {
		p.queue = filepath.Join(p.dir, "queue")
		testenv.Must(t, os.Mkdir(p.queue, 0o755))
	}
	uid, _ := strconv.Atoi(owner.Uid)
	testenv.Must(t, os.Chown(filepath.Join(p.dir, "data"), uid, -1))
	p.Addr = testenv.FreeAddr(t)
	p.configure(o)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Postfix's log:\n%s", p.Log())
		}
	})
	if out, err := exec.Command(postfix, "-c", p.conf(), "check").CombinedOutput(); err != nil {
		t.Fatalf("postfix check: %v\n%s", err, out)
	}
	// In the foreground, so that it ends with this process even if the test crashes.
	testenv.Start(t, exec.Command("/usr/lib/postfix/sbin/master", "-c", p.conf(), "-d")).Await(t, testenv.Answers("tcp", p.Addr))
	return p
}

func (p *Postfix) conf() string { return filepath.Join(p.dir, "conf") }

// Log is what it logged so far.
func (p *Postfix) Log() string {
	b, _ := os.ReadFile(filepath.Join(p.dir, "data", "log"))
	return string(b)
}

// mainCF is main.cf: directory, host and port of the relay, certificate, key, milters of smtpd, other milters, SASL, further lines, queue.
const mainCF = `compatibility_level = 3.6
queue_directory = %[10]s
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = %[1]s/data/log
maillog_file_prefixes = %[1]s
myhostname = mta.example.com
mydomain = example.com
myorigin = example.com
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
mynetworks = 0.0.0.0/0
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtp_host_lookup = native
relayhost = [%[2]s]:%[3]s
smtp_tls_security_level = none
smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject
smtpd_peername_lookup = no
smtpd_tls_security_level = may
smtpd_tls_cert_file = %[4]s
smtpd_tls_key_file = %[5]s
smtpd_milters = %[6]s
non_smtpd_milters = %[7]s
milter_default_action = tempfail
milter_connect_timeout = 10s
milter_command_timeout = 20s
milter_content_timeout = 60s
%[8]s%[9]s
`

// masterCF is master.cf: address of smtpd, further lines.
const masterCF = `%s inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
%s`

// configure writes the files of Postfix's configuration.
func (p *Postfix) configure(o PostfixOptions) {
	cert, key := certificate(p.t, p.conf())
	if o.NonSMTPD == "" {
		o.NonSMTPD = o.Milter
	}
	if o.NoMilters {
		o.Milter, o.NonSMTPD = "", ""
	}
	sasl := ""
	if o.SASL != "" {
		sasl = "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = inet:" + o.SASL + "\nsmtpd_sasl_security_options = noanonymous\n"
	}
	host, relayPort, _ := strings.Cut(o.Relay, ":")
	main := fmt.Sprintf(mainCF, p.dir, host, relayPort, cert, key, o.Milter, o.NonSMTPD, sasl, o.Main, p.queue)
	write(p.t, filepath.Join(p.conf(), "main.cf"), lastOfEach(main), 0o644)
	write(p.t, filepath.Join(p.conf(), "master.cf"), fmt.Sprintf(masterCF, p.Addr, o.Master), 0o644)
}

// lastOfEach leaves out the settings that a later line overrides. Postfix would warn of each, every daemon of it, and
// postlogd too: it then waits for itself once its socket's short queue is full.
func lastOfEach(main string) string {
	lines := strings.SplitAfter(main, "\n")
	last := map[string]int{}
	key := func(line string) string { k, _, _ := strings.Cut(line, "="); return strings.TrimSpace(k) }
	for i, l := range lines {
		last[key(l)] = i
	}
	var b strings.Builder
	for i, l := range lines {
		if last[key(l)] == i {
			b.WriteString(l)
		}
	}
	return b.String()
}

// Sendmail hands a message to sendmail(1), and so to pickup and non_smtpd_milters.
func (p *Postfix) Sendmail(eml string, args ...string) {
	p.t.Helper()
	cmd := exec.Command(testenv.Program(p.t, "postfix", "/usr/sbin/sendmail"), append([]string{"-C", p.conf()}, args...)...)
	cmd.Stdin = strings.NewReader(eml)
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("sendmail: %v\n%s\n%s", err, out, p.Log())
	}
}

// Queue returns the messages in a queue ("hold", "deferred"), as postqueue -j lists them.
func (p *Postfix) Queue(name string) []map[string]any {
	p.t.Helper()
	out, err := exec.Command(testenv.Program(p.t, "postfix", "/usr/sbin/postqueue"), "-c", p.conf(), "-j").Output()
	testenv.Must(p.t, err)
	var list []map[string]any
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["queue_name"] == name {
			list = append(list, entry)
		}
	}
	return list
}

// WaitLog waits until the log has text in it.
func (p *Postfix) WaitLog(text string) {
	p.t.Helper()
	for range 200 {
		if strings.Contains(p.Log(), text) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.t.Fatalf("%q was never logged:\n%s", text, p.Log())
}

// StartDovecotAuth runs a Dovecot that only authenticates, and gives its address. Any user may log in with password.
func StartDovecotAuth(t testing.TB, password string) string {
	t.Helper()
	testenv.NotShort(t, "Dovecot")
	dovecot := testenv.Program(t, "dovecot-core", "/usr/sbin/dovecot")
	dir := testenv.ShortDir(t)
	addr := testenv.FreeAddr(t)
	_, port, _ := strings.Cut(addr, ":")
	conf := write(t, filepath.Join(dir, "dovecot.conf"), fmt.Sprintf(`base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = /dev/stderr
protocols =
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_username_chars =
passdb {
  driver = static
  args = password=%[3]s
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}
service auth {
  inet_listener {
    address = 127.0.0.1
    port = %[2]s
  }
}
`, dir, port, password), 0o644)
	testenv.Background(t, exec.Command(dovecot, "-F", "-c", conf), "tcp", addr)
	return addr
}
