package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/postern-mail/postern/internal/testload"
)

// unpackRoot is the directory where .ci/install and -install-peers unpack Exim, whose package conflicts with that of Postfix.
func unpackRoot() string {
	if dir := os.Getenv("POSTERN_SENDMAIL_ROOT"); dir != "" {
		return dir
	}
	return "/var/cache/postern-test/sendmail"
}

func eximPath() string {
	if p := filepath.Join(unpackRoot(), "usr/sbin/exim4"); exists(p) {
		return p
	}
	return tool("exim4")
}

func eximMissing(options) string {
	if os.Getuid() != 0 {
		return "starting Exim needs root"
	}
	if _, err := user.Lookup("Debian-exim"); err != nil || !exists(eximPath()) {
		return "not installed"
	}
	return ""
}

func startExim(_ options, s site) (*running, error) {
	spool := filepath.Join(s.dir, "spool")
	if err := owned("Debian-exim", spool, filepath.Join(s.dir, "tls")); err != nil {
		return nil, err
	}
	// Exim reads the key as the user Debian-exim.
	for from, to := range map[string]string{s.cert: "cert.pem", s.key: "key.pem"} {
		b, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		if err := put(s.dir, map[string]string{"tls/" + to: string(b)}); err != nil {
			return nil, err
		}
	}
	var table [][2]string
	senders(func(address, user string) { table = append(table, [2]string{address, user}) })
	hash := strings.ToUpper(fmt.Sprintf("%x", sha256.Sum256([]byte(password+salt))))
	addr := testload.FreeAddr()
	_, port, _ := strings.Cut(addr, ":")
	sinkHost, sinkPort, _ := strings.Cut(s.sink, ":")
	conf := fmt.Sprintf(eximConf, eximPath(), s.dir, port, salt, sinkHost, sinkPort)
	if err := put(s.dir, map[string]string{"exim.conf": conf, "senders.cdb": string(cdb(table)), "users.cdb": string(cdb([][2]string{{login, hash}}))}); err != nil {
		return nil, err
	}
	p, err := testload.Start("exim", addr, s.dir, eximPath(), "-C", filepath.Join(s.dir, "exim.conf"), "-bdf")
	if err != nil {
		return nil, err
	}
	return &running{addr: addr, process: p, output: func() string {
		var all strings.Builder
		for _, name := range []string{"main", "panic", "reject"} {
			b, _ := os.ReadFile(filepath.Join(spool, "log", name+"log"))
			all.WriteString(testload.Tail(string(b)) + "\n")
		}
		return all.String() + p.Log.String()
	}}, nil
}

const eximConf = `primary_hostname = bench.example.com
exim_path = %[1]s
spool_directory = %[2]s/spool
log_file_path = %[2]s/spool/log/%%slog
pid_file_path = %[2]s/spool/pid
keep_environment =
deliver_drop_privilege
local_interfaces = 127.0.0.1
daemon_smtp_ports = %[3]s
rfc1413_query_timeout = 0s
smtp_connect_backlog = 200
smtp_accept_max = 0
smtp_accept_max_per_connection = 1000000
smtp_accept_queue_per_connection = 0
message_size_limit = 0
tls_advertise_hosts = *
tls_certificate = %[2]s/tls/cert.pem
tls_privatekey = %[2]s/tls/key.pem
auth_advertise_hosts = ${if eq{$tls_in_cipher}{}{}{*}}
acl_smtp_mail = mail
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
begin acl
mail:
  require authenticated = *
          message = who are you?
          condition = ${if eq{${lookup{$sender_address}cdb{%[2]s/senders.cdb}}}{$authenticated_id}}
  accept
rcpt:
  require authenticated = *
  accept control = cutthrough_delivery
begin routers
sink:
  driver = manualroute
  transport = smtp
  route_list = * %[5]s
  self = send
begin transports
smtp:
  driver = smtp
  port = %[6]s
  hosts_avoid_tls = *
  hosts_try_dane =
  message_linelength_limit = 1000000
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if eq{${lookup{$auth2}cdb{%[2]s/users.cdb}}}{${sha256:${auth3}%[4]s}}}
  server_set_id = $auth2
`
