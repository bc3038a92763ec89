package certs

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/tlsprofile"
)

// Files names what a Reloader reads.
type Files struct {
	Cert, Key string // PEM
	ClientCA  string // PEM; "": client certificates are not asked for, unless AskClient
	// AskClient asks for client certificates of any authority, for those that are pinned.
	AskClient bool
}

// Reloader serves the certificate that was read last and found good. Make one with NewReloader; it is safe for concurrent use.
type Reloader struct {
	files   Files
	tickets bool
	now     func() time.Time
	log     *slog.Logger
	current atomic.Pointer[tls.Config]
	overdue atomic.Pointer[tls.Config] // that whose end has been logged
}

// NewReloader reads the files. A certificate that is out of date is served all the same, with an error in the log: a server
// that somebody restarts on a Sunday had better come up. tickets says whether TLS sessions may be resumed; now and log may be
// nil.
func NewReloader(files Files, tickets bool, now func() time.Time, log *slog.Logger) (*Reloader, error) {
	if now == nil {
		now = time.Now
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Reloader{files: files, tickets: tickets, now: now, log: log}
	config, err := r.load()
	if errors.Is(err, ErrExpired) {
		log.Error("TLS certificate served although it is not valid", "error", err)
	} else if err != nil {
		return nil, err
	}
	r.current.Store(config)
	if err != nil {
		r.overdue.Store(config)
	}
	return r, nil
}

// Paths of the files, for whoever watches them.
func (r *Reloader) Paths() []string {
	paths := []string{r.files.Cert, r.files.Key}
	if r.files.ClientCA != "" {
		paths = append(paths, r.files.ClientCA)
	}
	return paths
}

// Reload reads the files again. When anything is wrong with them, nothing changes and the error says what. New connections
// get the new certificate; those that are open go on.
func (r *Reloader) Reload() error {
	config, err := r.load()
	if err != nil {
		return fmt.Errorf("TLS certificate not replaced, the one before stays: %w", err)
	}
	r.current.Store(config)
	leaf := config.Certificates[0].Leaf
	r.log.Info("TLS certificate read", "file", r.files.Cert, "subject", leaf.Subject.String(), "until", leaf.NotAfter)
	return nil
}

// NotAfter is when the certificate that is served ends.
func (r *Reloader) NotAfter() time.Time { return r.current.Load().Certificates[0].Leaf.NotAfter }

// Config is a configuration for handshakes, with keys of its own for session tickets: a session begun with one cannot be resumed
// with another.
func (r *Reloader) Config() *tls.Config {
	c := r.base()
	// Go duplicates the ticket keys of the listener's configuration into the one that it is given here.
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		return r.serve(), tlsprofile.NotHTTP(hello)
	}
	// Never used for a handshake; some callers look whether a configuration has a certificate.
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return &r.current.Load().Certificates[0], nil
	}
	return c
}

// serve is the configuration for one handshake. A certificate that ends while it is served is served on, and the log says so,
// once.
func (r *Reloader) serve() *tls.Config {
	c := r.current.Load()
	if err := valid(c.Certificates[0].Leaf, r.files.Cert, r.now()); err != nil && r.overdue.Swap(c) != c {
		r.log.Error("TLS certificate served although it is not valid", "error", err)
	}
	return c
}

// load builds a whole configuration. With ErrExpired, it comes beside the error.
func (r *Reloader) load() (*tls.Config, error) {
	pair, err := Load(r.files.Cert, r.files.Key, r.now())
	if pair == nil {
		return nil, err
	}
	c := r.base()
	c.Certificates = []tls.Certificate{*pair}
	if r.files.ClientCA != "" {
		pool, poolErr := LoadPool(r.files.ClientCA)
		if poolErr != nil {
			return nil, poolErr
		}
		// They are verified after the handshake: one that does not verify is as good as none, and ends no connection.
		c.ClientCAs, c.ClientAuth = pool, tls.RequestClientCert
	}
	if r.files.AskClient {
		c.ClientAuth = tls.RequestClientCert
	}
	return c, err
}

func (r *Reloader) base() *tls.Config {
	c := tlsprofile.New()
	c.SessionTicketsDisabled, c.Time = !r.tickets, r.now
	return c
}
