package usersfile

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/smtpd/auth"
)

// The hash of "password", cheap; and another.
const (
	hash  = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
	other = "$2b$12$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
)

func TestSetPassword(t *testing.T) {
	cases := []struct {
		name, before, login, after string
		added                      bool
	}{
		{"empty file", "", "alice", "users:\n  alice: \"HASH\"\n", true},
		{"comments only", "# ours\n", "alice", "# ours\nusers:\n  alice: \"HASH\"\n", true},
		{"no users yet", "users:\n", "alice", "users:\n  alice: \"HASH\"\n", true},
		{"empty mapping", "users: {}  # nobody\n", "alice", "users:  # nobody\n  alice: \"HASH\"\n", true},
		{"one more", "users:\n  bob: OTHER\n", "alice", "users:\n  bob: OTHER\n  alice: \"HASH\"\n", true},
		{"four spaces", "users:\n    bob: OTHER # b\n", "alice", "users:\n    bob: OTHER # b\n    alice: \"HASH\"\n", true},
		{"no last line end", "users:\n  bob: 'OTHER'", "alice", "users:\n  bob: 'OTHER'\n  alice: \"HASH\"\n", true},
		{"after a mapping", "users:\n  bob:\n    password: OTHER\n    groups: [a]\n", "alice", "users:\n  bob:\n    password: OTHER\n    groups: [a]\n  alice: \"HASH\"\n", true},
		{"a new password", "users:\n  alice: OTHER\n  bob: OTHER\n", "alice", "users:\n  alice: \"HASH\"\n  bob: OTHER\n", false},
		{"quoted", "users:\n  \"Alice\":   'OTHER'  # a\n", "alice", "users:\n  \"Alice\":   \"HASH\"  # a\n", false},
		{"beside groups", "users:\n  alice: {groups: [a], password: \"OTHER\"}\n", "alice", "users:\n  alice: {groups: [a], password: \"HASH\"}\n", false},
		{"plain in a flow mapping", "users:\n  alice: {password: OTHER, groups: [a]}\n", "alice", "users:\n  alice: {password: \"HASH\", groups: [a]}\n", false},
		{"over groups", "users:\n  alice:\n    groups: [a]\n    password: OTHER\n", "alice", "users:\n  alice:\n    groups: [a]\n    password: \"HASH\"\n", false},
		{"in a one-line file", "users: {bob: 'OTHER', alice: 'OTHER'}\n", "alice", "users: {bob: 'OTHER', alice: \"HASH\"}\n", false},
		{"umlaut before it", "users: {jürgen: 'OTHER', alice: 'OTHER'}\n", "alice", "users: {jürgen: 'OTHER', alice: \"HASH\"}\n", false},
		{"a login that YAML reads otherwise", "users:\n  bob: OTHER\n", "null", "users:\n  bob: OTHER\n  \"null\": \"HASH\"\n", true},
		{"an odd login", "users:\n", `a:"b`, "users:\n  \"a:\\\"b\": \"HASH\"\n", true},
		{"an address", "users:\n", "alice@example.com", "users:\n  alice@example.com: \"HASH\"\n", true},
		{"a number", "users:\n", "123", "users:\n  \"123\": \"HASH\"\n", true},
	}
	fill := strings.NewReplacer("HASH", hash, "OTHER", other).Replace
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "users.yaml")
			if err := os.WriteFile(path, []byte(fill(c.before)), 0o640); err != nil {
				t.Fatal(err)
			}
			added, err := SetPassword(path, c.login, hash)
			if err != nil || added != c.added {
				t.Fatalf("added %v, error %v", added, err)
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != fill(c.after) {
				t.Errorf("got\n%s\nwant\n%s%v", got, fill(c.after), err)
			}
			f, err := auth.OpenFile(path, auth.FileOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Password(context.Background(), c.login, "password"); err != nil {
				t.Error(err)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
		})
	}
}

func TestNewFileAndLink(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "users.yaml"), filepath.Join(dir, "link.yaml")
	if added, err := SetPassword(path, "alice", hash); err != nil || !added {
		t.Fatal(added, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Symlink("users.yaml", link); err != nil {
		t.Fatal(err)
	}
	if _, err := SetPassword(link, "bob", hash); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced by a file")
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Errorf("left behind: %v %v", files, err)
	}
}

// TestLeftAlone: what cannot be changed safely is not changed at all.
func TestLeftAlone(t *testing.T) {
	for name, c := range map[string]struct{ text, login, want string }{
		"flow":    {"users: {bob: '" + other + "'}\n", "alice", "paste"},
		"broken":  {"users:\n  bob: secret\n", "alice", "users.yaml:2:8: users.bob: this is not a password hash"},
		"literal": {"users:\n  alice: |\n    " + other + "\n", "alice", "by hand"},
		"ended":   {"users:\n  bob: " + other + "\n...\n", "alice", "paste"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "users.yaml")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := SetPassword(path, c.login, hash)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != c.text {
				t.Errorf("changed to\n%s%v", got, err)
			}
			if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
				t.Errorf("left behind: %v %v", files, err)
			}
		})
	}
}
