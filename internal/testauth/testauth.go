// Package testauth starts the real servers that authentication backends are tested against: a Dovecot, a slapd and a FreeRADIUS,
// each on loopback, in a directory of its own, and ended with the test. Tests fail where a server is not installed.
//
// Each server is a child process in a process group of its own. The goroutine that waits for it ends with the test.
package testauth

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

func put(t testing.TB, path, text string) string {
	t.Helper()
	testenv.Must(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// FreeAddr is an address on loopback that was free a moment ago, for TCP or UDP.
func FreeAddr(t testing.TB, network string) string {
	t.Helper()
	if network == "udp" {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		testenv.Must(t, err)
		defer func() { _ = c.Close() }()
		return c.LocalAddr().String()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testenv.Must(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// Certificate writes one for localhost and 127.0.0.1, signed by itself, and gives the paths of its PEM files.
func Certificate(t testing.TB, dir string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	testenv.Must(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	testenv.Must(t, err)
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	testenv.Must(t, err)
	cert = put(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	key = put(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder})))
	return cert, key
}

// Dovecot starts one that authenticates users of a passwd-file, as it is written in passwd, and gives its unix socket.
func Dovecot(t testing.TB, passwd string) (s *testenv.Server, socket string) {
	t.Helper()
	dir := testenv.ShortDir(t)
	return DovecotIn(t, dir, passwd), filepath.Join(dir, "auth.sock")
}

// DovecotIn is Dovecot with its files, and the socket auth.sock, in dir: one that starts again where it was.
func DovecotIn(t testing.TB, dir, passwd string) *testenv.Server {
	t.Helper()
	testenv.NotShort(t, "Dovecot")
	put(t, filepath.Join(dir, "users"), passwd)
	socket := filepath.Join(dir, "auth.sock")
	conf := put(t, filepath.Join(dir, "dovecot.conf"), fmt.Sprintf(`base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = /dev/stderr
protocols =
ssl = no
auth_mechanisms = plain
auth_failure_delay = 0
auth_username_chars =
passdb {
  driver = passwd-file
  args = scheme=PLAIN %[1]s/users
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}
service auth {
  unix_listener %[2]s {
    mode = 0666
  }
}
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
`, dir, socket))
	s := testenv.Start(t, exec.Command(testenv.Program(t, "dovecot-core", "/usr/sbin/dovecot"), "-F", "-c", conf))
	s.Await(t, testenv.Answers("unix", socket))
	return s
}

// LDAP is a slapd that runs.
type LDAP struct {
	*testenv.Server
	Dir, URL, TLSURL string
	CA               string // PEM file of its certificate
}

// Slapd starts a slapd with the suffix dc=example,dc=com, the manager cn=manager,dc=example,dc=com (password "manager"), the overlay
// memberof, and entries, which are LDIF. A user may read their own entry; only the manager may read anything else.
func Slapd(t testing.TB, entries string) *LDAP {
	t.Helper()
	testenv.NotShort(t, "slapd")
	dir := testenv.ShortDir(t)
	l := &LDAP{Dir: dir, URL: "ldap://" + FreeAddr(t, "tcp"), TLSURL: "ldaps://" + FreeAddr(t, "tcp")}
	cert, key := Certificate(t, dir)
	l.CA = cert
	testenv.Must(t, os.Mkdir(filepath.Join(dir, "db"), 0o700))
	conf := put(t, filepath.Join(dir, "slapd.conf"), fmt.Sprintf(`include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile %[1]s/pid
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
TLSCertificateFile %[2]s
TLSCertificateKeyFile %[3]s
database mdb
suffix dc=example,dc=com
rootdn cn=manager,dc=example,dc=com
rootpw manager
directory %[1]s/db
maxsize 16777216
index uid eq
overlay memberof
access to attrs=userPassword by anonymous auth by * none
access to * by self read by users search by * none
`, dir, cert, key))
	ldif := put(t, filepath.Join(dir, "entries.ldif"), `dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: ou=people,dc=example,dc=com
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example,dc=com
objectClass: organizationalUnit
ou: groups

`)
	out, err := exec.Command(testenv.Program(t, "slapd", "/usr/sbin/slapadd"), "-f", conf, "-l", ldif).CombinedOutput()
	if err != nil {
		t.Fatalf("slapadd: %v\n%s", err, out)
	}
	l.Start(t)
	l.Modify(t, "ldapadd", entries)
	return l
}

// Start runs slapd, again after Stop.
func (l *LDAP) Start(t testing.TB) {
	t.Helper()
	l.Server = testenv.Start(t, exec.Command(testenv.Program(t, "slapd", "/usr/sbin/slapd"), "-d", "0", "-f", filepath.Join(l.Dir, "slapd.conf"), "-h", l.URL+" "+l.TLSURL))
	l.Await(t, testenv.Answers("tcp", l.URL[len("ldap://"):]))
}

// Modify runs ldapadd or ldapmodify with LDIF, as the manager.
func (l *LDAP) Modify(t testing.TB, tool, ldif string) {
	t.Helper()
	cmd := exec.Command(testenv.Program(t, "ldap-utils", tool), "-x", "-H", l.URL, "-D", "cn=manager,dc=example,dc=com", "-w", "manager")
	cmd.Stdin = bytes.NewReader([]byte(ldif))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", tool, err, out)
	}
}

// radiusConf is radiusd.conf: directory, port, secret, seconds before a rejection is sent.
const radiusConf = `name = postern-test
raddbdir = %[1]s
run_dir = %[1]s
db_dir = %[1]s
libdir = /usr/lib/freeradius
pidfile = %[1]s/pid
max_request_time = 30
cleanup_delay = 0
max_requests = 16384
hostname_lookups = no
log {
  destination = stdout
}
security {
  allow_core_dumps = no
  reject_delay = %[4]d
  status_server = yes
}
thread pool {
  start_servers = 2
  max_servers = 8
  max_queue_size = 16384
}
client loopback {
  ipaddr = 127.0.0.1
  secret = %[3]s
  require_message_authenticator = yes
}
modules {
  files {
    usersfile = %[1]s/users
  }
  pap {
  }
}
server default {
  listen {
    type = auth
    ipaddr = 127.0.0.1
    port = %[2]s
  }
  authorize {
    files
    pap
  }
  authenticate {
    pap
  }
  post-auth {
    update reply {
      Message-Authenticator := 0x00
    }
    Post-Auth-Type REJECT {
      update reply {
        Message-Authenticator := 0x00
      }
    }
    Post-Auth-Type Challenge {
      update reply {
        Message-Authenticator := 0x00
      }
    }
  }
}
`

// Radius starts a FreeRADIUS that answers requests from loopback which are made with secret and have a Message-Authenticator. users is
// the text of its users file. It returns the server and its UDP address.
func Radius(t testing.TB, secret, users string) (s *testenv.Server, addr string) {
	t.Helper()
	return SlowRadius(t, secret, users, 0)
}

// SlowRadius is Radius that sends rejections after some seconds. FreeRADIUS's own configuration has one.
func SlowRadius(t testing.TB, secret, users string, seconds int) (s *testenv.Server, addr string) {
	t.Helper()
	testenv.NotShort(t, "FreeRADIUS")
	dir, addr := testenv.ShortDir(t), FreeAddr(t, "udp")
	_, port, err := net.SplitHostPort(addr)
	testenv.Must(t, err)
	put(t, filepath.Join(dir, "users"), users)
	put(t, filepath.Join(dir, "dictionary"), "")
	put(t, filepath.Join(dir, "radiusd.conf"), fmt.Sprintf(radiusConf, dir, port, secret, seconds))
	s = testenv.Start(t, exec.Command(testenv.Program(t, "freeradius", "/usr/sbin/freeradius"), "-f", "-l", "stdout", "-d", dir))
	s.Await(t, func() bool { return strings.Contains(s.Output(), "Ready to process requests") })
	return s, addr
}
