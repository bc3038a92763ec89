package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
	"go.yaml.in/yaml/v3"
)

// senderMap has what postmap(1) allows: comments, empty lines, continued lines, lists with commas and with spaces.
const senderMap = `# who may send as whom
alice@example.com	alice, Bob
   # a comment between
	carol

Press@Example.COM alice
@example.org	bob dora,

true@example.com  true
1e5@example.com   1e5,null
ops@example.net   alice@example.com
postmaster        alice
weird!#%&'*=?^` + "`" + `{|}~@example.com bob
`

// runImport gives what postern import postfix-map prints, and its exit code.
func runImport(args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	code = run(append([]string{"import", "postfix-map"}, args...), strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), code
}

// TestImportPostfixMap holds the document against what a real postmap says about each key.
func TestImportPostfixMap(t *testing.T) {
	dir := t.TempDir()
	path, output := filepath.Join(dir, "sender_login"), filepath.Join(dir, "senders.yaml")
	testenv.Write(t, path, senderMap)
	if out, errs, code := runImport("hash:"+path, "--domain", "example.com", "--domain", "example.net", "--output", output); code != 0 || out != "" {
		t.Fatalf("code %d: %s%s", code, out, errs)
	}
	text, err := os.ReadFile(output)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Senders map[string][]string }
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	owners := map[string][]string{}
	for login, addresses := range doc.Senders {
		for _, a := range addresses {
			owners[a] = append(owners[a], login)
		}
	}
	keys := []string{"alice@example.com", "press@example.com", "@example.org", "true@example.com", "1e5@example.com", "ops@example.net", "postmaster", "weird!#%&'*=?^`{|}~@example.com"}
	testenv.NotShort(t, "postmap")
	postmap := testenv.Program(t, "postfix", "postmap", "/usr/sbin/postmap")
	for _, key := range keys {
		for _, kind := range []string{"texthash", "hash"} {
			if kind == "hash" {
				if out, err := exec.Command(postmap, "hash:"+path).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			said, err := exec.Command(postmap, "-q", key, kind+":"+path).Output()
			if err != nil {
				t.Fatalf("postmap -q %s: %v", key, err)
			}
			want := strings.FieldsFunc(strings.ToLower(string(said)), func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' })
			slices.Sort(want)
			for _, address := range map[string][]string{"postmaster": {"postmaster@example.com", "postmaster@example.net"}}[key] {
				if got := slices.Sorted(slices.Values(owners[address])); !slices.Equal(got, want) {
					t.Errorf("%s: %q, postmap has %q", address, got, want)
				}
			}
			if !strings.Contains(key, "@") {
				continue
			}
			if got := slices.Sorted(slices.Values(owners[key])); !slices.Equal(got, want) {
				t.Errorf("%s: %q, %s has %q", key, got, kind, want)
			}
		}
	}
	if len(owners) != len(keys)+1 {
		t.Errorf("%d addresses of %d: %q", len(owners), len(keys)+1, slices.Sorted(maps.Keys(owners)))
	}
	if a := doc.Senders["bob"]; a[0] != "alice@example.com" || a[len(a)-1] != "@example.org" {
		t.Errorf("bob's own address is not the first plain one: %q", a)
	}
	if _, errs, code := runCheck(t, dir); code != 0 {
		t.Errorf("postern check does not take it: %s", errs)
	}
	out, _, code := runImport(path, "--domain", "example.com", "--json")
	var again struct{ Senders map[string][]string }
	if err := json.Unmarshal([]byte(out), &again); code != 0 || err != nil || len(again.Senders) != len(doc.Senders) {
		t.Errorf("as JSON: code %d, %v: %s", code, err, out)
	}
}

// runCheck checks a configuration that has senders.yaml as its data.
func runCheck(t *testing.T, dir string) (stdout, stderr string, code int) {
	t.Helper()
	testenv.Write(t, filepath.Join(dir, "postern.yaml"), "milter: {listen: 'tcp:127.0.0.1:8891'}\npolicy: {data: [senders.yaml], timeout: 5s}\n")
	var out, errs bytes.Buffer
	code = run([]string{"check", "--config", filepath.Join(dir, "postern.yaml")}, strings.NewReader(""), &out, &errs)
	return out.String(), out.String() + errs.String(), code
}

func TestImportPostfixMapRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "map")
	for _, c := range []struct {
		name, text string
		args       []string
		want       string
		code       int
	}{
		{"pattern", "a@example.com a\n/^b/ b\n", nil, path + ":2: this is a table of patterns", 1},
		{"condition", "if /x/\n", nil, path + ":1: this is a table of patterns", 1},
		{"no domain", "alice alice\n", nil, path + `:1: "alice" has no domain`, 1},
		{"no login", "a@example.com\n", nil, path + ":1: the entry has no login", 1},
		{"commas alone", "a@example.com , ,\n", nil, path + ":1: the entry has no login", 1},
		{"twice", "a@example.com a\n# x\nA@example.com b\n", nil, path + ":3: a@example.com is in line 1, too", 1},
		{"twice by domain", "a a\na@example.com b\n", []string{"--domain", "example.com"}, path + ":2: a@example.com is in line 1, too", 1},
		{"continuation first", "  a@example.com a\n", nil, path + ":1: this line continues no entry", 1},
		{"two @", "a@b@example.com a\n", nil, path + `:1: "a@b@example.com" is not an address`, 1},
		{"no domain behind", "a@ a\n", nil, path + `:1: "a@" is not an address`, 1},
		{"quoted", "\"a b\"@example.com a\n", nil, path + ":1: a quoted address", 1},
		{"control character", "a@example.com a\x00\n", nil, path + ":1: the line is not UTF-8", 1},
		{"bad login", "a@example.com a\u200bb\n", nil, path + `:1: "a`, 1},
		{"all that is wrong", "a a\n/x/ y\n", nil, path + ":2: this is", 1},
		{"new rights", "@example.com admin\nceo@example.com ceo\n", nil, "admin has all of @example.com (line 1) and could then send as ceo@example.com", 1},
		{"regexp:", "", []string{"regexp:" + path}, "regexp: is a table of patterns", 2},
		{"pcre:", "", []string{"pcre:" + path}, "pcre: is a table of patterns", 2},
		{"ldap:", "", []string{"ldap:" + path}, "settings.sender_attributes", 2},
		{"mysql:", "", []string{"mysql:" + path}, "is not a table with a source file", 2},
		{"no file", "", []string{path + ".none"}, "no such file", 2},
		{"bad domain", "", []string{"--domain", "a b"}, "is not a domain", 2},
	} {
		testenv.Write(t, path, c.text)
		args := c.args
		if len(args) != 1 {
			args = append([]string{path}, args...)
		}
		output := filepath.Join(dir, "out.yaml")
		out, errs, code := runImport(append(args, "--output", output)...)
		if code != c.code || !strings.Contains(errs, c.want) || out != "" {
			t.Errorf("%s: code %d, want %d; %q is to contain %q", c.name, code, c.code, errs, c.want)
		}
		if _, err := os.Stat(output); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: something was written", c.name)
			os.Remove(output)
		}
	}
	testenv.Write(t, path, "@example.com admin\nceo@example.com ceo\n")
	if out, errs, code := runImport(path, "--wider"); code != 0 || !strings.Contains(out, "- ceo@example.com") || !strings.Contains(errs, "does not allow") {
		t.Errorf("--wider: code %d, %s%s", code, out, errs)
	}
	testenv.Write(t, path, "# nothing\n")
	if out, _, code := runImport(path); code != 0 || !strings.Contains(out, "senders: {}") {
		t.Errorf("empty: code %d, %s", code, out)
	}
}
