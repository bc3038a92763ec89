package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// authority is a certificate authority as openssl's own tools make one.
type authority struct {
	t    testing.TB
	dir  string
	name string
}

const authorityConf = `
[ca]
default_ca = here
[here]
dir = .
database = ./index.txt
serial = ./serial
crlnumber = ./crlnumber
new_certs_dir = .
certificate = ./ca.pem
private_key = ./ca.key
default_md = sha256
default_days = 30
default_crl_days = 30
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = dn
[dn]
[v3_ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[client]
extendedKeyUsage = clientAuth
[server]
extendedKeyUsage = serverAuth
`

func newAuthority(t testing.TB, name string) *authority {
	a := &authority{t, t.TempDir(), name}
	for file, text := range map[string]string{"ca.cnf": authorityConf, "index.txt": "", "serial": "1000\n", "crlnumber": "01\n"} {
		if err := os.WriteFile(filepath.Join(a.dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "400",
		"-subj", "/CN="+name, "-config", "ca.cnf", "-extensions", "v3_ca")
	return a
}

func (a *authority) openssl(args ...string) {
	a.t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Dir = a.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		a.t.Fatalf("openssl %s: %v\n%s", args[0], err, out)
	}
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// issue a certificate; more are arguments of openssl ca.
func (a *authority) issue(name, san string, more ...string) *x509.Certificate {
	a.t.Helper()
	req := []string{"req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", name + ".key", "-out", name + ".csr",
		"-subj", "/CN=" + name, "-config", "ca.cnf"}
	if san != "" {
		req = append(req, "-addext", "subjectAltName="+san)
	}
	a.openssl(req...)
	if !slices.Contains(more, "-extensions") {
		more = append(more, "-extensions", "client")
	}
	a.openssl(append([]string{"ca", "-batch", "-notext", "-config", "ca.cnf", "-in", name + ".csr", "-out", name + ".pem"}, more...)...)
	return readCert(a.t, a.file(name+".pem"))
}

func (a *authority) revoke(names ...string) {
	a.t.Helper()
	for _, n := range names {
		a.openssl("ca", "-config", "ca.cnf", "-revoke", n+".pem")
	}
	a.openssl("ca", "-config", "ca.cnf", "-gencrl", "-out", "ca.crl")
}

func readCert(t testing.TB, path string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// TestCertificates: who a certificate is, by openssl's authority.
func TestCertificates(t *testing.T) {
	ca, other := newAuthority(t, "Example Devices"), newAuthority(t, "Another")
	certs := map[string]*x509.Certificate{
		"alice":   ca.issue("alice", "email:alice@example.com"),
		"two":     ca.issue("two", "email:alice@example.com,email:bob@example.com"),
		"cn":      ca.issue("alice@example.com", ""),
		"printer": ca.issue("printer", "DNS:Printer.Example.com"),
		"star":    ca.issue("star", "DNS:*.example.com"),
		"backup":  ca.issue("backup", "URI:spiffe://example.com/backup"),
		"server":  ca.issue("server", "email:alice@example.com", "-extensions", "server"),
		"old":     ca.issue("old", "email:alice@example.com", "-startdate", "20200101000000Z", "-enddate", "20210101000000Z"),
		"lost":    ca.issue("lost", "email:alice@example.com"),
		"alien":   other.issue("alien", "email:alice@example.com"),
		"pinned":  other.issue("pinned", "email:ceo@example.com"),
		"oldpin":  other.issue("oldpin", "", "-startdate", "20200101000000Z", "-enddate", "20210101000000Z"),
		"lostpin": ca.issue("lostpin", ""),
	}
	ca.revoke("lost", "lostpin")
	people := filepath.Join(t.TempDir(), "people.yaml")
	write := func(text string) {
		if err := os.WriteFile(people, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(fmt.Sprintf(`certificates:
  "dns:printer.example.com": {login: Printer, groups: [machines], attributes: {room: "17"}}
  "uri:spiffe://example.com/backup": backup
  %q: scanner
  %q: scanner
  %q: scanner
`, fingerprint(certs["pinned"]), fingerprint(certs["oldpin"]), fingerprint(certs["lostpin"])))
	o := CertificatesOptions{CA: ca.file("ca.pem"), CRL: ca.file("ca.crl"), Map: people, SAN: []string{"email", "dns"}}
	c, err := OpenCertificates(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct{ cert, as, login, why string }{
		{"alice", "", "alice@example.com", ""},
		{"alice", "alice@example.com", "alice@example.com", ""},
		{"alice", "bob@example.com", "", "belongs to another login"},
		{"two", "", "", "several logins"},
		{"two", "bob@example.com", "bob@example.com", ""},
		{"cn", "", "", "belongs to no login"},
		{"cn", "alice@example.com", "", "belongs to no login"},
		{"printer", "", "printer", ""},
		{"star", "", "", "belongs to no login"},
		{"backup", "", "backup", ""},
		{"server", "", "", "does not verify"},
		{"old", "", "", "out of date"},
		{"lost", "", "", "revoked"},
		{"alien", "", "", "does not verify"},
		{"pinned", "", "scanner", ""},
		{"pinned", "ceo@example.com", "", "belongs to another login"}, // its authority is not trusted here
		{"oldpin", "", "", "out of date"},
		{"lostpin", "", "", "revoked"},
	} {
		id, err := c.Certificate(t.Context(), k.as, []*x509.Certificate{certs[k.cert]})
		switch {
		case k.login != "" && (err != nil || id.Login != k.login || id.Backend != "certificate"):
			t.Errorf("%s as %q: %+v, %v", k.cert, k.as, id, err)
		case k.login == "" && (!errors.Is(err, ErrCredentials) || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), k.why) || id.Login != ""):
			t.Errorf("%s as %q: %+v, %v", k.cert, k.as, id, err)
		}
	}
	if id, _ := c.Certificate(t.Context(), "", []*x509.Certificate{certs["printer"]}); !slices.Equal(id.Groups, []string{"machines"}) || id.Attributes["room"][0] != "17" {
		t.Errorf("%+v", id)
	}
	if _, err := c.Certificate(t.Context(), "", nil); !errors.Is(err, ErrCredentials) {
		t.Error(err)
	}
	if _, err := c.Password(t.Context(), "alice@example.com", ""); !errors.Is(err, ErrCredentials) {
		t.Error(err)
	}

	// What is taken back while the program runs, and a file that gets broken.
	ca.revoke("alice")
	if err := c.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Certificate(t.Context(), "", []*x509.Certificate{certs["alice"]}); !errors.Is(err, errRevoked) {
		t.Error(err)
	}
	write("certificates: {'cn:alice': alice}\n")
	if err := c.Reload(); err == nil || !strings.Contains(err.Error(), "does not name a certificate") {
		t.Error(err)
	}
	if id, err := c.Certificate(t.Context(), "", []*x509.Certificate{certs["printer"]}); err != nil || id.Login != "printer" {
		t.Error(id, err)
	}
	// A list that is out of date says nothing of anybody.
	o.Now = func() time.Time { return time.Now().Add(31 * 24 * time.Hour) }
	o.Map = ""
	late, err := OpenCertificates(o)
	if err != nil {
		t.Fatal(err)
	}
	long := ca.issue("long", "email:long@example.com", "-days", "200")
	if _, err := late.Certificate(t.Context(), "", []*x509.Certificate{long}); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
}

// TestIntermediates: a chain by way of an intermediate authority, whose lists count as well.
func TestIntermediates(t *testing.T) {
	root, middle := newAuthority(t, "Root"), newAuthority(t, "Middle")
	middle.openssl("req", "-new", "-key", "ca.key", "-out", "middle.csr", "-subj", "/CN=Middle", "-config", "ca.cnf")
	root.openssl("ca", "-batch", "-notext", "-config", "ca.cnf", "-in", middle.file("middle.csr"), "-out", middle.file("ca.pem"), "-extensions", "v3_ca")
	root.openssl("ca", "-config", "ca.cnf", "-gencrl", "-out", "ca.crl")
	alice, bob := middle.issue("alice", "email:alice@example.com"), middle.issue("bob", "email:bob@example.com")
	middle.revoke("bob")
	between := readCert(t, middle.file("ca.pem"))
	dir := t.TempDir()
	join := func(name string, files ...string) string {
		var all []byte
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b...)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, all, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	both := join("cas.pem", root.file("ca.pem"), middle.file("ca.pem"))
	for name, k := range map[string]struct {
		ca, crl string
		leaf    *x509.Certificate
		want    error
	}{
		"no list":                  {root.file("ca.pem"), "", alice, nil},
		"the root's list alone":    {root.file("ca.pem"), root.file("ca.crl"), alice, ErrUnavailable},
		"both lists":               {both, join("crls.pem", root.file("ca.crl"), middle.file("ca.crl")), alice, nil},
		"both lists, revoked":      {both, join("crls.pem", root.file("ca.crl"), middle.file("ca.crl")), bob, errRevoked},
		"the middle's list, alone": {both, middle.file("ca.crl"), bob, errRevoked},
	} {
		c, err := OpenCertificates(CertificatesOptions{CA: k.ca, CRL: k.crl, SAN: []string{"email"}})
		if err != nil {
			t.Fatal(name, err)
		}
		if _, err := c.Certificate(t.Context(), "", []*x509.Certificate{k.leaf, between}); !errors.Is(err, k.want) || k.want == nil && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, o := range map[string]CertificatesOptions{
		"list of another authority": {CA: root.file("ca.pem"), CRL: middle.file("ca.crl")},
		"certificate for a list":    {CA: root.file("ca.pem"), CRL: root.file("ca.pem")},
		"key for an authority":      {CA: root.file("ca.key")},
		"no file":                   {CA: filepath.Join(dir, "none.pem")},
	} {
		if _, err := OpenCertificates(o); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// TestCertificateMap: what is wrong with a map, and where.
func TestCertificateMap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "map.yaml")
	for text, want := range map[string]string{
		`certificates: {"cn:alice": alice}`:                            "does not name a certificate",
		`certificates: {alice: alice}`:                                 "does not name a certificate",
		`certificates: {"sha256:12": alice}`:                           "not a SHA-256 fingerprint",
		`certificates: {"email:alice": alice}`:                         "not a mail address",
		`certificates: {"dns:*.example.com": alice}`:                   "not a host name",
		`certificates: {"uri:alice": alice}`:                           "not a URI",
		`certificates: {"email:a@b.c": "al ice"}`:                      "cannot be used",
		`certificates: {"email:a@b.c": {groups: [x]}}`:                 "has no login",
		`certificates: {"email:a@b.c": {logn: x}}`:                     "did you mean login",
		`certificates: {"email:a@b.C": a, "email:a@B.c": b}`:           "is there already",
		`certificate: {}`:                                              "did you mean certificates",
		`certificates: {"sha256:` + strings.Repeat("zz", 32) + `": a}`: "not a SHA-256 fingerprint",
	} {
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenCertificates(CertificatesOptions{Map: path}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path+":1:") {
			t.Errorf("%s: %v", text, err)
		}
	}
	colons := strings.TrimSuffix(strings.Repeat("AB:", 32), ":") // as openssl x509 -fingerprint has it
	if err := os.WriteFile(path, []byte(`certificates: {"sha256:`+colons+`": a}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if people, err := readPeople(path); err != nil || people["sha256:"+strings.Repeat("ab", 32)] == nil {
		t.Error(people, err)
	}
}
