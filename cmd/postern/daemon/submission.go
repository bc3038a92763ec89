package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/postern-mail/postern/cmd/postern/certs"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/smtpd"
	"github.com/postern-mail/postern/smtpd/auth"
	"github.com/postern-mail/postern/smtpd/relay"
)

// buildSubmission makes the submission server with its certificate, users and next hops.
func (d *daemon) buildSubmission(_ context.Context, notice io.Writer) error {
	if err := firstStart(d.cfg, notice); err != nil {
		return err
	}
	if err := d.loadCertificate(); err != nil {
		return exitcode.UsageError(err)
	}
	backends, err := d.openBackends()
	if err != nil {
		return exitcode.UsageError(err)
	}
	if err := d.openHops(); err != nil {
		return exitcode.UsageError(err)
	}
	c := d.cfg.Submission
	if c.RecentLogins.Socket != "" {
		d.recent = &auth.RecentLogins{Life: c.RecentLogins.Life, Logger: d.log}
	}
	d.smtp = &smtpd.Server{
		Hostname: d.cfg.Hostname, Engine: d.engine, Relay: d.hop, Quarantine: d.held, Auth: backends, Throttle: throttle(d.cfg.Submission.AuthLimits), RecentLogins: d.recent, Anonymous: !c.RequireAuth,
		TLS: d.tlsConfig(), Received: c.Received, Log: d.log, Metrics: smtpd.NewMetrics(d.metrics),
		Limits: c.Limits,
	}
	return nil
}

func (d *daemon) loadCertificate() (err error) {
	files := certs.Files{Cert: d.cfg.Submission.TLS.Cert, Key: d.cfg.Submission.TLS.Key, ClientCA: d.cfg.Submission.TLS.ClientCA, AskClient: d.cfg.PinsCertificates()}
	if cert, key, ok := d.cfg.SelfSigned(); ok {
		files.Cert, files.Key = cert, key
	}
	d.certs, err = certs.NewReloader(files, d.cfg.Submission.TLS.SessionTickets, nil, d.log)
	return err
}

func (d *daemon) tlsConfig() func() *tls.Config {
	c := d.certs.Config()
	return func() *tls.Config { return c }
}

func (d *daemon) openBackends() ([]auth.Backend, error) {
	var backends []auth.Backend
	for _, a := range d.cfg.Auth {
		if a.OAuth != nil || a.Certificate != nil {
			b, err := d.openProved(a)
			if err != nil {
				return nil, err
			}
			backends = append(backends, b)
			continue
		}
		if a.File == "" {
			b, err := d.openRemote(a)
			if err != nil {
				return nil, err
			}
			backends = append(backends, b)
			continue
		}
		f, err := auth.OpenFile(a.File, d.fileOptions(a))
		if err != nil {
			return nil, err
		}
		d.users = append(d.users, f)
		backends = append(backends, f)
	}
	return backends, nil
}

// openRemote makes a backend whose passwords are somewhere else. None is asked before somebody logs in.
func (d *daemon) openRemote(a config.Auth) (auth.Backend, error) {
	switch {
	case a.Dovecot != nil:
		b, err := auth.NewDovecot(a.Dovecot.Options)
		if err != nil {
			return nil, err
		}
		d.closers = append(d.closers, b)
		return d.cached(b, a.Dovecot.Cache), nil
	case a.LDAP != nil:
		o := a.LDAP.Options
		o.Logger = d.log
		b, err := a.LDAP.Open(o)
		if err != nil {
			return nil, err
		}
		d.closers, d.flushers = append(d.closers, b), append(d.flushers, b)
		if o.DN != "" {
			return d.cached(b, a.LDAP.Cache), nil
		}
		return b, nil // it looks whether the entry has changed
	default:
		o := a.RADIUS.Options
		o.Logger = d.log
		b, err := a.RADIUS.Open(o)
		if err != nil {
			return nil, err
		}
		return d.cached(b, a.RADIUS.Cache), nil
	}
}

func (d *daemon) cached(b auth.Backend, life time.Duration) auth.Backend {
	c := auth.NewCached(b, auth.CacheOptions{Life: life})
	d.flushers = append(d.flushers, c)
	return c
}

func throttle(l config.AuthLimits) *auth.Throttle {
	return &auth.Throttle{Free: l.Free, MaxDelay: l.MaxDelay, Refuse: l.Refuse, HalfLife: l.HalfLife, Exempt: l.Exempt}
}

// bindRecent opens the socket on which a POP or IMAP server tells who has logged in.
func (d *daemon) bindRecent() (err error) {
	c := d.cfg.Submission.RecentLogins
	if d.recent == nil {
		return nil
	}
	if d.recentSocket, err = auth.ListenRecent(c.Socket, c.Mode); err != nil {
		return bindError("submission.recent_logins.socket", c.Socket, err)
	}
	if c.Group == "" {
		return nil
	}
	gid, err := config.Gid(c.Group)
	if err == nil {
		err = os.Chown(c.Socket, -1, gid)
	}
	if err != nil {
		return bindError("submission.recent_logins.group", c.Group, err)
	}
	return nil
}

// openHops makes the next hops, several with failover, and the quarantine.
func (d *daemon) openHops() error {
	metrics, err := relay.NewMetrics(d.metrics)
	if err != nil {
		return err
	}
	var hops []relay.Hop
	for _, t := range d.cfg.Relay.To {
		o, err := hopOptions(t)
		if err != nil {
			return err
		}
		o.Hello, o.Log, o.Metrics = d.cfg.Hostname, d.log, metrics
		o.Connections, o.Timeouts = d.cfg.Relay.Connections, d.cfg.Relay.Timeouts
		h, err := relay.Open(o, t.URL)
		if err != nil {
			return err
		}
		hops = append(hops, h)
	}
	d.hop = hops[0]
	if len(hops) > 1 {
		d.hop = &relay.Failover{Hops: hops, Log: d.log, Metrics: metrics}
	}
	d.held, err = relay.Open(relay.Options{Log: d.log, Metrics: metrics}, "maildir:"+d.cfg.Relay.Quarantine)
	return err
}

// hopOptions of a configured target. The password file's first line is the password.
func hopOptions(t config.Target) (o relay.Options, err error) {
	o = relay.Options{ServerName: t.ServerName, Login: t.Username}
	switch t.StartTLS {
	case "off":
		o.StartTLS = relay.StartTLSOff
	case "required":
		o.StartTLS = relay.StartTLSRequired
	}
	if t.CA != "" {
		if o.CAs, err = certs.LoadPool(t.CA); err != nil {
			return o, err
		}
	}
	if t.PasswordFile != "" {
		b, err := os.ReadFile(t.PasswordFile)
		if err != nil {
			return o, fmt.Errorf("relay password: %w", err)
		}
		o.Password, _, _ = strings.Cut(string(b), "\n")
		o.Password = strings.TrimSuffix(o.Password, "\r")
	}
	return o, nil
}

// serveSubmission serves one listener until shutdown.
func (d *daemon) serveSubmission(ctx context.Context, l submissionListener) error {
	err := d.smtp.Serve(ctx, smtpd.Listener{
		Listener: l.listener, Name: l.name, TLS: l.implicit, Trusted: d.cfg.Submission.ProxyProtocol,
		Failure: failureVerdict(d.cfg.Policy.OnError), Mechanisms: d.cfg.Submission.MechanismsAt(l.name),
	})
	if errors.Is(err, smtpd.ErrServerClosed) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
