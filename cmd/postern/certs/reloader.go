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
	ClientCA  string // PEM; without it, client certificates are asked for only with AskClient
	// AskClient asks for client certificates of any authority, so that pinned ones can be used.
	AskClient bool
}

// Reloader serves the last certificate that was read without an error. NewReloader makes one. It is safe for concurrent use.
type Reloader struct {
	files   Files
	tickets bool
	now     func() time.Time
	log     *slog.Logger
	current atomic.Pointer[tls.Config]
	overdue atomic.Pointer[tls.Config] // the configuration about whose certificate the log already says that it is not valid
}

// NewReloader reads the files. It also serves a certificate that is out of date, and logs an error, because a server that restarts with one
// is better than none. tickets says whether TLS sessions may be resumed. now and log may be nil.
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

// Paths returns the files to watch.
func (r *Reloader) Paths() []string {
	paths := []string{r.files.Cert, r.files.Key}
	if r.files.ClientCA != "" {
		paths = append(paths, r.files.ClientCA)
	}
	return paths
}

// Reload reads the files again. If anything is wrong with them, nothing changes and the error says what is wrong. New connections get the
// new certificate; open ones are not affected.
func (r *Reloader) Reload() error {
	config, err := r.load()
	if err != nil {
		return fmt.Errorf("the TLS certificate was not replaced: %w", err)
	}
	r.current.Store(config)
	leaf := config.Certificates[0].Leaf
	r.log.Info("TLS certificate read", "file", r.files.Cert, "subject", leaf.Subject.String(), "until", leaf.NotAfter)
	return nil
}

// NotAfter returns when the certificate that is served ends.
func (r *Reloader) NotAfter() time.Time { return r.current.Load().Certificates[0].Leaf.NotAfter }

// Config returns a configuration for handshakes. Each has its own keys for session tickets, so a session that began with one cannot be resumed
// with another.
func (r *Reloader) Config() *tls.Config {
	c := r.base()
	// Go copies the ticket keys of the listener's configuration into the one that is returned here.
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		return r.serve(), tlsprofile.NotHTTP(hello)
	}
	// No handshake uses this, but some callers check whether a configuration has a certificate.
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return &r.current.Load().Certificates[0], nil
	}
	return c
}

// serve returns the configuration for one handshake. A certificate that ends while it is in use stays in use, and the log says so once.
func (r *Reloader) serve() *tls.Config {
	c := r.current.Load()
	if err := valid(c.Certificates[0].Leaf, r.files.Cert, r.now()); err != nil && r.overdue.Swap(c) != c {
		r.log.Error("TLS certificate served although it is not valid", "error", err)
	}
	return c
}

// load returns a whole new configuration, also together with ErrExpired.
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
		// They are verified after the handshake. One that does not verify counts as none and does not end the connection.
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
