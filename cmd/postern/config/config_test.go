package config

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	encode "encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/cmd/postern/certs"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/yamldoc"
	"github.com/postern-mail/postern/milter"
	"github.com/postern-mail/postern/smtpd"
	"github.com/postern-mail/postern/smtpd/relay"
)

// TestDesign reads the configuration that the documentation shows, with all it refers to in place.
func TestDesign(t *testing.T) {
	c, dir := load(t, "design.yaml")
	if found := c.Validate(); found != nil {
		t.Error(found)
	}
	s := c.Submission
	if c.Hostname != "mail.example.com" || s.Listen[0] != ":587" || s.ListenTLS[0] != ":465" || !s.RequireAuth || !s.LenientCommands || s.Received != "full" ||
		s.TLS.Cert != filepath.Join(dir, "tls/cert.pem") || s.TLS.ClientCA != filepath.Join(dir, "tls/clients.pem") || !s.TLS.SessionTickets ||
		s.ProxyProtocol[0].String() != "10.0.0.0/8" {
		t.Errorf("submission: %+v", s)
	}
	if l := s.Limits; l != (smtpd.Limits{}).OrDefault() || c.Relay.Connections != 500 || c.Milter.Limits != (milter.Limits{}).OrDefault() {
		t.Errorf("limits: %+v", l)
	}
	if c.Auth[0].File != filepath.Join(dir, "users.yaml") || c.Relay.To[0].URL != "smtp://127.0.0.1:10026" {
		t.Errorf("auth %+v, relay %+v", c.Auth, c.Relay)
	}
	m := c.Milter.Listen
	if len(m) != 2 || m[0].Network != "unix" || m[0].Address != filepath.Join(dir, "milter.sock") || m[0].OnError != "defer" ||
		m[1].Network != "tcp" || m[1].Address != "127.0.0.1:8891" || m[1].Name != "tcp:127.0.0.1:8891" {
		t.Errorf("milter: %+v", m)
	}
	if p := c.Policy; p.Bundle != filepath.Join(dir, "policies") || p.Data[0] != filepath.Join(dir, "senders.yaml") || p.OnError != "defer" || p.Timeout != 100*time.Millisecond || p.MaxWait != 10*time.Second {
		t.Errorf("policy: %+v", p)
	}
	if c.DecisionLog.File != filepath.Join(dir, "decisions.jsonl") || c.Admin.Listen != "127.0.0.1:8880" || c.Log != (Log{slog.LevelInfo, "auto"}) {
		t.Errorf("%+v %+v %+v", c.DecisionLog, c.Admin, c.Log)
	}
	if _, _, self := c.SelfSigned(); self {
		t.Error("a self-signed certificate although one is named")
	}
}

