package postfix

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCheck reads real Postfix configurations through the real postconf.
func TestCheck(t *testing.T) {
	const good = `myhostname = mail.example.com
mynetworks = 127.0.0.0/8
queue_directory = /var/spool/postfix
smtpd_milters = inet:127.0.0.1:8891
non_smtpd_milters = inet:127.0.0.1:8891
milter_default_action = tempfail
milter_protocol = 6
smtpd_sasl_auth_enable = yes
smtpd_tls_security_level = encrypt
`
	const service = "submission inet n - n - - smtpd\n"
	for _, tc := range []struct {
		name, main, master string
		listen             []string
		want               []string // "severity where"; all of them
	}{
		{"good", good, service, nil, nil},
		{"fail open", good + "milter_default_action = accept\n", service, nil, []string{"error main.cf: milter_default_action"}},
		{"3.11", good + "milter_default_action = shutdown\n", service, nil, []string{"warning main.cf: milter_default_action"}},
		{"unset action", strings.Replace(good, "milter_default_action = tempfail\n", "", 1), service, nil, []string{"warning main.cf: milter_default_action"}},
		{"overridden in master.cf", good, "submission inet n - n - - smtpd\n  -o smtpd_milters=\n", nil,
			[]string{"error master.cf", "error master.cf: submission/inet"}},
		{"no_milters", good, "submission inet n - n - - smtpd\n  -o receive_override_options=no_milters\n", nil, []string{"error master.cf: submission/inet"}},
		{"braces", good, "submission inet n - n - - smtpd\n  -o { smtpd_milters = { inet:127.0.0.1:8891, default_action=accept } }\n", nil,
			[]string{"error master.cf: submission/inet"}},
		{"hidden socket", strings.ReplaceAll(good, "inet:127.0.0.1:8891", "unix:/run/postern/milter.sock"), "submission inet n - y - - smtpd\n",
			[]string{"unix:/run/postern/milter.sock"}, []string{"error master.cf: submission/inet"}},
		{"socket in the chroot", strings.ReplaceAll(good, "inet:127.0.0.1:8891", "unix:postern/milter.sock"), "submission inet n - y - - smtpd\n",
			[]string{"unix:/var/spool/postfix/postern/milter.sock"}, nil},
		{"old protocol", good + "milter_protocol = 2\n", service, nil, []string{"warning main.cf: milter_protocol"}},
		{"short time-out", good + "milter_command_timeout = 2s\n", service, nil, []string{"error main.cf: milter_command_timeout"}},
		{"local mail", strings.Replace(good, "non_smtpd_milters = inet:127.0.0.1:8891\n", "", 1), service, nil, []string{"warning main.cf: non_smtpd_milters"}},
		{"no sasl", good + "smtpd_sasl_auth_enable = no\n", service, nil, []string{"warning master.cf: submission/inet"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "main.cf"), tc.main)
			write(t, filepath.Join(dir, "master.cf"), tc.master)
			s, err := Read(context.Background(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if tc.listen == nil {
				tc.listen = []string{"tcp:127.0.0.1:8891"}
			}
			var got []string
			for _, f := range Check(s, tc.listen, time.Second) {
				got = append(got, string(f.Severity)+" "+f.Where)
				if f.Mend == "" || f.Message == "" {
					t.Errorf("%+v does not say what or how to mend it", f)
				}
			}
			if strings.Join(got, "\n") != strings.Join(tc.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
		})
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
