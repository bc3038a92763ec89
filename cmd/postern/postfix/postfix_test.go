package postfix

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const goodMain = `compatibility_level = 3.6
myhostname = mail.example.com
mynetworks = 127.0.0.0/8
queue_directory = QUEUE
smtpd_milters = inet:127.0.0.1:8891
non_smtpd_milters = inet:127.0.0.1:8891
milter_default_action = tempfail
milter_protocol = 6
smtpd_sasl_auth_enable = yes
smtpd_tls_security_level = encrypt
`

// TestCheck reads real Postfix configurations through the real postconf: everything that is found, and nothing else.
func TestCheck(t *testing.T) {
	const submission, chrooted = "submission inet n - n - - smtpd\n", "submission inet n - y - - smtpd\n"
	without := func(line string) string { return strings.Replace(goodMain, line+"\n", "", 1) }
	unix := func(socket string) string { return strings.ReplaceAll(goodMain, "inet:127.0.0.1:8891", socket) }
	inQueue := func(mode fs.FileMode, group string) []Listener {
		return []Listener{{"unix", "QUEUE/postern/milter.sock", mode, group}}
	}
	for _, tc := range []struct {
		name, main, master string
		listen             []Listener // nil: tcp:127.0.0.1:8891
		want               []string   // beginnings of "severity where: message"; all of them
	}{
		{"good", goodMain, submission, nil, nil},
		{"fail open", goodMain + "milter_default_action = accept\n", submission, nil, []string{"error main.cf: milter_default_action"}},
		{"3.11", goodMain + "milter_default_action = shutdown\n", submission, nil, []string{"warning main.cf: milter_default_action"}},
		{"lost mail", goodMain + "milter_default_action = reject\n", submission, nil, []string{"error main.cf: milter_default_action"}},
		{"unset action", without("milter_default_action = tempfail"), submission, nil,
			[]string{"warning main.cf: milter_default_action: it is left to the default, which is "}},
		{"action of a service", goodMain, submission + "  -o milter_default_action=accept\n", nil, []string{"error master.cf: submission/inet: with the default action accept"}},
		{"overridden in master.cf", goodMain, submission + "  -o smtpd_milters=\n", nil,
			[]string{"error master.cf: no smtpd service", "error master.cf: submission/inet: mail that is submitted here does not pass"}},
		{"one of two services", goodMain, submission + "smtps inet n - n - - smtpd\n  -o smtpd_milters=\n", nil, []string{"error master.cf: smtps/inet: mail that is submitted"}},
		{"no_milters", goodMain, submission + "  -o receive_override_options=no_milters\n", nil, []string{"error master.cf: submission/inet: receive_override"}},
		{"no_milters everywhere", goodMain + "receive_override_options = no_milters\n", submission, nil,
			[]string{"error main.cf: receive_override_options", "error master.cf: submission/inet: receive_override"}},
		{"braces", goodMain, submission + "  -o { smtpd_milters = { inet:127.0.0.1:8891, default_action=accept, command_timeout=1s } }\n", nil,
			[]string{"error master.cf: submission/inet: milter_command_timeout = 1s", "error master.cf: submission/inet: with the default action accept"}},
		{"proxy", goodMain, submission + "  -o smtpd_proxy_filter=127.0.0.1:10024\n", nil, []string{"error master.cf: submission/inet: with smtpd_proxy_filter"}},
		{"client list", goodMain + "smtpd_milter_maps = cidr:/etc/postfix/x\n", submission, nil, []string{"warning master.cf: submission/inet: smtpd_milter_maps"}},
		{"the world's mail", goodMain, submission + "smtp inet n - n - - smtpd\n", nil, []string{"warning master.cf: smtp/inet: mail from other servers"}},
		{"the world's mail past it", goodMain, submission + "smtp inet n - n - - smtpd\n  -o smtpd_milters=\n", nil, nil},
		{"behind postscreen", goodMain, submission + "smtpd pass - - n - - smtpd\n", nil, []string{"warning master.cf: smtpd/pass: mail from other servers"}},
		{"back from a filter", goodMain + "content_filter = scan:127.0.0.1:10025\n", submission + "127.0.0.1:10026 inet n - n - - smtpd\n", nil,
			[]string{"warning master.cf: 127.0.0.1:10026/inet: mail that comes back from content_filter"}},
		{"hidden socket", unix("unix:/run/postern/milter.sock"), chrooted, []Listener{{"unix", "/run/postern/milter.sock", 0o666, ""}},
			[]string{"error master.cf: submission/inet: the service runs in a chroot", "warning postern.yaml: milter.listen[0]: /run/postern: no such"}},
		{"chroot by default", strings.Replace(unix("unix:/run/postern/milter.sock"), "= 3.6", "= 0", 1), "submission inet n - - - - smtpd\n",
			[]Listener{{"unix", "/run/postern/milter.sock", 0o666, ""}},
			[]string{"error master.cf: submission/inet: the service runs in a chroot", "warning postern.yaml: milter.listen[0]: /run/postern: no such"}},
		{"local mail's chroot", strings.Replace(goodMain, "non_smtpd_milters = inet:127.0.0.1:8891", "non_smtpd_milters = unix:QUEUE/postern/milter.sock", 1),
			submission + "cleanup unix n - y - 0 cleanup\n", append(inQueue(0o660, "postfix"), Listener{Network: "tcp", Address: "127.0.0.1:8891"}),
			[]string{"error main.cf: non_smtpd_milters: the service runs in a chroot"}},
		{"socket in the chroot", unix("unix:postern/milter.sock"), chrooted, inQueue(0o660, "postfix"), nil},
		{"socket of nobody's", unix("unix:postern/milter.sock"), chrooted, inQueue(0o600, "postfix"),
			[]string{"error postern.yaml: milter.listen[0]: Postfix's user postfix cannot write to"}},
		{"socket of another group", unix("unix:postern/milter.sock"), chrooted, inQueue(0o660, "daemon"),
			[]string{"error postern.yaml: milter.listen[0]: Postfix's user postfix cannot write to"}},
		{"closed directory", unix("unix:closed/milter.sock"), chrooted, []Listener{{"unix", "QUEUE/closed/milter.sock", 0o666, ""}},
			[]string{"error postern.yaml: milter.listen[0]: Postfix's user postfix cannot pass through"}},
		{"unused listener", goodMain, submission, []Listener{{Network: "tcp", Address: "127.0.0.1:8891"}, {Network: "tcp", Address: "127.0.0.1:8892"}},
			[]string{"warning postern.yaml: milter.listen[1]: nothing in this Postfix uses tcp:127.0.0.1:8892"}},
		{"no listener", goodMain, submission, []Listener{}, []string{"error postern.yaml: milter.listen"}},
		{"another machine's", goodMain, submission, []Listener{{Network: "tcp", Address: "192.0.2.1:8891"}},
			[]string{"error master.cf: no smtpd", "error master.cf: submission/inet: mail that is submitted", "warning main.cf: non_smtpd_milters: mail from sendmail(1)"}},
		{"another name of loopback", strings.ReplaceAll(goodMain, "127.0.0.1:8891", "localhost:8891"), submission, nil, nil},
		{"Sendmail's notation", strings.Replace(goodMain, "smtpd_milters = inet:127.0.0.1:8891", "smtpd_milters = inet:127.0.0.1:8891, inet:8899@localhost", 1), submission, nil,
			[]string{"error master.cf: submission/inet: inet:8899@localhost is Sendmail's notation"}},
		{"old notation", strings.Replace(goodMain, "smtpd_milters = inet:127.0.0.1:8891", "smtpd_milters = inet:127.0.0.1:8891, local:/run/x", 1), submission, nil,
			[]string{"error master.cf: submission/inet: local:/run/x is not a socket"}},
		{"old protocol", goodMain + "milter_protocol = 2\n", submission, nil, []string{"warning main.cf: milter_protocol"}},
		{"old protocol without logins", goodMain + "milter_protocol = 4\nmilter_mail_macros = i {auth_type}\n", submission, nil,
			[]string{"error main.cf: milter_mail_macros: version 4 does not let the milter ask for {auth_authen}", "warning main.cf: milter_protocol"}},
		{"a Postfix in disguise", goodMain + "mail_name = ESMTP\n", submission, nil, []string{"error main.cf: milter_macro_v"}},
		{"short time-out", goodMain + "milter_command_timeout = 2s\n", submission, nil, []string{"error main.cf: milter_command_timeout"}},
		{"long time-outs", goodMain + "milter_connect_timeout = 1m\nmilter_content_timeout = 600\n", submission, nil, nil},
		{"local mail", without("non_smtpd_milters = inet:127.0.0.1:8891"), submission, nil, []string{"warning main.cf: non_smtpd_milters: mail from sendmail(1)"}},
		{"local mail alone", without("smtpd_milters = inet:127.0.0.1:8891"), submission, nil,
			[]string{"error master.cf: no smtpd service", "error master.cf: submission/inet: mail that is submitted"}},
		{"bounces", goodMain + "internal_mail_filter_classes = bounce\n", submission, nil, []string{"warning main.cf: internal_mail_filter_classes"}},
		{"header checks", goodMain + "milter_header_checks = pcre:/x\n", submission, nil, []string{"warning main.cf: milter_header_checks"}},
		{"no sasl", goodMain + "smtpd_sasl_auth_enable = no\n", submission, nil, []string{"warning master.cf: submission/inet: without SASL"}},
		{"in the clear", goodMain + "smtpd_tls_security_level = may\n", submission, nil, []string{"warning master.cf: submission/inet: clients may submit"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, queue := configured(t, tc.main, tc.master)
			if tc.listen == nil {
				tc.listen = []Listener{{Network: "tcp", Address: "127.0.0.1:8891"}}
			}
			for i := range tc.listen {
				tc.listen[i].Address = strings.Replace(tc.listen[i].Address, "QUEUE", queue, 1)
			}
			compare(t, Check(s, Milter{Listen: tc.listen, Timeout: time.Second, NeedsLogin: true}), tc.want)
		})
	}
}

