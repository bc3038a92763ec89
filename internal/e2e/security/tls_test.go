package security

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
)

// rsaPair makes a certificate with an RSA key: key exchange by RSA is possible with no other.
func rsaPair(t *testing.T) (cert, key string) {
	t.Helper()
	dir := testenv.ShortDir(t)
	cert, key = filepath.Join(dir, "rsa.pem"), filepath.Join(dir, "rsa.key")
	out, err := exec.Command(testenv.Program(t, "openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=mail.example.com",
		"-keyout", key, "-out", cert).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return cert, key
}

// TestOldTLS: both listeners refuse old protocol versions and ciphers, with certificates of both kinds. The same client reaches
// openssl's own server with them, so that the refusal is the program's.
func TestOldTLS(t *testing.T) {
	t.Parallel()
	cert, key := rsaPair(t)
	withRSA := e2e.StartSite(t, "maildir:outbox", fmt.Sprintf("submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0', tls: {cert: %s, key: %s}}\n", cert, key))
	withECDSA := e2e.StartSite(t, "maildir:outbox", "")
	lax := testenv.FreeAddr(t)
	_, port, _ := net.SplitHostPort(lax)
	testenv.Background(t, exec.Command("openssl", "s_server", "-accept", port, "-cert", cert, "-key", key, "-cipher", "ALL:@SECLEVEL=0", "-min_protocol", "TLSv1", "-quiet"), "tcp", lax)
	for _, tt := range []struct {
		name string
		site *e2e.Site
		args []string
		good bool
	}{
		{"TLS 1.0", withRSA, []string{"-tls1", "-cipher", "ALL:@SECLEVEL=0"}, false},
		{"TLS 1.1", withRSA, []string{"-tls1_1", "-cipher", "ALL:@SECLEVEL=0"}, false},
		{"key exchange by RSA", withRSA, []string{"-tls1_2", "-cipher", "AES128-GCM-SHA256:AES256-GCM-SHA384:AES128-SHA:@SECLEVEL=0"}, false},
		{"CBC", withRSA, []string{"-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-SHA384:ECDHE-RSA-AES128-SHA256:@SECLEVEL=0"}, false},
		{"finite-field DH", withRSA, []string{"-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:@SECLEVEL=0"}, false},
		{"CBC, ECDSA", withECDSA, []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384:@SECLEVEL=0"}, false},
		{"GCM", withRSA, []string{"-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"}, true},
		{"ChaCha20", withRSA, []string{"-tls1_2", "-cipher", "ECDHE-RSA-CHACHA20-POLY1305"}, true},
		{"GCM, ECDSA", withECDSA, []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"}, true},
		{"TLS 1.3", withRSA, []string{"-tls1_3"}, true},
		{"HTTP in ALPN", withRSA, []string{"-alpn", "h2,http/1.1"}, false},
		{"another name in ALPN", withRSA, []string{"-alpn", "smtp"}, true},
	} {
		if tt.site == withRSA {
			if said := e2e.SClient(t, lax, "", append(tt.args, "-no_ign_eof")...); !strings.Contains(said, "Server certificate") {
				t.Errorf("%s: openssl's own server refuses it, too:\n%s", tt.name, said)
			}
		}
		for door, said := range map[string]string{
			"465": e2e.SClient(t, tt.site.TLS, "QUIT\r\n", tt.args...),
			"587": e2e.SClient(t, tt.site.Addr, "QUIT\r\n", append([]string{"-starttls", "smtp"}, tt.args...)...),
		} {
			if got := strings.Contains(said, "221 2.0.0"); got != tt.good {
				t.Errorf("%s at %s: spoken %v, want %v\n%s", tt.name, door, got, tt.good, said)
			}
		}
	}
}

// TestNoRenegotiation: TLS 1.2's is refused (RFC 9325 §3.5).
func TestNoRenegotiation(t *testing.T) {
	t.Parallel()
	s := e2e.StartSite(t, "maildir:outbox", "")
	cmd := exec.Command(testenv.Program(t, "openssl", "openssl"), "s_client", "-connect", s.TLS, "-tls1_2")
	in, err := cmd.StdinPipe() // as a person would type it: R is a command of openssl's alone on its line
	if err != nil {
		t.Fatal(err)
	}
	out := new(testenv.OutputBuffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(out.String(), "220 ") && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	io.WriteString(in, "R\n")
	if cmd.Wait(); !kill.Stop() {
		t.Error("the connection went on")
	}
	if said := out.String(); !strings.Contains(said, "RENEGOTIATING") || !strings.Contains(said, "error") {
		t.Errorf("%s", said)
	}
}

// TestTicketsPerListener: a session begun at one listener is resumed there and nowhere else; with tickets off, nowhere.
func TestTicketsPerListener(t *testing.T) {
	t.Parallel()
	for _, tickets := range []bool{true, false} {
		s := e2e.StartSite(t, "maildir:outbox", fmt.Sprintf("submission: {listen: '127.0.0.1:0', listen_tls: ['127.0.0.1:0', '127.0.0.1:0'], tls: {session_tickets: %v}}\n", tickets))
		doors := append([]string{s.Addr}, s.AllTLS...)
		for _, version := range []string{"-tls1_2", "-tls1_3"} {
			for i, from := range doors {
				ticket := filepath.Join(testenv.ShortDir(t), "session")
				args := func(door int, more ...string) []string {
					if door == 0 {
						more = append(more, "-starttls", "smtp")
					}
					return append(more, version)
				}
				e2e.SClient(t, from, "QUIT\r\n", args(i, "-sess_out", ticket)...)
				for j, to := range doors {
					more := []string{"-sess_in", ticket}
					if _, err := exec.Command("test", "-s", ticket).Output(); err != nil {
						if tickets {
							t.Fatalf("openssl kept no session of %s", from)
						}
						continue // without a ticket there is nothing to resume
					}
					said := e2e.SClient(t, to, "QUIT\r\n", args(j, more...)...)
					if !strings.Contains(said, "221 2.0.0") {
						t.Errorf("%s from %d at %d: not even a new session\n%s", version, i, j, said)
					}
					if got, want := strings.Contains(said, "Reused, TLSv1"), tickets && i == j; got != want {
						t.Errorf("tickets %v, %s: from %d resumed at %d: %v", tickets, version, i, j, got)
					}
				}
			}
		}
	}
}

// TestResumedCertificate: when a client resumes a session that began with a client certificate, the certificate is checked again
// against the authorities that are trusted now.
func TestResumedCertificate(t *testing.T) {
	t.Parallel()
	dir, other := e2e.ClientAuthority(t), e2e.ClientAuthority(t)
	s := e2e.StartSite(t, "maildir:outbox", fmt.Sprintf(`submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0', tls: {client_ca: %[1]s/ca.pem}}
auth: [{certificate: {map: %[1]s/map.yaml}}, {file: users.yaml}]
`, dir))
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "alice.pem"), filepath.Join(dir, "alice.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := &tls.Config{InsecureSkipVerify: true, MaxVersion: version, Certificates: []tls.Certificate{pair}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		for i, resumed := range []bool{false, true} {
			if reply, did := external(t, s.TLS, config); did != resumed || !strings.HasPrefix(reply, "235 ") {
				t.Errorf("%x, time %d: resumed %v, %s", version, i, did, reply)
			}
		}
		// Another authority takes the place of the one that vouched for alice; her ticket is as fresh as before.
		kept := &tls.Config{InsecureSkipVerify: true, MaxVersion: version, ClientSessionCache: config.ClientSessionCache}
		before := testenv.Read(t, filepath.Join(dir, "ca.pem"))
		testenv.Write(t, filepath.Join(dir, "ca.pem"), testenv.Read(t, filepath.Join(other, "ca.pem")))
		s.Process.Signal(syscall.SIGHUP)
		deadline := time.Now().Add(time.Minute)
		for {
			reply, did := external(t, s.TLS, kept)
			if !did {
				t.Fatalf("%x: the session was not resumed: %s", version, reply)
			}
			if strings.HasPrefix(reply, "535 ") || strings.HasPrefix(reply, "504 ") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%x: still let in: %s", version, reply)
			}
			time.Sleep(100 * time.Millisecond)
		}
		testenv.Write(t, filepath.Join(dir, "ca.pem"), before)
		s.Process.Signal(syscall.SIGHUP)
		for reply, _ := external(t, s.TLS, kept); !strings.HasPrefix(reply, "235 "); reply, _ = external(t, s.TLS, kept) {
			if time.Now().After(deadline) {
				t.Fatalf("%x: not let in again: %s", version, reply)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// external logs in by the certificate of a TLS session, and says whether that was resumed.
func external(t *testing.T, addr string, config *tls.Config) (reply string, resumed bool) {
	t.Helper()
	c, err := tls.Dial("tcp", addr, config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReader(c)
	for i, command := range []string{"", "EHLO laptop.example.com\r\n", "AUTH EXTERNAL =\r\n"} {
		if _, err := c.Write([]byte(command)); err != nil {
			t.Fatal(i, err)
		}
		for {
			line, err := r.ReadBytes('\n')
			if err != nil {
				t.Fatal(i, err)
			}
			if len(line) > 3 && line[3] == ' ' {
				reply = string(bytes.TrimSpace(line))
				break
			}
		}
	}
	return reply, c.ConnectionState().DidResume
}
