package daemon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/cmd/postern/certs"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/usersfile"
	"github.com/postern-mail/postern/smtpd/auth"
)

// demoLogin is an address, so that the default policy lets it send as itself without any data.
const demoLogin = "demo@example.com"

// firstStart makes what the first start needs: the state directory, a self-signed certificate, and, without a configuration, a users file
// with the demo user. It prints the password to notice.
func firstStart(cfg *config.Config, notice io.Writer) error {
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return err
	}
	if cert, key, ok := cfg.SelfSigned(); ok {
		if _, err := certs.EnsureSelfSigned(cert, key, cfg.Hostname, time.Now()); err != nil {
			return err
		}
	}
	if cfg.File != "" {
		return nil // a configuration names its users
	}
	users := cfg.Auth[0].File
	if _, err := os.Stat(users); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	password := rand.Text()[:16]
	hash, err := auth.HashPassword(rand.Reader, password)
	if err != nil {
		return err
	}
	if _, err := usersfile.SetPassword(users, demoLogin, hash); err != nil {
		return err
	}
	// The password goes to the terminal and never to the log, because logs are kept and sent elsewhere.
	port := "2587"
	if len(cfg.Submission.Listen) > 0 {
		_, port, _ = net.SplitHostPort(cfg.Submission.Listen[0])
	}
	fmt.Fprintf(notice, `
A demo user was made: %[1]s, password %[2]s
All files are in %[3]s; accepted mail is in %[4]s

Submit a first message with one of these commands:

  swaks --server 127.0.0.1:%[5]s --tls --auth PLAIN --auth-user %[1]s --auth-password %[2]s \
        --from %[1]s --to you@example.net

  printf 'From: %[1]s\nSubject: hello\n\nHello.\n' | curl --ssl-reqd -k smtp://127.0.0.1:%[5]s \
        --user %[1]s:%[2]s --mail-from %[1]s --mail-rcpt you@example.net --crlf -T -

`, demoLogin, password, cfg.StateDir, filepath.Join(cfg.StateDir, "outbox"), port)
	return nil
}