// TestCheckLocal: what policy does to mail of programs is known of the default policy only.
func TestCheckLocal(t *testing.T) {
	s, _ := configured(t, goodMain, "submission inet n - n - - smtpd\nsmtp inet n - n - - smtpd\n")
	b := Milter{Listen: []Listener{{Network: "tcp", Address: "127.0.0.1:8891"}}, Timeout: time.Second}
	compare(t, Check(s, b), nil)
	b.RefusesLocal = true
	compare(t, Check(s, b), []string{"warning main.cf: non_smtpd_milters: mail of programs on this host"})
}

// TestSocketAsItIs: a socket that is there is looked at itself.
func TestSocketAsItIs(t *testing.T) {
	s, queue := configured(t, strings.ReplaceAll(goodMain, "inet:127.0.0.1:8891", "unix:postern/milter.sock"), "submission inet n - y - - smtpd\n")
	path := filepath.Join(queue, "postern/milter.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	b := Milter{Listen: []Listener{{"unix", path, 0o666, ""}}, Timeout: time.Second}
	for mode, want := range map[fs.FileMode][]string{0o666: nil, 0o600: {"error postern.yaml: milter.listen[0]: Postfix's user postfix cannot write to"}} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		compare(t, Check(s, b), want)
	}
}

// configured reads a configuration, with QUEUE in it replaced by a directory. In that, every user can enter the directory postern, and
// only the owner can enter the directory closed.
func configured(t *testing.T, main, master string) (s *Setup, queue string) {
	t.Helper()
	dir := t.TempDir()
	queue = filepath.Join(dir, "queue")
	for name, mode := range map[string]fs.FileMode{"postern": 0o755, "closed": 0o700} {
		if err := errors.Join(os.MkdirAll(filepath.Join(queue, name), 0o755), os.Chmod(filepath.Join(queue, name), mode)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "main.cf"), strings.ReplaceAll(main, "QUEUE", queue))
	write(t, filepath.Join(dir, "master.cf"), master)
	s, err := Read(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return s, queue
}

func compare(t *testing.T, found []Finding, want []string) {
	t.Helper()
	var got []string
	matches := len(found) == len(want)
	for i, f := range found {
		line := string(f.Severity) + " " + f.Where + ": " + f.Message
		got = append(got, line)
		matches = matches && strings.HasPrefix(line, want[i])
		if f.Mend == "" || f.Message == "" {
			t.Errorf("%+v does not say what or how to mend it", f)
		}
	}
	if !matches {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestReadWithoutConfiguration(t *testing.T) {
	if _, err := Read(context.Background(), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a directory that is not there was read")
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// Postfix waits for a file that is younger than two seconds, lest it be half-written.
	old := time.Now().Add(-time.Minute)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
}
