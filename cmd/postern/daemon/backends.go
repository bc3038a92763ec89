package daemon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/cmd/postern/certs"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/internal/safefile"
	"github.com/postern-mail/postern/smtpd/auth"
)

// backends authenticate users, in the order of the configuration.
type backends struct {
	list     []auth.Backend
	files    []fileSet // to be reloaded when they change
	closers  []io.Closer
	flushers []interface{ Flush() } // caches, which a reload empties
}

// open makes the backends. It reads their files, but connects to no server: that happens when a user logs in.
func (b *backends) open(cfg *config.Config, log *slog.Logger) error {
	for _, a := range cfg.Auth {
		backend, err := b.openOne(cfg, a, log)
		if err != nil {
			return err
		}
		b.list = append(b.list, backend)
	}
	return nil
}

func (b *backends) openOne(cfg *config.Config, a config.Auth, log *slog.Logger) (auth.Backend, error) {
	switch {
	case a.OAuth != nil:
		return b.openOAuth(a.OAuth, log)
	case a.Certificate != nil:
		return b.openCertificates(cfg, a.Certificate, log)
	case a.Dovecot != nil:
		d, err := auth.NewDovecot(a.Dovecot.Options)
		if err != nil {
			return nil, err
		}
		b.closers = append(b.closers, d)
		return b.cached(d, a.Dovecot.Cache), nil
	case a.LDAP != nil:
		return b.openLDAP(a.LDAP, log)
	case a.RADIUS != nil:
		o := a.RADIUS.Options
		o.Logger = log
		r, err := a.RADIUS.Open(o)
		if err != nil {
			return nil, err
		}
		return b.cached(r, a.RADIUS.Cache), nil
	}
	return b.openFile(cfg, a, log)
}

// openFile opens a users file.
func (b *backends) openFile(cfg *config.Config, a config.Auth, log *slog.Logger) (auth.Backend, error) {
	key, err := decoyKey(cfg.StateDir)
	if err != nil { // auth makes a key for this run
		log.Warn("the key for SCRAM salts of unknown logins is not kept; the salts change when the program starts again", "error", err)
	}
	scram := map[string]auth.ScramOffer{"on": auth.ScramOn, "off": auth.ScramOff}[a.Scram]
	for _, other := range cfg.Auth {
		if scram == auth.ScramAuto && other.File == "" && other.OAuth == nil && other.Certificate == nil {
			scram = auth.ScramOff // the users of this backend have only passwords, and clients would try SCRAM for them, too
		}
	}
	f, err := auth.OpenFile(a.File, auth.FileOptions{Logger: log, Scram: scram, DecoyKey: key})
	if err != nil {
		return nil, err
	}
	b.files = append(b.files, fileSet{"users", []string{f.Path()}, f.Reload})
	return f, nil
}

func (b *backends) openLDAP(c *config.LDAP, log *slog.Logger) (auth.Backend, error) {
	o := c.Options
	o.Logger = log
	l, err := c.Open(o)
	if err != nil {
		return nil, err
	}
	b.closers, b.flushers = append(b.closers, l), append(b.flushers, l)
	if o.DN != "" {
		return b.cached(l, c.Cache), nil
	}
	return l, nil // it has a cache of its own, which notices when an entry changes
}

func (b *backends) openOAuth(c *config.OAuth, log *slog.Logger) (auth.Backend, error) {
	o, err := oauthOptions(c)
	if err != nil {
		return nil, err
	}
	o.Logger = log
	backend, err := auth.OpenOAuth(o)
	if err != nil {
		return nil, err
	}
	if paths := backend.Paths(); len(paths) > 0 {
		b.files = append(b.files, fileSet{"OAuth keys", paths, backend.Reload})
	}
	return backend, nil
}

func oauthOptions(c *config.OAuth) (o auth.OAuthOptions, err error) {
	o = auth.OAuthOptions{
		Keys: c.Keys, Algorithms: c.Algorithms, Introspection: c.Introspection, ClientID: c.ClientID, Hint: c.Discovery, Timeout: c.Timeout,
		Claims: auth.Claims{Issuer: c.Issuer, Audience: c.Audience, Scope: c.Scope, Login: c.Login, Groups: c.Groups, Attributes: c.Attributes},
	}
	if c.CA != "" {
		if o.Roots, err = certs.LoadPool(c.CA); err != nil {
			return o, err
		}
	}
	if c.ClientSecretFile != "" {
		if o.ClientSecret, err = safefile.ReadSecret(c.ClientSecretFile); err != nil {
			return o, fmt.Errorf("OAuth client secret: %w", err)
		}
	}
	return o, nil
}

func (b *backends) openCertificates(cfg *config.Config, c *config.Certificate, log *slog.Logger) (auth.Backend, error) {
	backend, err := auth.OpenCertificates(auth.CertificatesOptions{CA: cfg.Submission.TLS.ClientCA, Map: c.Map, SAN: c.SAN, CRL: c.CRL, Logger: log})
	if err != nil {
		return nil, err
	}
	b.files = append(b.files, fileSet{"client certificates", backend.Paths(), backend.Reload})
	return backend, nil
}

// cached puts a cache of successful logins before a backend.
func (b *backends) cached(backend auth.Backend, life time.Duration) auth.Backend {
	c := auth.NewCached(backend, auth.CacheOptions{Life: life})
	b.flushers = append(b.flushers, c)
	return c
}

// flush empties the caches.
func (b *backends) flush() {
	for _, f := range b.flushers {
		f.Flush()
	}
}

func (b *backends) close() {
	for _, c := range b.closers {
		c.Close()
	}
}

// decoyKey returns the key for the SCRAM salts of logins that do not exist. It is kept in the state directory, because a salt that changes
// when the program starts again would tell a client that the login does not exist.
func decoyKey(dir string) ([]byte, error) {
	path := filepath.Join(dir, "decoy.key")
	key, err := safefile.ReadFile(path, 4096)
	if err == nil && len(key) >= 32 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	// There is no key, or it is too short. A new one is safe, because the key protects no data.
	key = make([]byte, 32)
	rand.Read(key) // never fails (crypto/rand)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return key, safefile.WriteFile(path, key, 0o600)
}
