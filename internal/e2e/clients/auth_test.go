package clients

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/smtpd/auth"
)

// idp is an OAuth provider: a key set, an introspection endpoint that knows one opaque token, and tokens to order.
type idp struct {
	*httptest.Server
	key *ecdsa.PrivateKey
}

const opaqueToken = "2YotnFZFEjr1zCsicMWpAA"

func newIDP(t *testing.T) *idp {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := jwk.Import(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	set := jwk.NewSet()
	public.Set(jwk.KeyIDKey, "one")
	set.AddKey(public)
	p := &idp{key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(set) })
	mux.HandleFunc("/introspect", func(w http.ResponseWriter, r *http.Request) {
		if id, secret, _ := r.BasicAuth(); id != "postern" || secret != "hush" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"active": r.FormValue("token") == opaqueToken, "username": e2e.Login, "exp": time.Now().Unix() + 60})
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

func (p *idp) token(t *testing.T, login string, life time.Duration) string {
	t.Helper()
	payload, err := json.Marshal(map[string]any{"iss": p.URL, "aud": "mail", "sub": login, "exp": time.Now().Add(life).Unix(), "groups": []string{"staff"}})
	if err != nil {
		t.Fatal(err)
	}
	head := jws.NewHeaders()
	head.Set(jws.KeyIDKey, "one")
	b, err := jws.Sign(payload, jws.WithKey(jwa.ES256(), p.key, jws.WithProtectedHeaders(head)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// withToken has curl log in by a bearer token.
func withToken(mechanism string) client {
	return func(t *testing.T, s *e2e.Site, l letter) (string, error) {
		return testenv.Output(t, l.eml, "curl", "-sS", "-v", "--max-time", "50", "--ssl-reqd", "--cacert", s.Certificate(), "--user", l.login, "--oauth2-bearer", l.password,
			"--login-options", "AUTH="+mechanism, "--mail-from", l.from, "--mail-rcpt", l.to[0], "-T", "-", "smtp://"+s.Addr+"/laptop.example.com")
	}
}

// withCertificate has curl log in by a client certificate.
func withCertificate(dir, name string) client {
	return func(t *testing.T, s *e2e.Site, l letter) (string, error) {
		return testenv.Output(t, l.eml, "curl", "-sS", "-v", "--max-time", "50", "--ssl-reqd", "--cacert", s.Certificate(), "--user", l.login+":", "--login-options", "AUTH=EXTERNAL",
			"--cert", filepath.Join(dir, name+".pem"), "--key", filepath.Join(dir, name+".key"),
			"--mail-from", l.from, "--mail-rcpt", l.to[0], "-T", "-", "smtps://"+s.TLS+"/laptop.example.com")
	}
}

// msmtpWithCertificate is msmtp with auth external.
func msmtpWithCertificate(dir, name string) client {
	return func(t *testing.T, s *e2e.Site, l letter) (string, error) {
		host, port, _ := net.SplitHostPort(s.Addr)
		conf := filepath.Join(t.TempDir(), "msmtprc")
		testenv.Write(t, conf, fmt.Sprintf("account default\nhost %s\nport %s\ntls on\ntls_trust_file %s\ntls_cert_file %s\ntls_key_file %s\nauth external\nuser %s\nfrom %s\n",
			host, port, s.Certificate(), filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"), l.login, l.from))
		return testenv.Output(t, lf(l.eml), "msmtp", append([]string{"-C", conf, "--"}, l.to...)...)
	}
}

// smtplibToken has Python log in with an object of its user's, as libraries for OAuth do.
const smtplibTokenPy = `
import smtplib, ssl, sys
host, port, ca, mechanism, login, token, sender, to = sys.argv[1:9]
s = smtplib.SMTP(host, int(port), timeout=50)
s.starttls(context=ssl.create_default_context(cafile=ca)); s.ehlo()
print(s.esmtp_features["auth"])
def answer(challenge=None):
    if challenge: print(challenge.decode()); return "\x01" if mechanism == "OAUTHBEARER" else ""
    if mechanism == "XOAUTH2": return "user=%s\x01auth=Bearer %s\x01\x01" % (login, token)
    return "n,a=%s,\x01auth=Bearer %s\x01\x01" % (login, token)
try:
    print(s.auth(mechanism, answer))
    s.sendmail(sender, to, sys.stdin.buffer.read())
except smtplib.SMTPException as e:
    print(e); sys.exit(1)
`

func smtplibToken(mechanism string) client {
	return func(t *testing.T, s *e2e.Site, l letter) (string, error) {
		host, port, _ := net.SplitHostPort(s.Addr)
		return testenv.Output(t, l.eml, "python3", "-c", smtplibTokenPy, host, port, s.Certificate(), mechanism, l.login, l.password, l.from, l.to[0])
	}
}

// gsasl logs in over STARTTLS and goes.
func gsasl(t *testing.T, s *e2e.Site, login, password string, more ...string) (string, error) {
	t.Helper()
	host, port, _ := net.SplitHostPort(s.Addr)
	return testenv.Output(t, "", "gsasl", append([]string{"--smtp", "--verbose", "--authentication-id=" + login, "--authorization-id=",
		"--password=" + password, "--x509-ca-file=" + s.Certificate(), "--connect=" + host + ":" + port}, more...)...)
}

// TestScramClients: msmtp without channel binding, GNU SASL with it over TLS 1.3.
func TestScramClients(t *testing.T) {
	t.Parallel()
	dir := testenv.ShortDir(t)
	verifier, err := auth.HashScram(rand.Reader, e2e.Password)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(dir, "scram.yaml")
	testenv.Write(t, users, "users:\n  "+e2e.Login+": '"+verifier+"'\n")
	s := e2e.StartSite(t, "maildir:outbox", "submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0'}\nauth: [{file: "+users+"}]\n")
	for name, submit := range map[string]client{
		"msmtp-scram": msmtp(false, "scram-sha-256"), "msmtp-scram-tls": msmtp(true, "scram-sha-256"),
		"swaks-plain": swaks("PLAIN", false), "smtplib-login": smtplib(true, "LOGIN", "data"),
	} {
		l := newLetter(name, plainEML)
		if said, err := submit(t, s, l); err != nil {
			t.Errorf("%s: %v\n%s", name, err, said)
			continue
		}
		arrivedOnce(t, filepath.Join(s.Dir, "outbox"), l, "\r\n", "Return-Path", "X-Envelope-Params", "X-Envelope-To", "Received")
	}
	wrong := newLetter("wrong", plainEML)
	wrong.password += "x"
	if said, err := msmtp(false, "scram-sha-256")(t, s, wrong); err == nil || !strings.Contains(said, "535 5.7.8") {
		t.Errorf("%v\n%s", err, said)
	}
	for _, args := range [][]string{
		{"--mechanism=SCRAM-SHA-256", "--no-cb"}, {"--mechanism=SCRAM-SHA-256-PLUS"}, {"--mechanism=SCRAM-SHA-256-PLUS", "--priority=NORMAL:-VERS-TLS1.3"},
	} {
		if said, err := gsasl(t, s, e2e.Login, e2e.Password, args...); err != nil || !strings.Contains(said, "235 2.7.0") {
			t.Errorf("%s: %v\n%s", args, err, said)
		}
		if said, err := gsasl(t, s, e2e.Login, "wrong", args...); err == nil || !strings.Contains(said, "535 5.7.8") {
			t.Errorf("%s: %v\n%s", args, err, said)
		}
	}
}

// TestTokenClients: curl and Python with JWTs and with opaque tokens.
func TestTokenClients(t *testing.T) {
	t.Parallel()
	p := newIDP(t)
	dir := testenv.ShortDir(t)
	testenv.Write(t, filepath.Join(dir, "secret"), "hush\n")
	s := e2e.StartSite(t, "maildir:outbox", fmt.Sprintf(`submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0'}
auth:
  - oauth: {keys: %[1]s/keys, issuer: %[1]s, audience: mail, login: sub, groups: groups}
  - oauth: {introspection: %[1]s/introspect, client_id: postern, client_secret_file: %[2]s/secret, login: username}
`, p.URL, dir))
	good := p.token(t, e2e.Login, time.Hour)
	for name, c := range map[string]struct {
		submit client
		token  string
		want   string
	}{
		"curl-oauthbearer":    {withToken("OAUTHBEARER"), good, ""},
		"curl-xoauth2":        {withToken("XOAUTH2"), good, ""},
		"curl-opaque":         {withToken("OAUTHBEARER"), opaqueToken, ""},
		"smtplib-oauthbearer": {smtplibToken("OAUTHBEARER"), good, ""},
		"smtplib-xoauth2":     {smtplibToken("XOAUTH2"), good, ""},
		"msmtp-oauthbearer":   {msmtp(false, "oauthbearer"), good, ""},
		"curl-expired":        {withToken("OAUTHBEARER"), p.token(t, e2e.Login, -time.Hour), "535 5.7.8"},
		"curl-other":          {withToken("XOAUTH2"), p.token(t, "bob", time.Hour), "535 5.7.8"},
		"smtplib-guess":       {smtplibToken("OAUTHBEARER"), "guess", `"status":"invalid_token"`},
	} {
		l := newLetter(name, plainEML)
		l.password = c.token
		said, err := c.submit(t, s, l)
		if c.want != "" {
			if err == nil || !strings.Contains(said, c.want) {
				t.Errorf("%s: %v\n%s", name, err, said)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, said)
			continue
		}
		arrivedOnce(t, filepath.Join(s.Dir, "outbox"), l, "\r\n", "Return-Path", "X-Envelope-Params", "X-Envelope-To", "Received")
	}
	noSecrets(t, s, good, opaqueToken, "hush")
	p.Close()
	l := newLetter("down", plainEML)
	l.password = opaqueToken
	if said, err := withToken("OAUTHBEARER")(t, s, l); err == nil || !strings.Contains(said, "454 4.7.0") {
		t.Errorf("down: %v\n%s", err, said)
	}
}

// noSecrets wants none of them in the program's log, nor in the decision log.
func noSecrets(t *testing.T, s *e2e.Site, secrets ...string) {
	t.Helper()
	for _, f := range []string{s.Process.Log, filepath.Join(s.Dir, "state/decisions.jsonl")} {
		text, err := os.ReadFile(f)
		if err != nil || len(text) == 0 {
			t.Fatal(f, err)
		}
		for _, secret := range secrets {
			if bytes.Contains(text, []byte(secret)) || bytes.Contains(text, []byte(secret[:min(len(secret), 20)])) {
				t.Errorf("%s has a secret", f)
			}
		}
	}
}

// TestCertificateClients: curl and msmtp with certificates of openssl's making, beside passwords.
func TestCertificateClients(t *testing.T) {
	t.Parallel()
	dir := e2e.ClientAuthority(t)
	s := e2e.StartSite(t, "maildir:outbox", fmt.Sprintf(`submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0', tls: {client_ca: %[1]s/ca.pem}}
auth: [{certificate: {map: %[1]s/map.yaml}}, {file: users.yaml}]
`, dir))
	for name, c := range map[string]struct {
		submit client
		want   string
	}{
		"curl":          {withCertificate(dir, "alice"), ""},
		"msmtp":         {msmtpWithCertificate(dir, "alice"), ""},
		"curl-pinned":   {withCertificate(dir, "pinned"), ""},
		"swaks-plain":   {swaks("PLAIN", false), ""},
		"curl-bob":      {withCertificate(dir, "bob"), "535 5.7.8"},
		"curl-stranger": {withCertificate(dir, "stranger"), "535 5.7.8"},
		"msmtp-bob":     {msmtpWithCertificate(dir, "bob"), "535 5.7.8"},
	} {
		l := newLetter(name, plainEML)
		said, err := c.submit(t, s, l)
		if c.want != "" {
			if err == nil || !strings.Contains(said, c.want) {
				t.Errorf("%s: %v\n%s", name, err, said)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, said)
			continue
		}
		arrivedOnce(t, filepath.Join(s.Dir, "outbox"), l, "\r\n", "Return-Path", "X-Envelope-Params", "X-Envelope-To", "Received")
	}
	facts := certificateFacts(t, s)
	if len(facts) != 2 || facts["email:"+e2e.Address] == 0 || facts["pinned"] == 0 {
		t.Errorf("policy saw %v", facts)
	}
	// Who is taken out of the map is out, without a restart.
	testenv.Write(t, filepath.Join(dir, "map.yaml"), "certificates: {}\n")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		said, err := withCertificate(dir, "alice")(t, s, newLetter("after", plainEML))
		if err != nil && strings.Contains(said, "535 5.7.8") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still let in: %v\n%s", err, said)
		}
	}
}

// certificateFacts counts the decisions whose input has a client certificate, by the names in the certificate and the groups.
func certificateFacts(t *testing.T, s *e2e.Site) map[string]int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.Dir, "state/decisions.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	type certificate struct{ SANs []string }
	seen := map[string]int{}
	for line := range bytes.Lines(text) {
		var entry struct {
			Input struct {
				Auth struct {
					Mechanism   string
					Groups      []string
					Certificate *certificate
				}
			}
		}
		if err := json.Unmarshal(line, &entry); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if c := entry.Input.Auth.Certificate; entry.Input.Auth.Mechanism == auth.External && c != nil {
			seen[strings.Join(append(c.SANs, entry.Input.Auth.Groups...), " ")]++
		}
	}
	return seen
}
