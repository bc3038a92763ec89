package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/smtpd/auth"
)

// call runs the program in this process.
func call(stdin string, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(args, strings.NewReader(stdin), &out, &err)
	return code, out.String(), err.String()
}

func TestPasswd(t *testing.T) {
	users := filepath.Join(t.TempDir(), "users.yaml")
	code, line, stderr := call("secret\r\nnot this\n", "passwd", "Alice")
	if code != exitcode.OK || stderr != "" || !strings.HasPrefix(line, `  alice: "$argon2id$v=19$m=65536,t=3,p=1$`) || strings.Count(line, "\n") != 1 {
		t.Fatalf("code %d, printed %q, %q", code, line, stderr)
	}
	if err := os.WriteFile(users, []byte("users:\n"+line), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, stderr := call("hidden", "passwd", "bob", "--file", users); code != exitcode.OK || out != "" || stderr != users+": bob is added\n" {
		t.Errorf("code %d, printed %q, %q", code, out, stderr)
	}
	f, err := auth.OpenFile(users, auth.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for login, password := range map[string]string{"alice": "secret", "bob": "hidden"} {
		if _, err := f.Password(context.Background(), login, password); err != nil {
			t.Errorf("%s: %v", login, err)
		}
	}
	if code, out, stderr := call("pencil", "passwd", "alice", "--scram", "--file", users); code != exitcode.OK || out != "" || stderr != users+": alice has a new password\n" {
		t.Errorf("code %d, printed %q, %q", code, out, stderr)
	}
	if code, out, _ := call("pencil", "passwd", "dora", "--scram"); code != exitcode.OK || !strings.HasPrefix(out, `  dora: "SCRAM-SHA-256$100000:`) {
		t.Errorf("code %d, printed %q", code, out)
	}
	if err := f.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Password(context.Background(), "alice", "pencil"); err != nil {
		t.Error(err)
	}
	var report map[string]string
	if code, out, _ := call("x\n", "passwd", "carol", "--json"); code != exitcode.OK || json.Unmarshal([]byte(out), &report) != nil || report["login"] != "carol" || report["hash"] == "" {
		t.Errorf("code %d, printed %q", code, out)
	}
}

func TestPasswdRefuses(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(broken, []byte("users:\n  alice: secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		stdin string
		args  []string
		code  int
		want  string
	}{
		"no name":       {"x\n", []string{"passwd"}, exitcode.Usage, "accepts 1 arg"},
		"two names":     {"x\n", []string{"passwd", "a", "b"}, exitcode.Usage, "accepts 1 arg"},
		"bad name":      {"x\n", []string{"passwd", "a b"}, exitcode.Usage, "cannot be a login"},
		"no password":   {"", []string{"passwd", "a"}, exitcode.Usage, "no password on standard input"},
		"long password": {strings.Repeat("x", auth.MaxPassword+1), []string{"passwd", "a"}, exitcode.Usage, "1 to 1024 bytes"},
		"broken file":   {"x\n", []string{"passwd", "a", "--file", broken}, exitcode.Usage, broken + ":2:10: users.alice: this is not a password hash"},
		"no directory":  {"x\n", []string{"passwd", "a", "--file", filepath.Join(broken+".d", "u.yaml")}, exitcode.Failed, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, stderr := call(c.stdin, c.args...)
			if code != c.code || out != "" || !strings.Contains(stderr, c.want) {
				t.Errorf("code %d, printed %q, %q; want %d, %s", code, out, stderr, c.code, c.want)
			}
		})
	}
}
