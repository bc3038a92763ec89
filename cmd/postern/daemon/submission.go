package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/cmd/postern/autoconfig"
	"github.com/postern-mail/postern/cmd/postern/certs"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/systemd"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/smtpd"
	"github.com/postern-mail/postern/smtpd/auth"
)

// submissionDoor is the submission server with its certificate, users, next hops and listeners. The zero value is one that is not
// configured.
type submissionDoor struct {
	server    *smtpd.Server
	certs     *certs.Reloader
	backends  backends
	hops      hops
	listeners []smtpd.Listener

	recent       *auth.RecentLogins // logins at POP and IMAP servers; nil where not configured
	recentSocket *net.UnixConn      // where they are reported
}

// build makes the server and what it needs. If it fails, close frees what was made.
func (s *submissionDoor) build(cfg *config.Config, eng *engine.Engine, log *slog.Logger, metrics prometheus.Registerer) (err error) {
	if s.certs, err = loadCertificate(cfg, log); err != nil {
		return exitcode.UsageError(err)
	}
	if err := s.backends.open(cfg, log); err != nil {
		return exitcode.UsageError(err)
	}
	if err := s.hops.open(cfg, log, metrics); err != nil {
		return exitcode.UsageError(err)
	}
	c := cfg.Submission
	if c.RecentLogins.Socket != "" {
		s.recent = &auth.RecentLogins{Life: c.RecentLogins.Life, Logger: log}
	}
	tlsConfig := s.certs.Config()
	s.server = &smtpd.Server{
		Hostname: cfg.Hostname, Engine: eng, Relay: s.hops.relay, Quarantine: s.hops.quarantine,
		Auth: s.backends.list, Throttle: throttle(c.AuthLimits), RecentLogins: s.recent, Anonymous: !c.RequireAuth,
		TLS: func() *tls.Config { return tlsConfig }, Received: c.Received, Limits: c.Limits,
		Extensions: c.Extensions, StrictCommands: !c.LenientCommands, Log: log, Metrics: smtpd.NewMetrics(metrics),
	}
	return nil
}

func loadCertificate(cfg *config.Config, log *slog.Logger) (*certs.Reloader, error) {
	c := cfg.Submission.TLS
	files := certs.Files{Cert: c.Cert, Key: c.Key, ClientCA: c.ClientCA, AskClient: cfg.PinsCertificates()}
	if cert, key, ok := cfg.SelfSigned(); ok {
		files.Cert, files.Key = cert, key
	}
	return certs.NewReloader(files, c.SessionTickets, nil, log)
}

func throttle(l config.AuthLimits) *auth.Throttle {
	return &auth.Throttle{Free: l.Free, MaxDelay: l.MaxDelay, Refuse: l.Refuse, HalfLife: l.HalfLife, Exempt: l.Exempt}
}

// files returns the files that are reloaded when they change.
func (s *submissionDoor) files() (sets []fileSet) {
	if s.certs != nil {
		sets = append(sets, fileSet{"certificate", s.certs.Paths(), s.certs.Reload})
	}
	return append(sets, s.backends.files...)
}

// bind opens the sockets. It comes before build.
func (s *submissionDoor) bind(c config.Submission, inherited *systemd.Sockets) error {
	open := func(addr string, implicitTLS bool) error {
		all, err := listen(inherited, addr, "tcp")
		if err != nil {
			return listenError("submission", addr, err)
		}
		for _, l := range all {
			s.listeners = append(s.listeners, smtpd.Listener{Listener: l, Name: addr, TLS: implicitTLS, Trusted: c.ProxyProtocol, Mechanisms: c.MechanismsAt(addr)})
		}
		return nil
	}
	for _, addr := range c.Listen {
		if err := open(addr, false); err != nil {
			return err
		}
	}
	for _, addr := range c.ListenTLS {
		if err := open(addr, true); err != nil {
			return err
		}
	}
	if c.RecentLogins.Socket == "" {
		return nil
	}
	return s.bindRecent(c.RecentLogins)
}

// bindRecent opens the socket on which a POP or IMAP server reports logins.
func (s *submissionDoor) bindRecent(c config.RecentLogins) (err error) {
	if s.recentSocket, err = auth.ListenRecent(c.Socket, c.Mode); err != nil {
		return listenError("submission.recent_logins.socket", c.Socket, err)
	}
	if c.Group == "" {
		return nil
	}
	gid, err := config.Gid(c.Group)
	if err == nil {
		err = os.Chown(c.Socket, -1, gid)
	}
	if err != nil {
		return listenError("submission.recent_logins.group", c.Group, err)
	}
	return nil
}

// run starts a goroutine in group for each listener, one for logins at POP and IMAP servers, and one that asks the next hops once for
// their extensions, so that EHLO need not wait for them. failure is the verdict when policy cannot
// decide.
func (s *submissionDoor) run(ctx context.Context, group *errgroup.Group, failure engine.Verdict) {
	for _, l := range s.listeners {
		l.Failure = failure
		group.Go(func() error {
			err := s.server.Serve(ctx, l)
			if errors.Is(err, smtpd.ErrServerClosed) || errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		})
	}
	if len(s.listeners) > 0 {
		group.Go(func() error { s.hops.relay.Extensions(ctx); return nil })
	}
	if s.recentSocket != nil {
		group.Go(func() error { return s.recent.Serve(ctx, s.recentSocket) })
	}
}

func (s *submissionDoor) addresses() (list []string) {
	for _, l := range s.listeners {
		list = append(list, l.Addr().String())
	}
	return list
}

// clientSetup returns what mail programs learn, with the ports of the open sockets.
func (s *submissionDoor) clientSetup(cfg *config.Config) *autoconfig.Setup {
	var starttls, implicit []string
	for _, l := range s.listeners {
		if l.TLS {
			implicit = append(implicit, l.Addr().String())
		} else {
			starttls = append(starttls, l.Addr().String())
		}
	}
	return autoconfig.New(cfg, starttls, implicit)
}

func (s *submissionDoor) shutdown(ctx context.Context) error {
	if s.server == nil {
		return nil
	}
	return s.server.Shutdown(ctx)
}

func (s *submissionDoor) close() {
	for _, l := range s.listeners {
		l.Close()
	}
	s.hops.close()
	s.backends.close()
	if s.recentSocket != nil {
		path := s.recentSocket.LocalAddr().String()
		s.recentSocket.Close()
		os.Remove(path)
	}
}
