package security

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
)

// What must never come out again, by what it is. Each is unlike anything else.
var secrets = map[string]string{
	"the user's password":              e2e.Password,
	"another password, typed wrongly":  "Zx81-mistyped-Spectrum",
	"a password typed as the login":    "Amiga500-as-the-login",
	"a bearer token":                   "tok-Archimedes-440-opaque",
	"the OAuth client's secret":        "Dragon32-client-secret",
	"the LDAP bind password":           "Oric-Atmos-bind",
	"the next hop's password":          "Jupiter-Ace-relay",
	"a token of the log service":       "Sinclair-QL-upload",
	"a key in postern.yaml by mistake": "Enterprise128-in-yaml",
}

// forms are what a secret looks like as it is, in base64 at any place of a longer text, and in hexadecimal.
func forms(secret string) [][]byte {
	all := [][]byte{[]byte(secret), []byte(hex.EncodeToString([]byte(secret)))}
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for pad := range 3 { // what is in front shifts the octets within their groups of three
			coded := e.EncodeToString([]byte(strings.Repeat("x", pad) + secret))
			first := (pad*8 + 5) / 6
			all = append(all, []byte(coded[first:len(coded)-1]))
		}
	}
	return all
}

func TestForms(t *testing.T) {
	for _, text := range []string{"\x00alice\x00" + e2e.Password, "a\x00b\x00" + e2e.Password + "tail", e2e.Password} {
		coded := []byte(base64.StdEncoding.EncodeToString([]byte(text)))
		found := false
		for _, f := range forms(e2e.Password) {
			found = found || bytes.Contains(coded, f)
		}
		if !found {
			t.Errorf("not found in %s", coded)
		}
	}
}

