package daemon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern-mail/postern/cmd/postern/certs"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/smtpd/auth"
)

// openProved makes a backend to which clients prove who they are without a password, and notes which files are watched for it.
func (d *daemon) openProved(a config.Auth) (auth.Backend, error) {
	if a.OAuth != nil {
		o, err := oauthOptions(a.OAuth)
		if err != nil {
			return nil, err
		}
		o.Logger = d.log
		b, err := auth.OpenOAuth(o)
		if err == nil && len(b.Paths()) > 0 {
			d.backends = append(d.backends, watched{"OAuth keys", b.Paths(), b.Reload})
		}
		return b, err
	}
	c := a.Certificate
	b, err := auth.OpenCertificates(auth.CertificatesOptions{
		CA: d.cfg.Submission.TLS.ClientCA, Map: c.Map, SAN: c.SAN, CRL: c.CRL, Logger: d.log,
	})
	if err == nil {
		d.backends = append(d.backends, watched{"client certificates", b.Paths(), b.Reload})
	}
	return b, err
}

// fileOptions of a users file.
func (d *daemon) fileOptions(a config.Auth) auth.FileOptions {
	key, err := decoyKey(d.cfg.StateDir)
	if err != nil { // one made for this run alone does it until the next start
		d.log.Warn("the key for SCRAM salts of logins that do not exist is not kept", "error", err)
	}
	scram := map[string]auth.ScramOffer{"on": auth.ScramOn, "off": auth.ScramOff}[a.Scram]
	for _, other := range d.cfg.Auth {
		if scram == auth.ScramAuto && other.File == "" && other.OAuth == nil && other.Certificate == nil {
			scram = auth.ScramOff // a backend beside it that takes passwords only: its users could not log in by SCRAM
		}
	}
	return auth.FileOptions{Logger: d.log, Scram: scram, DecoyKey: key}
}

func oauthOptions(c *config.OAuth) (auth.OAuthOptions, error) {
	o := auth.OAuthOptions{
		Keys: c.Keys, Algorithms: c.Algorithms, Introspection: c.Introspection, ClientID: c.ClientID, Hint: c.Discovery, Timeout: c.Timeout,
		Claims: auth.Claims{Issuer: c.Issuer, Audience: c.Audience, Scope: c.Scope, Login: c.Login, Groups: c.Groups, Attributes: c.Attributes},
	}
	var err error
	if c.CA != "" {
		if o.Roots, err = certs.LoadPool(c.CA); err != nil {
			return o, err
		}
	}
	if c.ClientSecretFile != "" {
		b, err := os.ReadFile(c.ClientSecretFile)
		if err != nil {
			return o, fmt.Errorf("OAuth client secret: %w", err)
		}
		o.ClientSecret, _, _ = strings.Cut(string(b), "\n")
		o.ClientSecret = strings.TrimSuffix(o.ClientSecret, "\r")
	}
	return o, nil
}

// decoyKey is read from the state directory, or made there: what SCRAM clients are told of a login that does not exist must not
// change when the program starts again, because what they are told of one that exists does not.
func decoyKey(dir string) ([]byte, error) {
	path := filepath.Join(dir, "decoy.key")
	key, err := os.ReadFile(path)
	if err == nil && len(key) >= 32 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	// Missing, or cut off when the machine went down: nothing hangs on the old one but that it stays the same.
	key = make([]byte, 32)
	rand.Read(key) // never fails (crypto/rand)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, ".decoy-*") // 0600 by itself
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name()) // gone after the rename
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	return key, os.Rename(f.Name(), path)
}
