package testmilter

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// Sendmail is a real Sendmail in a directory of its own, with a milter, that relays to a Sink.
type Sendmail struct {
	Addr string
	dir  string
}

// sendmailRoot is where Sendmail and miltertest are unpacked: as packages, they conflict with Postfix.
func sendmailRoot() string {
	if root := os.Getenv("POSTERN_SENDMAIL_ROOT"); root != "" {
		return root
	}
	return "/var/cache/postern-test/sendmail"
}

// unpacked is a program below sendmailRoot, with what it needs to run from there.
func unpacked(t testing.TB, pkg, path string, args ...string) *exec.Cmd {
	t.Helper()
	root := sendmailRoot()
	full := filepath.Join(root, path)
	if _, err := os.Stat(full); err != nil {
		t.Fatalf("%s of Debian's %s is missing; .ci/install unpacks it (POSTERN_SENDMAIL_ROOT is the directory): %v", full, pkg, err)
	}
	cmd := exec.Command(full, args...)
	libs, _ := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu"))
	// The resolver is asked once and briefly: nothing here needs DNS.
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(libs, ":"), "RES_OPTIONS=timeout:1 attempts:1")
	return cmd
}

// Miltertest runs Debian's miltertest with a script and definitions ("name=value"); it returns what it said.
func Miltertest(t testing.TB, script string, define ...string) (string, error) {
	t.Helper()
	testenv.NotShort(t, "miltertest")
	var args []string
	for _, d := range define {
		args = append(args, "-D", d)
	}
	out, err := unpacked(t, "miltertest", "usr/bin/miltertest", append(args, "-v", "-s", script)...).CombinedOutput()
	return string(out), err
}

// StartSendmail runs a Sendmail whose only daemon has a milter.
func StartSendmail(t testing.TB, milter, relay string) *Sendmail {
	t.Helper()
	addr := testenv.FreeAddr(t)
	_, port, _ := strings.Cut(addr, ":")
	return StartSendmailWith(t, relay, addr, fmt.Sprintf(`FEATURE(%[3]cno_default_msa')dnl
DAEMON_OPTIONS(%[3]cName=MTA, Family=inet, Addr=127.0.0.1, Port=%[1]s')dnl
INPUT_MAIL_FILTER(%[3]cpostern', %[3]cS=%[2]s, F=T, T=C:10s;S:10s;R:20s;E:60s')dnl
`, port, milter, '`'))
}

// StartSendmailWith runs a Sendmail with the daemons and filters that mc, a part of sendmail.mc, says; one of the daemons
// listens at addr. It needs root: it gives Sendmail a host name with a domain, without which it sleeps a minute at its start.
func StartSendmailWith(t testing.TB, relay, addr, mc string) *Sendmail {
	t.Helper()
	testenv.NotShort(t, "Sendmail")
	// Sendmail trusts no certificate below a directory that everybody may write to, such as /tmp.
	s := &Sendmail{dir: testenv.ShortDirIn(t, filepath.Dir(sendmailRoot()))}
	testenv.Must(t, os.Mkdir(filepath.Join(s.dir, "mqueue"), 0o700))
	s.Addr = addr
	conf := s.configure(t, relay, mc)
	daemon := unpacked(t, "sendmail-bin", "usr/libexec/sendmail/sendmail")
	cmd := exec.Command("/bin/sh", "-c", `hostname mta.example.com && exec "$@"`, "sh", daemon.Path, "-bD", "-C", conf, "-X", filepath.Join(s.dir, "traffic"))
	cmd.Env = daemon.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS}
	p := testenv.Start(t, cmd)
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(s.dir, "traffic"))
			t.Logf("Sendmail's traffic:\n%s", b)
		}
	})
	p.Await(t, testenv.Answers("tcp", s.Addr))
	return s
}

// configure makes sendmail.cf with m4, as an administrator would. By default Sendmail does not listen while the machine's load is
// above 12 for each processor, which a busy test machine exceeds.
func (s *Sendmail) configure(t testing.TB, relay, own string) string {
	t.Helper()
	cf := filepath.Join(sendmailRoot(), "usr/share/sendmail/cf")
	host, relayPort, _ := strings.Cut(relay, ":")
	cert, key := certificate(t, s.dir)
	write(t, filepath.Join(s.dir, "switch"), "hosts files\naliases files\n", 0o644)
	mc := write(t, filepath.Join(s.dir, "sendmail.mc"), fmt.Sprintf("divert(0)dnl\n"+strings.ReplaceAll(`OSTYPE(^linux')dnl
define(^confDOMAIN_NAME', ^mta.example.com')dnl
define(^QUEUE_DIR', ^%[1]s/mqueue')dnl
define(^STATUS_FILE', ^%[1]s/statistics')dnl
define(^HELP_FILE', ^')dnl
undefine(^ALIAS_FILE')dnl
define(^confPID_FILE', ^%[1]s/pid')dnl
define(^confCW_FILE', ^-o %[1]s/local-host-names')dnl
define(^confCT_FILE', ^-o %[1]s/trusted-users')dnl
define(^confTO_IDENT', ^0')dnl
define(^confQUEUE_LA', ^10000')dnl
define(^confREFUSE_LA', ^10000')dnl
define(^confDELIVERY_MODE', ^interactive')dnl
define(^confSERVICE_SWITCH_FILE', ^%[1]s/switch')dnl
define(^confCACERT_PATH', ^%[1]s')dnl
define(^confCACERT', ^%[2]s')dnl
define(^confSERVER_CERT', ^%[2]s')dnl
define(^confSERVER_KEY', ^%[3]s')dnl
define(^SMART_HOST', ^relay:[%[4]s]')dnl
define(^RELAY_MAILER_ARGS', ^TCP $h %[5]s')dnl
FEATURE(^nocanonify')dnl
FEATURE(^accept_unresolvable_domains')dnl
FEATURE(^accept_unqualified_senders')dnl
FEATURE(^promiscuous_relay')dnl
%[6]sMAILER(^local')dnl
MAILER(^smtp')dnl
`, "^", "`"), s.dir, cert, key, host, relayPort, own), 0o644)
	m4 := unpacked(t, "m4", "usr/bin/m4", "-D_CF_DIR_="+cf+"/", filepath.Join(cf, "m4/cf.m4"), mc)
	out, err := m4.Output()
	testenv.Must(t, err)
	return write(t, filepath.Join(s.dir, "sendmail.cf"), string(out), 0o644)
}
