package clients

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testauth"
	"github.com/postern-mail/postern/internal/testenv"
)

// startBackends runs the program with auth and submission as given, policy data that takes addresses from attributes, and an
// outbox.
func startBackends(t *testing.T, config string) *e2e.Site {
	t.Helper()
	s := e2e.EmptySite(t)
	testenv.Write(t, filepath.Join(s.Dir, "senders.yaml"), "settings: {domain: example.com, sender_attributes: [mail, Filter-Id]}\n")
	if !strings.Contains(config, "policy:") {
		config += "policy: {data: [senders.yaml], timeout: 2s}\n"
	}
	testenv.Write(t, filepath.Join(s.Dir, "postern.yaml"), "hostname: mail.example.com\nstate_dir: state\n"+config)
	return s
}

// authFact is input.auth of the last decision that has it.
func authFact(t *testing.T, s *e2e.Site) (fact struct {
	Login, Backend string
	Groups         []string
	Attributes     map[string][]string
}) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Dir, "state/decisions.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var d struct {
			Input struct{ Auth json.RawMessage }
		}
		if json.Unmarshal([]byte(line), &d) == nil && d.Input.Auth != nil {
			if err := json.Unmarshal(d.Input.Auth, &fact); err != nil {
				t.Fatal(err)
			}
		}
	}
	return fact
}

// TestBackends runs the program with each backend, against the real servers, from its configuration to a message in the outbox.
func TestBackends(t *testing.T) {
	const secret = "0123456789abcdef0123456789abcdef"
	_, dovecot := testauth.Dovecot(t, "alice:{PLAIN}pw::::::mail=alice@example.com groups=sales\n")
	_, radius := testauth.Radius(t, secret, "alice Cleartext-Password := \"pw\"\n\tFilter-Id = \"alice@example.com\", Class = \"sales\"\n\n")
	ldap := testauth.Slapd(t, `dn: uid=alice,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: A
mail: alice@example.com
userPassword: pw

dn: cn=sales,ou=groups,dc=example,dc=com
objectClass: groupOfNames
cn: sales
member: uid=alice,ou=people,dc=example,dc=com
`)
	for name, backend := range map[string]string{
		"dovecot": "dovecot: {address: " + dovecot + ", groups: groups}",
		"ldap": fmt.Sprintf(`ldap: {urls: ["%s"], starttls: true, ca: %s, bind_dn: "cn=manager,dc=example,dc=com", bind_password_file: ldap.pass, base: "ou=people,dc=example,dc=com",
    filter: "(uid={login})", attributes: [mail], groups: {attribute: memberOf, under: "ou=groups,dc=example,dc=com"}}`, ldap.URL, ldap.CA),
		"radius": "radius: {servers: ['" + radius + "'], secret_file: radius.secret, attributes: [Filter-Id, Class], groups: Class, timeout: 30s}",
	} {
		t.Run(name, func(t *testing.T) {
			s := startBackends(t, "submission: {listen_tls: '127.0.0.1:0'}\nauth:\n  - "+backend+"\n")
			testenv.Write(t, filepath.Join(s.Dir, "ldap.pass"), "manager\n")
			testenv.Write(t, filepath.Join(s.Dir, "radius.secret"), secret+"\n")
			s.Start(t)
			for _, c := range [][3]string{
				{"pw", "alice@example.com", "sent"}, {"pw", "alice@example.com", "sent"}, {"pw", "bob@example.com", "550 5.7.1 alice may not send as bob@example.com"},
				{"wrong", "alice@example.com", "535 5.7.8"},
			} {
				if got := e2e.Submit(s.Addr, "alice", c[0], c[1]); !strings.HasPrefix(got, c[2]) {
					t.Errorf("alice with %s as %s: %s, want %s", c[0], c[1], got, c[2])
				}
			}
			if fact := authFact(t, s); fact.Login != "alice" || fact.Backend != name || len(fact.Groups) != 1 || fact.Groups[0] != "sales" {
				t.Errorf("input.auth is %+v", fact)
			}
		})
	}
	t.Run("down", func(t *testing.T) {
		s := startBackends(t, "submission: {listen_tls: '127.0.0.1:0'}\nauth:\n  - ldap: {urls: 'ldap://"+testenv.FreeAddr(t)+"', dn: 'uid={login}'}\n  - dovecot: {address: '"+testenv.FreeAddr(t)+"'}\n")
		s.Start(t)
		for range 2 {
			if got := e2e.Submit(s.Addr, "alice", "pw", "alice@example.com"); !strings.HasPrefix(got, "454 4.7.0") {
				t.Errorf("every backend is down: %s", got)
			}
		}
	})
}