// echoingHop is a next hop that refuses a login and repeats what it was sent, in the clear and as it came.
func echoingHop(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprint(c, "220 hop.example ESMTP\r\n")
				for r := bufio.NewReader(c); ; {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					line = strings.TrimRight(line, "\r\n")
					coded := strings.TrimPrefix(line, "AUTH PLAIN ")
					switch plain, _ := base64.StdEncoding.DecodeString(coded); {
					case strings.HasPrefix(line, "EHLO"):
						fmt.Fprint(c, "250-hop.example\r\n250 AUTH PLAIN\r\n")
					case strings.HasPrefix(line, "AUTH"):
						parts := bytes.Split(plain, []byte{0})
						fmt.Fprintf(c, "535-5.7.8 no: %s\r\n535 5.7.8 no: %s\r\n", line, parts[len(parts)-1])
					default:
						fmt.Fprint(c, "221 bye\r\n")
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// unauthorized is an OAuth provider that refuses every client. It returns its URL.
func unauthorized(t *testing.T) string {
	t.Helper()
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	t.Cleanup(provider.Close)
	return provider.URL
}

// TestNoSecretsOut puts secrets in at every place where they belong and at many where they do not, with the log at debug level.
// No secret comes out: not in replies, logs, the decision log, metrics, health or any file, nor in the stacks that SIGQUIT
// prints.
func TestNoSecretsOut(t *testing.T) {
	t.Parallel()
	provider, dead := unauthorized(t), testenv.FreeAddr(t)
	dir := testenv.ShortDir(t)
	for name, secret := range map[string]string{"client": "the OAuth client's secret", "bind": "the LDAP bind password", "relay": "the next hop's password", "upload": "a token of the log service"} {
		testenv.Write(t, filepath.Join(dir, name), secrets[secret]+"\n")
	}
	s := e2e.StartSite(t, "maildir:outbox", fmt.Sprintf(`
submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0', auth_limits: {refuse: 1000, max_delay: 1ms}}
auth:
  - oauth: {introspection: '%[1]s/introspect', client_id: postern, client_secret_file: %[2]s/client, login: username}
  - file: users.yaml
  - ldap: {urls: ['ldap://%[3]s'], bind_dn: 'cn=postern', bind_password_file: %[2]s/bind, base: 'dc=example', filter: '(uid={login})', timeout: 200ms}
decision_log: {file: decisions.jsonl, input: full, upload: {url: 'http://%[3]s/v1', token_file: %[2]s/upload, interval: 100ms}}
log: {level: debug, format: json}
`, provider, dir, dead))
	// The other one has nothing but a users file, and a next hop that gives everything away.
	relaying := e2e.NewSite(t, "HOP", "submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0', auth_limits: {refuse: 1000, max_delay: 1ms}}\nlog: {level: debug, format: json}\n")
	testenv.Write(t, filepath.Join(relaying.Dir, "postern.yaml"), strings.Replace(testenv.Read(t, filepath.Join(relaying.Dir, "postern.yaml")), "'HOP'",
		fmt.Sprintf("{url: 'smtp://%s', username: postern, password_file: %s/relay}", echoingHop(t), dir), 1))
	relaying.Start(t)
	said := new(bytes.Buffer)
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	right, wrong, login := e2e.Password, secrets["another password, typed wrongly"], secrets["a password typed as the login"]
	token := secrets["a bearer token"]
	for _, script := range [][]string{
		{"AUTH PLAIN " + b64("\x00alice\x00"+right), "RSET"},
		{"AUTH PLAIN " + b64("\x00alice\x00"+right) + " trailing", "AUTH PLAIN =" + b64("\x00alice\x00"+right), "AUTH PLAIN " + b64("\x00alice\x00" + right)[1:]},
		{"AUTH PLAIN", b64("\x00alice\x00" + wrong), b64("\x00alice\x00" + wrong), "PASS " + wrong, wrong},
		{"AUTH PLAIN", "*", b64("\x00alice\x00" + right), "AUTH  PLAIN  " + b64("\x00alice\x00"+right), "AUTHPLAIN" + b64("\x00alice\x00"+right)},
		{"AUTH PLAIN " + b64(login+"\x00"+login+"\x00"+wrong), "AUTH PLAIN " + b64("\x00"+login+"\x00"+wrong)},
		{"AUTH LOGIN", b64(login), b64(wrong), "AUTH LOGIN " + b64(login), "*", b64(wrong)},
		{"AUTH LOGIN", b64("alice"), right, b64(right), "NOOP " + right, "HELP " + b64(right), "VRFY " + right},
		{"AUTH " + right, "AUTH SCRAM-SHA-256 " + b64("n,,n="+login+",r=abc"), "c=biws," + wrong, b64("c=biws,r=" + wrong + ",p=AAAA")},
		{"AUTH OAUTHBEARER " + b64("n,a=alice,\x01auth=Bearer "+token+"\x01\x01"), "AQ==", "AUTH XOAUTH2 " + b64("user="+login+"\x01auth=Bearer "+token+"\x01\x01"), "",
			"AUTH OAUTHBEARER " + b64("n,,\x01auth=Bearer "+token), "AUTH XOAUTH2 " + token},
		{"QUIT " + right, "RSET " + right, "DATA " + right, "STARTTLS " + right, "BDAT " + right},
	} {
		for _, door := range []string{s.TLS, relaying.TLS} {
			speak(t, said, door, true, script)
		}
		for _, door := range []string{s.Addr, relaying.Addr} {
			speak(t, said, door, false, script)
		}
	}
	e2e.Submit(s.TLS, e2e.Login, e2e.Password, e2e.Address)
	fmt.Fprintln(said, e2e.Submit(relaying.TLS, e2e.Login, e2e.Password, e2e.Address))
	testenv.Write(t, filepath.Join(dir, "wrong.yaml"), "relay: {to: {url: 'smtp://127.0.0.1:25', username: x, password: "+secrets["a key in postern.yaml by mistake"]+"}}\nadmin:\n  token: "+secrets["a key in postern.yaml by mistake"]+"\n")
	out, errs, code := s.Run(t, "check", "--config", filepath.Join(dir, "wrong.yaml"))
	if code == 0 {
		t.Error("a password in the configuration is accepted")
	}
	fmt.Fprintln(said, out, errs)
	for _, path := range []string{"/metrics", "/healthz?verbose"} {
		resp, err := http.Get("http://" + s.Admin + path)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(said, resp.Body)
		resp.Body.Close()
	}
	testenv.Write(t, filepath.Join(s.Dir, "users.yaml"), "users: {alice: "+wrong+"}\n") // a password where a hash belongs
	s.Process.Signal(syscall.SIGHUP)
	waitFor(t, s.Process.Log, "reload failed")
	for _, x := range []*e2e.Site{s, relaying} {
		x.Process.Signal(syscall.SIGQUIT) // Go's own dump of all stacks
		x.Process.Wait()
		said.WriteString(testenv.Read(t, x.Process.Log))
		if log := filepath.Join(x.Dir, "decisions.jsonl"); x == s {
			said.WriteString(testenv.Read(t, log))
		}
		if err := filepath.WalkDir(filepath.Join(x.Dir, "state"), func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				said.WriteString(testenv.Read(t, p))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"authentication failed", "unknown-", "SIGQUIT", "goroutine ", "AUTH PLAIN: the next hop said", "postern_", `"decision_id"`, "535 5.7.8", "authentication is not available"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("nothing was said of %q: the test does not look where it should", want)
		}
	}
	for what, secret := range secrets {
		for _, f := range forms(secret) {
			if at := bytes.Index(said.Bytes(), f); at >= 0 {
				t.Errorf("%s came out: ...%s...", what, said.Bytes()[max(0, at-200):min(said.Len(), at+200)])
				break
			}
		}
	}
}

// speak says lines at a door, each after the answer to the one before, and keeps what is answered.
func speak(t *testing.T, said io.Writer, addr string, implicit bool, lines []string) {
	t.Helper()
	var c net.Conn
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { c.Close() }()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	hello := []string{"EHLO laptop.example.com"}
	config := &tls.Config{InsecureSkipVerify: true}
	if implicit {
		c = tls.Client(c, config)
	} else {
		// Some say it in the clear first.
		hello = []string{hello[0], lines[0], "STARTTLS", hello[0]}
	}
	r := bufio.NewReader(c)
	answer := func() (line string, ok bool) {
		for {
			line, err := r.ReadString('\n')
			io.WriteString(said, line)
			if err != nil {
				return "", false
			}
			if len(line) > 3 && line[3] == ' ' {
				return line, true
			}
		}
	}
	if _, ok := answer(); !ok {
		t.Fatal("no greeting")
	}
	for _, line := range append(hello, lines...) {
		if _, err := io.WriteString(c, line+"\r\n"); err != nil {
			return
		}
		if _, ok := answer(); !ok {
			return
		}
		if line == "STARTTLS" {
			c = tls.Client(c, config)
			r = bufio.NewReader(c)
		}
	}
}

func waitFor(t *testing.T, file, text string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(testenv.Read(t, file), text); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s never said %q", file, text)
		}
	}
}

// TestModes: with the widest umask, all files that the program writes are for its own user only: after a first start, with mail
// in the outbox and in quarantine, a rotated decision log, keys, and a last good policy.
func TestModes(t *testing.T) {
	t.Parallel()
	s := e2e.NewSite(t, "maildir:state/outbox", `
decision_log: {file: decisions.jsonl, rotate: {size: 64KiB, keep: 3}, mask: {addresses: hash}}
policy: {bundle: bundle, data: [senders.yaml], timeout: 2s}
milter: {listen: 'unix:milter.sock'}
submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0', recent_logins: {socket: recent.sock}}
`)
	testenv.Write(t, filepath.Join(s.Dir, "bundle", "policy.rego"), "package postern.message\n\nquarantine contains \"held\" if input.message.header.subject[_] == \"hold\"\n\nallow contains \"all\"\n")
	before := map[string]bool{}
	walk(t, s.Dir, func(p string, _ fs.FileInfo) { before[p] = true })
	old := syscall.Umask(0) // the widest; the program inherits it
	s.Start(t)
	syscall.Umask(old)
	rotated := func() bool {
		got, _ := filepath.Glob(filepath.Join(s.Dir, "decisions*.gz"))
		return len(got) > 0
	}
	for i := 0; i < 1000 && !rotated(); i++ {
		if got := e2e.Submit(s.TLS, e2e.Login, e2e.Password, e2e.Address); got != "sent" {
			t.Fatal(got)
		}
	}
	s.Client(t).Want("held", "hold", 1000, "250 ")
	sockets := 0
	walk(t, s.Dir, func(p string, info fs.FileInfo) {
		if before[p] || p == s.Process.Log {
			return
		}
		want := fs.FileMode(0o600)
		switch {
		case info.IsDir():
			want = 0o700
		case info.Mode()&fs.ModeSocket != 0:
			sockets++
			want = 0o660
		case strings.HasSuffix(p, "tls/cert.pem"):
			want = 0o644 // it is sent to everybody
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s: mode %04o, want %04o", strings.TrimPrefix(p, s.Dir), info.Mode().Perm(), want)
		}
	})
	if sockets != 2 {
		t.Errorf("%d sockets", sockets)
	}
	for _, pattern := range []string{"state/outbox/new/*", "state/quarantine/new/*", "decisions*.gz", "state/lastgood/*", "state/tls/key.pem", "state/decoy.key", "state/decision-mask.key"} {
		if got, err := filepath.Glob(filepath.Join(s.Dir, pattern)); err != nil || len(got) == 0 {
			t.Errorf("%s: nothing was written", pattern)
		}
	}
}

func walk(t *testing.T, dir string, f func(string, fs.FileInfo)) {
	t.Helper()
	if err := filepath.Walk(dir, func(p string, info fs.FileInfo, err error) error {
		if err == nil {
			f(p, info)
		}
		if errors.Is(err, fs.ErrNotExist) { // it was moved meanwhile
			return nil
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestAdminOnly: the admin server answers GET at two paths, and nothing else. It closes connections of clients that are slow or
// send too much.
func TestAdminOnly(t *testing.T) {
	t.Parallel()
	s := e2e.StartSite(t, "maildir:outbox", "")
	for _, path := range []string{"/", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/config", "/v1/data", "/metrics/", "/mail/config-v1.1.xml"} {
		resp, err := http.Get("http://" + s.Admin + path)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	for _, path := range []string{"/metrics", "/healthz"} {
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"} {
			req, _ := http.NewRequest(method, "http://"+s.Admin+path, strings.NewReader("x"))
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if resp.Body.Close(); resp.StatusCode != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %s", method, path, resp.Status)
			}
		}
	}
	c, err := net.Dial("tcp", s.Admin)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET /metrics HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("a", 64<<10))
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if line, err := bufio.NewReader(c).ReadString('\n'); !strings.Contains(line, "431") {
		t.Errorf("64 KiB of header: %q, %v", line, err)
	}
	slow, err := net.Dial("tcp", s.Admin)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	fmt.Fprint(slow, "GET /metrics HTTP/1.1\r\n")
	slow.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadAll(slow); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("who does not end his request is waited for longer than 20 seconds")
	}
}
