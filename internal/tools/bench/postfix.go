package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/postern-mail/postern/internal/testload"
)

// mta is a Postfix in a temporary directory, with an smtpd for each variant.
type mta struct {
	*testload.Process
	addr  []string // of the smtpds
	queue string
	log   string
}

func postfixMissing(options) string {
	if os.Getuid() != 0 {
		return "starting Postfix needs root"
	}
	if _, err := user.Lookup("postfix"); err != nil || !exists(tool("postfix")) {
		return "not installed"
	}
	return ""
}

// startMTA starts a Postfix that relays to sink and asks auth about passwords, in Dovecot's protocol. more is appended to
// main.cf; each of smtpds has the options of one smtpd, such as "-o name=value".
func startMTA(dir, sink, auth, more string, smtpds []string) (*mta, error) {
	m := &mta{queue: filepath.Join(dir, "queue"), log: filepath.Join(dir, "data", "log")}
	conf := filepath.Join(dir, "conf")
	for _, d := range []string{conf, m.queue} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, err
		}
	}
	if err := owned("postfix", filepath.Join(dir, "data")); err != nil {
		return nil, err
	}
	var master strings.Builder
	// Postfix starts only the last of two services with the same address, so the addresses must differ.
	m.addr = testload.FreeAddrs(len(smtpds))
	for i, own := range smtpds {
		fmt.Fprintf(&master, "%s inet n - n - - smtpd\n  %s\n", m.addr[i], own)
	}
	host, port := split(sink)
	if err := put(conf, map[string]string{"main.cf": fmt.Sprintf(mainCF, dir, host, port, auth) + more, "master.cf": master.String() + masterCF}); err != nil {
		return nil, err
	}
	if out, err := exec.Command(tool("postfix"), "-c", conf, "check").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("postfix check: %w\n%s", err, out)
	}
	var err error
	m.Process, err = testload.Start("postfix", m.addr[0], dir, "/usr/lib/postfix/sbin/master", "-c", conf, "-d")
	return m, err
}

// startPostfixPeer starts a submission server. If proxy is set, smtpd passes the message on to it and does not use the queue.
func startPostfixPeer(s site, proxy string) (*running, error) {
	dovecot, auth, err := startDovecot(filepath.Join(s.dir, "dovecot"))
	if err != nil {
		return nil, err
	}
	var table strings.Builder
	senders(func(address, user string) { fmt.Fprintf(&table, "%s %s\n", address, user) })
	list := filepath.Join(s.dir, "senders")
	if err := put(s.dir, map[string]string{"senders": table.String()}); err != nil {
		return nil, err
	}
	if out, err := exec.Command(tool("postmap"), "hash:"+list).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("postmap: %w\n%s", err, out)
	}
	own := "-o smtpd_tls_security_level=may"
	if proxy != "" {
		own += " -o smtpd_proxy_filter=" + proxy
	}
	m, err := startMTA(s.dir, s.sink, auth, fmt.Sprintf(submissionCF, s.cert, s.key, list), []string{own})
	if err != nil {
		_ = dovecot.Stop()
		return nil, err
	}
	m.Process.Also = []*testload.Process{dovecot}
	return &running{m.addr[0], m.Process, m.idle, m.output}, nil
}

func split(addr string) (host, port string) {
	host, port, _ = strings.Cut(addr, ":")
	return host, port
}

// idle reports whether the queue is empty.
func (m *mta) idle() bool {
	for _, q := range []string{"incoming", "active", "deferred"} {
		found := false
		_ = filepath.WalkDir(filepath.Join(m.queue, q), func(_ string, d os.DirEntry, err error) error {
			found = found || err == nil && d.Type().IsRegular()
			return nil
		})
		if found {
			return false
		}
	}
	return true
}

// output returns the end of the log.
func (m *mta) output() string {
	b, _ := os.ReadFile(m.log)
	return testload.Tail(string(b))
}

const mainCF = `compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = %[1]s/data/log
maillog_file_prefixes = %[1]s
myhostname = mta.example.com
mydestination =
alias_maps =
alias_database =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtp_host_lookup = native
relayhost = [%[2]s]:%[3]s
smtp_tls_security_level = none
in_flow_delay = 0
message_size_limit = 0
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_peername_lookup = no
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:%[4]s
smtpd_sasl_security_options = noanonymous
smtpd_client_connection_count_limit = 0
milter_default_action = tempfail
milter_protocol = 6
milter_connect_timeout = 30s
milter_command_timeout = 30s
milter_content_timeout = 300s
`

const submissionCF = `smtpd_tls_auth_only = yes
smtpd_tls_cert_file = %[1]s
smtpd_tls_key_file = %[2]s
smtpd_tls_mandatory_protocols = >=TLSv1.2
smtpd_tls_protocols = >=TLSv1.2
smtpd_sender_login_maps = hash:%[3]s
smtpd_sender_restrictions = reject_sender_login_mismatch
`

const masterCF = `pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`

// authServer speaks Dovecot's authentication protocol and accepts every password. It replaces Dovecot, whose CPU time is not
// measured here. One goroutine accepts connections until close; one for each connection ends with it.
type authServer struct {
	addr string
	ln   net.Listener
}

func newAuthServer() (*authServer, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go authenticate(c)
		}
	}()
	return &authServer{ln.Addr().String(), ln}, nil
}

func (a *authServer) close() { a.ln.Close() }

func authenticate(c net.Conn) {
	defer c.Close()
	fmt.Fprintf(c, "VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t%032d\nDONE\n", 1)
	for lines := bufio.NewScanner(c); lines.Scan(); {
		if f := strings.Split(lines.Text(), "\t"); f[0] == "AUTH" && len(f) > 1 {
			fmt.Fprintf(c, "OK\t%s\tuser=user1\n", f[1])
		}
	}
}