// regoBlocks are the policies that docs/how-to/recent-logins.md shows.
func regoBlocks(t *testing.T) (blocks []string) {
	t.Helper()
	page, err := os.ReadFile(e2e.Path(t, "docs/how-to/recent-logins.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?s)```rego\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		blocks = append(blocks, m[1])
	}
	if len(blocks) == 0 {
		t.Fatal("the page shows no policy")
	}
	return blocks
}

// TestRecentLoginFromDovecot logs in at a real Dovecot by IMAP, whose post-login script is that of the documentation. After that
// the documented policy accepts mail of this user, and of no other user.
func TestRecentLoginFromDovecot(t *testing.T) {
	socket := filepath.Join(testenv.ShortDir(t), "recent.sock")
	s := startBackends(t, "submission: {listen_tls: '127.0.0.1:0', require_auth: false, recent_logins: {socket: "+socket+", mode: '0666'}}\nauth: []\npolicy: {bundle: policy, timeout: 2s}\n")
	for i, block := range regoBlocks(t) {
		testenv.Write(t, filepath.Join(s.Dir, "policy", fmt.Sprintf("p%d.rego", i)), block)
	}
	s.Start(t)
	const alice = "alice@example.com"
	if got := e2e.Submit(s.Addr, "", "", alice); !strings.HasPrefix(got, "550 5.7.1") {
		t.Fatalf("before any login: %s", got)
	}
	imapLogin(t, socket, alice)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		got := e2e.Submit(s.Addr, "", "", alice)
		if got == "sent" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the login: %s", got)
		}
	}
	if got := e2e.Submit(s.Addr, "", "", "bob@example.com"); !strings.HasPrefix(got, "550 5.7.1") {
		t.Errorf("as somebody else: %s", got)
	}
}

// imapLogin logs in at a Dovecot whose post-login script tells of it.
func imapLogin(t *testing.T, socket, login string) {
	t.Helper()
	dir, addr := testenv.ShortDir(t), testenv.FreeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	// The program may lie where Dovecot's processes cannot reach it.
	copied := filepath.Join(dir, "postern")
	if out, err := exec.Command("cp", e2e.Binary(t), copied).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	script, mail := filepath.Join(dir, "tell-postern"), filepath.Join(dir, "mail")
	testenv.Write(t, script, "#!/bin/sh\n"+copied+" notify-login "+socket+"\nexec \"$@\"\n")
	if err := os.Mkdir(mail, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{script, copied, mail} {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	os.Chmod(filepath.Dir(socket), 0o755)
	conf := filepath.Join(dir, "dovecot.conf")
	testenv.Write(t, conf, fmt.Sprintf(`base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = /dev/stderr
protocols = imap
ssl = no
disable_plaintext_auth = no
mail_location = maildir:%[1]s/mail/Maildir
first_valid_uid = 1
passdb {
  driver = static
  args = password=pw
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=%[1]s/mail
}
service imap-login {
  inet_listener imap {
    address = 127.0.0.1
    port = %[2]s
  }
  inet_listener imaps {
    port = 0
  }
}
service imap {
  executable = imap imap-postlogin
}
service imap-postlogin {
  executable = script-login %[3]s
  vsz_limit = 0
  unix_listener imap-postlogin {
    mode = 0666
  }
}
`, dir, port, script))
	testenv.Background(t, exec.Command(testenv.Program(t, "dovecot-imapd", "dovecot", "/usr/sbin/dovecot"), "-F", "-c", conf), "tcp", addr)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(c, "a LOGIN %s pw\r\nb LOGOUT\r\n", login)
	if said, err := io.ReadAll(c); err != nil || !strings.Contains(string(said), "a OK") {
		t.Fatalf("%v: %s", err, said)
	}
}
