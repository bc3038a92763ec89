package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/testenv"
)

// SMTPSink starts Postfix's smtp-sink with args. It returns its address, and the directory into which smtp-sink writes what args
// ask it to write.
func SMTPSink(t testing.TB, args ...string) (addr, dir string) {
	t.Helper()
	testenv.NotShort(t, "smtp-sink")
	addr, dir = testenv.FreeAddr(t), filepath.Join(testenv.ShortDir(t), "sink")
	testenv.Must(t, errors.Join(os.Mkdir(dir, 0o777), os.Chmod(dir, 0o777)))
	if os.Geteuid() == 0 {
		args = append(args, "-u", "nobody")
	}
	cmd := exec.Command(testenv.Program(t, "postfix", "smtp-sink", "/usr/sbin/smtp-sink"), append(args, addr, "100")...)
	cmd.Dir = dir
	testenv.Background(t, cmd, "tcp", addr)
	return addr, dir
}

// dovecotLMTP is the configuration of DovecotLMTP.
const dovecotLMTP = `base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = /dev/stderr
protocols = lmtp
ssl = no
postmaster_address = postmaster@example.net
mail_location = maildir:~/Maildir
passdb {
  driver = static
  args = nopassword=y
}
userdb {
  driver = passwd-file
  args = %[1]s/users
}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = %[2]s
  }
  unix_listener %[3]s {
    mode = 0666
  }
}
`

// DovecotLMTP starts a Dovecot that accepts mail for bob@example.net only, by LMTP over TCP and over a unix socket, and delivers it
// to a Maildir. Its dovecot.conf is beside the socket.
func DovecotLMTP(t testing.TB) (addr, socket, maildir string) {
	t.Helper()
	testenv.NotShort(t, "Dovecot")
	if os.Geteuid() != 0 {
		t.Fatal("only root can start a Dovecot that delivers mail")
	}
	dir := testenv.ShortDir(t)
	home := filepath.Join(dir, "mail")
	addr, socket, maildir = testenv.FreeAddr(t), filepath.Join(dir, "lmtp.sock"), filepath.Join(home, "Maildir")
	testenv.Must(t, errors.Join(os.Mkdir(home, 0o755), os.Chown(home, 65534, 65534)))
	testenv.Write(t, filepath.Join(dir, "users"), "bob@example.net::65534:65534::"+home+"::\n")
	testenv.Must(t, os.Chmod(filepath.Join(dir, "users"), 0o644))
	_, port, _ := net.SplitHostPort(addr)
	conf := filepath.Join(dir, "dovecot.conf")
	testenv.Write(t, conf, fmt.Sprintf(dovecotLMTP, dir, port, socket))
	testenv.Background(t, exec.Command(testenv.Program(t, "dovecot-lmtpd", "dovecot", "/usr/sbin/dovecot"), "-F", "-c", conf), "tcp", addr)
	return addr, socket, maildir
}

// Messages returns the messages in dir and below, byte for byte, sorted by file name. It leaves out messages that are still being
// written, and Dovecot's own files.
func Messages(t testing.TB, dir string) [][]byte {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // moved from tmp to new meanwhile
			return nil
		}
		if err == nil && d.Type().IsRegular() && !strings.HasPrefix(d.Name(), "dovecot") && d.Name() != "maildirfolder" && filepath.Base(filepath.Dir(p)) != "tmp" {
			names = append(names, p)
		}
		return err
	})
	testenv.Must(t, err)
	slices.Sort(names)
	var all [][]byte
	for _, n := range names {
		b, err := os.ReadFile(n)
		testenv.Must(t, err)
		all = append(all, b)
	}
	return all
}