// TestLong reads every other form.
func TestLong(t *testing.T) {
	c, dir := load(t, "long.yaml")
	if found := c.Validate(); found.Err() != nil {
		t.Error(found)
	}
	to := c.Relay.To
	if len(to) != 4 || to[0] != (Target{URL: "smtp://relay.example.com:587", StartTLS: "required", ServerName: "relay.example.com", Username: "postern", PasswordFile: filepath.Join(dir, "relay.pass"), CA: filepath.Join(dir, "tls/cert.pem")}) ||
		to[1].URL != "lmtp+unix:///run/dovecot/lmtp" || to[2].URL != "smtp://[::1]:25" || to[3].URL != "maildir:"+filepath.Join(dir, "spare") {
		t.Errorf("relay: %+v", to)
	}
	if c.Relay.Quarantine != filepath.Join(dir, "held") || c.StateDir != filepath.Join(dir, "state") {
		t.Errorf("quarantine %s, state %s", c.Relay.Quarantine, c.StateDir)
	}
	if tm := (relay.Timeouts{Connect: 5 * time.Second, Greeting: 31 * time.Second, Command: 32 * time.Second, Block: 33 * time.Second, Final: 34 * time.Second}); c.Relay.Timeouts != tm || c.Relay.Connections != 77 {
		t.Errorf("relay: %d connections, %+v", c.Relay.Connections, c.Relay.Timeouts)
	}
	want := milter.Limits{Connections: 11, Recipients: 12, HeaderBytes: 2 << 20, HeaderFields: 13, Memory: 1 << 20, Disk: 3 << 20, Idle: time.Hour, Frame: 14 * time.Second}.OrDefault()
	if c.Milter.Limits != want {
		t.Errorf("milter: %+v", c.Milter.Limits)
	}
	m := c.Milter.Listen
	if m[0].Name != "postfix" || m[0].Mode != 0o666 || m[0].OnError != "reject" || m[1].OnError != "accept" {
		t.Errorf("milter: %+v", m)
	}
	s := c.Submission
	if s.RequireAuth || s.LenientCommands || s.TLS.SessionTickets || s.Received != "private" || s.Limits != longLimits() || s.Enabled() == false || len(s.Listen) != 1 {
		t.Errorf("submission: %+v", s)
	}
	if want := map[string]bool{"DSN": true, "SMTPUTF8": false, "8BITMIME": true, "CHUNKING": false}; !reflect.DeepEqual(s.Extensions, want) {
		t.Errorf("extensions: %v", s.Extensions)
	}
	d := c.DecisionLog
	if d.Sync != "each" || d.Rotate != (DecisionRotate{50 << 20, 48 * time.Hour, 3, false}) || d.MaxLine != 128<<10 || d.Labels["site"] != "north" ||
		d.Upload != (DecisionUpload{"https://logs.example.com/v1", filepath.Join(dir, "relay.pass"), filepath.Join(dir, "tls/cert.pem"), 64 << 20, 1 << 20, time.Second, 10 * time.Second}) ||
		!reflect.DeepEqual(d.Mask, DecisionMask{"domain", "erase", "network", []string{"From", "To", "Date"}, nil, filepath.Join(dir, "mask.key")}) {
		t.Errorf("decision log: %+v", d)
	}
	p := c.Policy
	if p.Bundle != "https://policies.example.com/postern.tar.gz" || p.Poll != 90*time.Second || p.Tests != "off" || p.TestTimeout != 2*time.Minute {
		t.Errorf("policy: %+v", p)
	}
	if v := p.Verify.Bundles(); len(v.Keys) != 2 || v.Keys["release"] != (bundles.Key{File: filepath.Join(dir, "keys/pub.pem"), Algorithm: "RS256"}) ||
		v.Keys["next"].Algorithm != "HS512" || v.Scope != "production" || v.Exclude[0] != "README.md" {
		t.Errorf("verify: %+v", v)
	}
	if r := p.Remote(); r.TokenFile != filepath.Join(dir, "relay.pass") || r.Username != "ci" || r.CA != filepath.Join(dir, "tls/cert.pem") || r.ClientKey == "" || r.Insecure {
		t.Errorf("remote: %+v", r)
	}
	if c.Log != (Log{slog.LevelDebug, "json"}) || !c.DecisionLog.Strict || c.Policy.AllowBuiltins[0] != "http.send" {
		t.Errorf("%+v %+v %+v", c.Log, c.DecisionLog, c.Policy)
	}
}

func TestDefaults(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.yaml")
	write(t, empty, "# nothing yet\n")
	write(t, filepath.Join(dir, "users.yaml"), "users: {}\n")
	loaded, found := Check(empty, "")
	if found != nil {
		t.Error(found)
	}
	for _, c := range []*Config{Default(dir), loaded} {
		if fmt.Sprint(c.Submission.Listen, c.Submission.ListenTLS) != "[127.0.0.1:2587] [127.0.0.1:2465]" {
			t.Errorf("listens on %v", c.Submission)
		}
		cert, key, self := c.SelfSigned()
		if !self || cert != filepath.Join(dir, "tls/cert.pem") || key != filepath.Join(dir, "tls/key.pem") {
			t.Errorf("certificate %s %s %v", cert, key, self)
		}
		if c.Auth[0].File != filepath.Join(dir, "users.yaml") || c.Relay.To[0].URL != "maildir:"+filepath.Join(dir, "outbox") ||
			c.Relay.Quarantine != filepath.Join(dir, "quarantine") || c.DecisionLog.File != filepath.Join(dir, "decisions.jsonl") || c.Policy.Bundle != "" {
			t.Errorf("%+v", c)
		}
		if d := c.DecisionLog; d.Rotate != (DecisionRotate{100 << 20, 24 * time.Hour, 14, true}) || d.MaxLine != 64<<10 || d.Mask.Hashes() || d.Mask.KeyFile != filepath.Join(dir, "decision-mask.key") || d.Upload.URL != "" || d.Sync != "none" {
			t.Errorf("decision log: %+v", d)
		}
		if found := c.Validate(); found != nil {
			t.Error(found)
		}
	}
	if found := Default(filepath.Join(dir, "elsewhere")).Validate(); found != nil {
		t.Errorf("the first start, before anything is made: %v", found)
	}
	if moved, found := Check(empty, filepath.Join(dir, "state")); found.Err() == nil || moved.Relay.To[0].URL != "maildir:"+filepath.Join(dir, "state/outbox") {
		t.Errorf("with another state directory, which has no users yet: %+v, %v", moved, found)
	}
	rotated := filepath.Join(dir, "rotated.yaml")
	write(t, rotated, "decision_log: {file: d.jsonl, rotate: {}}\n")
	if c, _ := Check(rotated, ""); c.DecisionLog.Rotate != defaultRotate() {
		t.Errorf("rotate without more: %+v", c.DecisionLog.Rotate)
	}
	write(t, rotated, "decision_log: {file: d.jsonl, rotate: off}\n")
	if c, _ := Check(rotated, ""); c.DecisionLog.Rotate != (DecisionRotate{}) {
		t.Errorf("rotate: off: %+v", c.DecisionLog.Rotate)
	}
	only := filepath.Join(dir, "milter.yaml")
	write(t, only, "milter: {listen: 'tcp:127.0.0.1:8891'}\n")
	c, found := Check(only, "")
	if found != nil || c.Submission.Enabled() || len(c.Milter.Listen) != 1 {
		t.Errorf("a milter alone: %+v, %v", c, found)
	}
}

