package usersfile

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/smtpd/auth"
)

// FuzzSetPassword: a users file that can be read has, after a change, the login with its new password and everybody else as
// before, with every line of comment; or the file is as it was, and nothing is left beside it.
func FuzzSetPassword(f *testing.F) {
	fill := strings.NewReplacer("OTHER", other)
	for _, text := range []string{
		"", "# ours\n", "users:\n", "users: {}  # nobody\n", "users:\n  bob: OTHER\n", "users:\n    bob: OTHER # b\n", "users:\n  bob: 'OTHER'", "users:\n  bob:\n    password: OTHER\n    groups: [a]\n", "users:\n  \"Alice\":   'OTHER'  # a\n",
		"users:\n  alice: {groups: [a], password: \"OTHER\"}\n", "users: {bob: 'OTHER', alice: 'OTHER'}\n", "users:\n  alice:\n    groups: [a]\n    password: OTHER\n", "users: ~\n", "users: {bob: OTHER}\n", "users:\n  alice: |\n    OTHER\n", "users:\n  bob: OTHER\n...\n",
		"users:\n  ? alice\n  : OTHER\n", "---\nusers:\n  alice: OTHER\n", "users:\r\n  alice: OTHER\r\n", "\xef\xbb\xbfusers:\n  alice: OTHER\n", "users:\n\n# \u00fc\n  j\u00fcrgen: OTHER\n", "{users: {alice: OTHER}}\n", "\"users\":\n  alice: OTHER\n", "users:\n  alice:\n    'OTHER'\n",
	} {
		f.Add(fill.Replace(text), "alice")
	}
	f.Add(fill.Replace("users:\n  bob: OTHER\n"), "null")
	f.Add(fill.Replace("users:\n  bob: OTHER\n"), `a:"b#{`)
	f.Add(fill.Replace("users:\n  1: OTHER\n"), "1")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text, name string) {
		login, ok := auth.Login(name)
		if !ok || login != name || len(text) > 2048 {
			return
		}
		path := filepath.Join(dir, "users.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		before, broken := auth.OpenFile(path, auth.FileOptions{})
		added, err := SetPassword(path, login, hash)
		now, rerr := os.ReadFile(path)
		if rerr != nil {
			t.Fatal(rerr)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
			t.Fatalf("left behind: %q", left)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
			t.Fatalf("left behind: %q", left)
		}
		if err != nil {
			if string(now) != text {
				t.Fatalf("%q was changed to %q: %v", text, now, err)
			}
			return
		}
		after, err := auth.OpenFile(path, auth.FileOptions{})
		if err != nil || broken != nil {
			t.Fatalf("%q became %q: %v; before: %v", text, now, err, broken)
		}
		if _, err := after.Password(context.Background(), login, "password"); err != nil {
			t.Fatalf("%q became %q: %v", text, now, err)
		}
		want := before.Users()
		if added {
			want++
		}
		if after.Users() != want || strings.Count(string(now), "#") < strings.Count(text, "#") {
			t.Fatalf("%q, with %d users, became %q with %d", text, before.Users(), now, after.Users())
		}
		// Of everybody else the hash stays.
		if n := strings.Count(text, other); !added {
			if m := strings.Count(string(now), other); m < n-1 || m > n {
				t.Fatalf("%q became %q", text, now)
			}
		} else if strings.Count(string(now), other) != n {
			t.Fatalf("%q became %q", text, now)
		}
	})
}
