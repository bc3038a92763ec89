package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// OpenSSL runs openssl in dir and returns what it printed. The test fails if openssl does.
func OpenSSL(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command(testenv.Program(t, "openssl", "openssl"), args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// SClient runs openssl s_client at addr, with input on its standard input, and returns what it printed. Its exit code is ignored,
// because it says little.
func SClient(t testing.TB, addr, input string, args ...string) string {
	t.Helper()
	args = append([]string{"s_client", "-connect", addr, "-ign_eof"}, args...)
	cmd := exec.Command(testenv.Program(t, "openssl", "openssl"), args...)
	cmd.Stdin = strings.NewReader(input)
	cmd.WaitDelay = 5 * time.Second
	kill := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	defer kill.Stop()
	out, _ := cmd.CombinedOutput()
	return string(out)
}

// ClientAuthority makes a certificate authority with openssl and returns its directory. In it are ca.pem, certificates of the
// authority (alice, bob), certificates that are signed by themselves (pinned, stranger), each with its key, and map.yaml, which
// knows alice and pinned.
func ClientAuthority(t testing.TB) string {
	t.Helper()
	dir := testenv.ShortDir(t)
	key := []string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"}
	OpenSSL(t, dir, append([]string{"req", "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Devices"}, key...)...)
	for name, san := range map[string]string{"alice": "email:" + Address, "bob": "email:bob@example.com"} {
		OpenSSL(t, dir, append([]string{"req", "-new", "-keyout", name + ".key", "-out", name + ".csr", "-subj", "/CN=" + Login, "-addext", "subjectAltName=" + san,
			"-addext", "extendedKeyUsage=clientAuth"}, key[:5]...)...)
		OpenSSL(t, dir, "x509", "-req", "-in", name+".csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30", "-copy_extensions", "copy", "-out", name+".pem")
	}
	OpenSSL(t, dir, append([]string{"req", "-x509", "-keyout", "pinned.key", "-out", "pinned.pem", "-subj", "/CN=" + Login}, key...)...)
	OpenSSL(t, dir, append([]string{"req", "-x509", "-keyout", "stranger.key", "-out", "stranger.pem", "-subj", "/CN=" + Login}, key...)...)
	out := OpenSSL(t, dir, "x509", "-in", "pinned.pem", "-noout", "-fingerprint", "-sha256")
	_, fingerprint, _ := strings.Cut(strings.TrimSpace(out), "=")
	testenv.Write(t, filepath.Join(dir, "map.yaml"), fmt.Sprintf("certificates:\n  \"email:%s\": %s\n  \"sha256:%s\": {login: %s, groups: [pinned]}\n", Address, Login, fingerprint, Login))
	return dir
}