// longLimits are those of long.yaml: each other than its default, and than every other.
func longLimits() smtpd.Limits {
	return smtpd.Limits{
		MessageBytes: 50 << 20, Recipients: 101, Connections: 2000, ConnectionsPerIP: 51, UnusedPerIP: 52, Commands: 102, Errors: 21, Messages: 10_001, AuthFailures: 4, AuthDelay: time.Second,
		CommandLine: 4096, Line: 2000, Chunks: 103, Idle: 90 * time.Second, Data: 91 * time.Second, Transaction: 92 * time.Minute, Write: 93 * time.Second, Handshake: 94 * time.Second,
		SpoolMemory: 64 << 10, SpoolMemoryTotal: 32 << 20, SpoolDisk: 8 << 30, Header: message.Limits{Bytes: 1 << 20, Fields: 1001, FieldBytes: 32 << 10},
	}
}

// TestBroken reads each testdata/broken/*.yaml, whose comments "# want: " say which findings there must be, and no others.
func TestBroken(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil || len(files) < 30 {
		t.Fatal(len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(furnish(t), "c.yaml")
			write(t, path, string(text))
			_, found := Check(path, "")
			var want, got []string
			for line := range strings.Lines(string(text)) {
				if w, ok := strings.CutPrefix(strings.TrimSpace(line), "# want: "); ok {
					want = append(want, w)
				}
			}
			for _, f := range found {
				got = append(got, strings.ReplaceAll(strings.TrimPrefix(f.String(), path+":"), filepath.Dir(path), "DIR"))
				if f.Mend == "" && !strings.Contains(f.Problem, "; ") {
					t.Errorf("%s does not say how to mend it", f)
				}
			}
			if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
				t.Errorf("got\n%s\nwant\n%s", g, w)
			}
		})
	}
}

// FuzzLoad checks for any text that Load either accepts it or reports findings. An accepted configuration has every limit within its
// bounds, no half-written pair of keys, and the values that another reader of YAML finds. A finding is one line with its place, and does not
// show the password of a URL.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yaml", "testdata/broken/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(text))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 8192 {
			return
		}
		doc, err := yamldoc.Parse("/nowhere/c.yaml", []byte(text))
		if err != nil {
			wantFindings(t, text, err)
			return
		}
		c, err := read(doc, "")
		if c == nil {
			t.Fatal("no Config for a document that could be read")
		}
		if err != nil {
			wantFindings(t, text, err)
		}
		if l := c.Submission.Limits; l.MessageBytes < 1 || l.Recipients < 1 || l.Connections < 1 || l.Idle < time.Second || c.Policy.Timeout < time.Millisecond {
			t.Errorf("a limit of nothing: %+v", c)
		}
		for _, m := range c.Milter.Listen {
			if err == nil && (m.Address == "" || m.Name == "" || m.OnError == "") {
				t.Errorf("half a listener: %+v", m)
			}
		}
		for _, a := range slices.Concat(c.Submission.Listen, c.Submission.ListenTLS) {
			if _, port, err := net.SplitHostPort(a); err != nil || port == "" || strings.ContainsFunc(a, unicode.IsSpace) {
				t.Errorf("listens on %q", a)
			}
		}
		for _, to := range c.Relay.To {
			if strings.Contains(to.URL, "@") && !strings.HasPrefix(to.URL, "maildir:") && !strings.HasPrefix(to.URL, "lmtp+unix:") {
				t.Errorf("a login in %q", to.URL)
			}
		}
		if err == nil {
			wantConfig(t, text, c)
		}
	})
}

