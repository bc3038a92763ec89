package relay

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestOpen: the forms of targets, and the address of each.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	for target, want := range map[string]string{
		"smtp://mail.example.com":         "tcp mail.example.com:25",
		"smtp://mail.example.com:10026/":  "tcp mail.example.com:10026",
		"smtps://[2001:db8::1]":           "tcp [2001:db8::1]:465 tls",
		"lmtp://127.0.0.1":                "tcp 127.0.0.1:24 lmtp",
		"lmtp+unix:///run/dovecot/lmtp":   "unix /run/dovecot/lmtp lmtp",
		"maildir:" + dir + "/a":           "maildir " + dir + "/a",
		"maildir://" + dir + "/b":         "maildir " + dir + "/b",
		"maildir:///" + dir[1:] + "/c/d/": "maildir " + dir + "/c/d/",
	} {
		h := openHop(t, Options{}, target)
		got := ""
		switch h := h.(type) {
		case *Maildir:
			got = "maildir " + h.dir
			if len(filesIn(t, filepath.Clean(h.dir), "cur")) != 0 {
				t.Errorf("%s: no directory", target)
			}
		case *SMTP:
			got = h.network + " " + h.addr
			if h.implicitTLS {
				got += " tls"
			}
			if h.lmtp {
				got += " lmtp"
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
	if f, ok := openHop(t, Options{}, "smtp://a", "smtp://b").(*Failover); !ok || len(f.Hops) != 2 {
		t.Errorf("two targets are %v", f)
	}
}

// TestOpenErrors: each error says which target is wrong and what to write instead, and none repeats a password.
func TestOpenErrors(t *testing.T) {
	good := "smtp://127.0.0.1"
	for _, tc := range []struct {
		o       Options
		targets []string
		want    string
	}{
		{Options{}, nil, "name one, such as smtp://127.0.0.1:10026"},
		{Options{}, []string{"127.0.0.1:25"}, "want smtp://host:port"},
		{Options{}, []string{good, "mail.example.com"}, `"mail.example.com": want smtp://`},
		{Options{}, []string{"http://mail.example.com"}, "want smtp://host:port"},
		{Options{}, []string{"smtp://"}, "want smtp://host:port"},
		{Options{}, []string{"smtp://host/path"}, "want smtp://host:port"},
		{Options{}, []string{"smtp://host?tls=1"}, "want smtp://host:port"},
		{Options{}, []string{"smtp:host"}, "want smtp://host:port"},
		{Options{}, []string{"lmtp+unix://run/lmtp"}, "with three slashes"},
		{Options{}, []string{"maildir:"}, "want maildir:path"},
		{Options{Hello: "two words"}, []string{good}, "must be a host name in ASCII"},
		{Options{Hello: "x\r\nRSET"}, []string{good}, "must be a host name in ASCII"},
		{Options{Login: "a\x00b"}, []string{good}, "NUL"},
		{Options{StartTLS: 9}, []string{good}, "no such STARTTLS mode"},
		{Options{Login: "a", StartTLS: StartTLSOff}, []string{"smtp://192.0.2.1"}, "a login needs TLS to this address"},
	} {
		_, err := Open(tc.o, tc.targets...)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: got %v, want %q", tc.targets, err, tc.want)
		}
	}
	for _, target := range []string{"smtp://alice:s3cret@host", "smtp://alice:s3cret@host:x%zz"} {
		_, err := Open(Options{}, target)
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the password is in: %v", err)
		}
	}
}