func wantFindings(t *testing.T, text string, err error) {
	t.Helper()
	var found yamldoc.Findings
	if !errors.As(err, &found) || len(found) == 0 {
		t.Fatalf("%T: %v", err, err)
	}
	for _, one := range found {
		if one.Problem == "" || one.Line < 0 || one.Line > 1+strings.Count(text, "\n") || len(one.String()) > 4096 || strings.ContainsFunc(one.String(), func(r rune) bool { return unicode.IsControl(r) && r != '\t' }) {
			t.Errorf("%q: finding %q", text, one)
		}
	}
}

// wantConfig reads the file as the reader of policy data does.
func wantConfig(t *testing.T, text string, c *Config) {
	t.Helper()
	var theirs struct {
		Hostname   string
		Submission struct {
			Limits struct{ Recipients *int }
		}
		Auth   []any
		Relay  struct{ To any }
		Policy struct {
			OnError string `yaml:"on_error"`
		}
	}
	if yaml.Unmarshal([]byte(text), &theirs) != nil {
		return // it is stricter, or some of it may be written in several ways
	}
	if theirs.Hostname != "" && c.Hostname != strings.ToLower(theirs.Hostname) {
		t.Errorf("%q: hostname %q, another reader has %q", text, c.Hostname, theirs.Hostname)
	}
	if n := theirs.Submission.Limits.Recipients; n != nil && c.Submission.Limits.Recipients != *n {
		t.Errorf("%q: %d recipients, another reader has %d", text, c.Submission.Limits.Recipients, *n)
	}
	if to, single := theirs.Relay.To.(string); single && len(c.Relay.To) != 1 {
		t.Errorf("%q: relays to %v, another reader has %q", text, c.Relay.To, to)
	}
	if len(theirs.Auth) > 0 && len(c.Auth) != len(theirs.Auth) {
		t.Errorf("%q: %d backends, another reader has %d", text, len(c.Auth), len(theirs.Auth))
	}
	if theirs.Policy.OnError != "" && c.Policy.OnError != theirs.Policy.OnError {
		t.Errorf("%q: on_error %q, another reader has %q", text, c.Policy.OnError, theirs.Policy.OnError)
	}
}

var signingKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// furnish makes a directory with everything that the configurations in testdata refer to.
func furnish(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls/cert.pem"), filepath.Join(dir, "tls/key.pem")
	if _, err := certs.EnsureSelfSigned(cert, key, "mail.example.com", time.Now()); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "tls/other.pem")
	if _, err := certs.EnsureSelfSigned(filepath.Join(dir, "tls/other-cert.pem"), other, "", time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := certs.EnsureSelfSigned(filepath.Join(dir, "tls/old-cert.pem"), filepath.Join(dir, "tls/old-key.pem"), "", time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "tls/clients.pem"), string(pem))
	write(t, filepath.Join(dir, "users.yaml"), "users:\n  alice: \"$2b$12$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\"\n")
	write(t, filepath.Join(dir, "bad-users.yaml"), "users:\n  alice: secret\n")
	write(t, filepath.Join(dir, "senders.yaml"), "senders: {}\n")
	write(t, filepath.Join(dir, "relay.pass"), "hunter2\n")
	write(t, filepath.Join(dir, "empty.pass"), "\nhunter2\n")
	signer, err := signingKey()
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&signer.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "mask.key"), "0123456789abcdef\n")
	write(t, filepath.Join(dir, "radius.secret"), "0123456789abcdef0123456789abcdef\n")
	for _, d := range []string{"policies", "state", "keys"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "keys/pub.pem"), string(encode.EncodeToMemory(&encode.Block{Type: "PUBLIC KEY", Bytes: public})))
	write(t, filepath.Join(dir, "keys/private.pem"), string(encode.EncodeToMemory(&encode.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(signer)})))
	write(t, filepath.Join(dir, "keys/secret"), strings.Repeat("s3cret", 8))
	return dir
}

func load(t *testing.T, name string) (*Config, string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	dir := furnish(t)
	path := filepath.Join(dir, name)
	write(t, path, string(text))
	c, err := Load(path, "")
	if err != nil {
		t.Fatal(err)
	}
	return c, dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
