package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/cmd/postern/autoconfig"
	"github.com/postern-mail/postern/cmd/postern/certs"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/daemon/process"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/feed"
	"github.com/postern-mail/postern/cmd/postern/systemd"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/decisionlog"
	"github.com/postern-mail/postern/milter"
	"github.com/postern-mail/postern/smtpd"
	"github.com/postern-mail/postern/smtpd/auth"
	"github.com/postern-mail/postern/smtpd/relay"
)

// daemon is everything that runs. build makes it, bind opens its sockets, run starts its goroutines, shutdown ends the
// front ends, close frees the rest.
type daemon struct {
	cfg     *config.Config
	log     *slog.Logger
	metrics *prometheus.Registry

	engine     *engine.Engine
	feed       *feed.Feed
	candidates *feed.Candidates
	decisions  *decisionlog.Log
	certs      *certs.Reloader
	users      []*auth.File
	backends   []watched              // files of other backends
	closers    []io.Closer            // of backends
	flushers   []interface{ Flush() } // what they remember
	recent     *auth.RecentLogins     // nil: not configured
	hop        relay.Hop
	held       relay.Hop // quarantine

	smtp   *smtpd.Server
	milter *milter.Server

	submission     []submissionListener
	milters        []milterListener
	adminListeners []net.Listener
	recentSocket   *net.UnixConn
	inherited      *systemd.Sockets // nil: none
	hup            chan struct{}
}

type submissionListener struct {
	listener net.Listener
	name     string
	implicit bool
}

type milterListener struct {
	listener net.Listener
	config   milter.ListenerConfig
}

// build makes everything that can fail before a socket is open. notice is where a first start tells its password.
func (d *daemon) build(ctx context.Context, notice io.Writer) error {
	if !d.cfg.Submission.Enabled() && len(d.cfg.Milter.Listen) == 0 {
		return exitcode.UsageError(errNothing)
	}
	d.metrics = prometheus.NewRegistry()
	d.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	d.engine = &engine.Engine{Metrics: engine.NewMetrics(d.metrics)}
	if err := d.openDecisions(); err != nil {
		return err
	}
	var err error
	if d.feed, err = feed.ForConfig(d.cfg, d.engine, d.log, d.metrics); err != nil {
		return exitcode.UsageError(err)
	}
	if d.candidates, err = feed.NewCandidates(d.cfg, d.engine, d.log, d.metrics); err != nil {
		return exitcode.UsageError(err)
	}
	if err := d.feed.Watcher.Start(ctx); err != nil {
		return exitcode.UsageError(err)
	}
	d.candidates.Start(ctx)
	if d.cfg.Submission.Enabled() {
		if err := d.buildSubmission(ctx, notice); err != nil {
			return err
		}
	}
	if len(d.cfg.Milter.Listen) > 0 {
		d.milter = &milter.Server{Engine: d.engine, Hostname: d.cfg.Hostname, Log: d.log, Metrics: d.metrics, Limits: d.cfg.Milter.Limits}
	}
	return nil
}

// bind opens all sockets, or none.
func (d *daemon) bind() error {
	for _, addr := range d.cfg.Submission.Listen {
		if err := d.bindSubmission(addr, false); err != nil {
			return err
		}
	}
	for _, addr := range d.cfg.Submission.ListenTLS {
		if err := d.bindSubmission(addr, true); err != nil {
			return err
		}
	}
	for _, c := range d.cfg.Milter.Listen {
		if err := d.bindMilter(c); err != nil {
			return err
		}
	}
	if err := d.bindRecent(); err != nil {
		return err
	}
	return d.bindAdmin()
}

// listen opens host:port, or takes what systemd has opened.
func (d *daemon) listen(addr string, networks ...string) ([]net.Listener, error) {
	if name, is := strings.CutPrefix(addr, systemd.Prefix); is {
		return d.inherited.Listeners(name, networks...)
	}
	l, err := net.Listen("tcp", addr)
	return []net.Listener{l}, err
}

func (d *daemon) bindSubmission(addr string, implicit bool) error {
	all, err := d.listen(addr, "tcp")
	if err != nil {
		return bindError("submission", addr, err)
	}
	for _, l := range all {
		d.submission = append(d.submission, submissionListener{l, addr, implicit})
	}
	return nil
}

func (d *daemon) bindMilter(c config.MilterListener) error {
	onError := c.OnError
	if onError == "" {
		onError = d.cfg.Policy.OnError
	}
	var all []net.Listener
	var err error
	if c.Network == "systemd" {
		all, err = d.listen(c.Spec(), "unix", "tcp")
	} else {
		all = make([]net.Listener, 1)
		all[0], err = milter.Listen(c.Spec(), c.Mode, c.Group)
	}
	if err != nil {
		return err
	}
	for _, l := range all {
		d.milters = append(d.milters, milterListener{l, milter.ListenerConfig{Name: c.Name, Failure: failureVerdict(onError)}})
	}
	return nil
}

func (d *daemon) bindAdmin() error {
	addr := d.cfg.Admin.Listen
	if addr == "" {
		return nil
	}
	all, err := d.listen(addr, "tcp", "unix")
	if err != nil {
		return bindError("admin.listen", addr, err)
	}
	d.adminListeners = all
	for _, l := range all {
		if at := l.Addr(); at.Network() == "tcp" && !d.cfg.Admin.MayListen(at.String()) {
			return exitcode.UsageError(fmt.Errorf("admin.listen %s: systemd has opened %s, which other machines reach, and nobody is asked there who they are; write ListenStream=127.0.0.1:8880, or add public: true", addr, at))
		}
	}
	return nil
}

// run starts a goroutine for each listener, one for the policy's source, one for files, one for the admin server, and one that
// gives memory back. All of them end with ctx, and the first that fails ends the others.
func (d *daemon) run(ctx context.Context, group *errgroup.Group) {
	for _, l := range d.submission {
		group.Go(func() error { return d.serveSubmission(ctx, l) })
	}
	for _, l := range d.milters {
		group.Go(func() error { return d.milter.Serve(ctx, l.listener, l.config) })
	}
	group.Go(func() error { process.ReleaseMemory(ctx); return nil })
	group.Go(func() error { return d.feed.Watcher.Run(ctx) })
	d.candidates.Run(ctx, group)
	group.Go(func() error {
		watchFiles(ctx, d.watched(), d.hup, d.log)
		return nil
	})
	if d.recentSocket != nil {
		group.Go(func() error { return d.recent.Serve(ctx, d.recentSocket) })
	}
	for _, l := range d.adminListeners {
		group.Go(func() error { return adminServer(ctx, l, d.metrics, d.health, d.clientSetup()) })
	}
}

// clientSetup names the ports of the sockets that are open, whoever opened them.
func (d *daemon) clientSetup() *autoconfig.Setup {
	var starttls, implicit []string
	for _, l := range d.submission {
		if l.implicit {
			implicit = append(implicit, l.listener.Addr().String())
		} else {
			starttls = append(starttls, l.listener.Addr().String())
		}
	}
	return autoconfig.New(d.cfg, starttls, implicit)
}

func (d *daemon) watched() []watched {
	var sets []watched
	if d.certs != nil {
		sets = append(sets, watched{"certificate", d.certs.Paths(), d.certs.Reload})
	}
	for _, u := range d.users {
		sets = append(sets, watched{"users", []string{u.Path()}, u.Reload})
	}
	return append(sets, d.backends...)
}

func (d *daemon) health() health {
	h := health{Status: "ok"}
	if p := d.engine.Policy(); p != nil {
		h.Revision = p.Revision()
	}
	if h.Refused = d.feed.Refused(); h.Refused != nil {
		h.Status, h.Policy = "degraded", h.Refused.Text
	}
	h.Shadow, h.Canary = d.candidates.Health()
	return h
}

// shutdown ends the front ends within ctx.
func (d *daemon) shutdown(ctx context.Context) error {
	var group errgroup.Group
	if d.smtp != nil {
		group.Go(func() error { return d.smtp.Shutdown(ctx) })
	}
	if d.milter != nil {
		group.Go(func() error { return d.milter.Shutdown(ctx) })
	}
	return group.Wait()
}

// close frees what build and bind took; the decision log last, because the front ends write to it to their end.
func (d *daemon) close() {
	for _, l := range d.submission {
		l.listener.Close()
	}
	for _, l := range d.milters {
		l.listener.Close()
	}
	for _, l := range d.adminListeners {
		l.Close()
	}
	for _, h := range []relay.Hop{d.hop, d.held} {
		if h != nil {
			h.Close()
		}
	}
	for _, c := range d.closers {
		c.Close()
	}
	if d.recentSocket != nil {
		d.recentSocket.Close()
		os.Remove(d.cfg.Submission.RecentLogins.Socket)
	}
	if d.decisions != nil {
		if err := d.decisions.Close(); err != nil && !errors.Is(err, decisionlog.ErrClosed) {
			d.log.Error("decision log", "error", err)
		}
	}
}

// failureVerdict of a configured word; the configuration has checked it.
func failureVerdict(word string) engine.Verdict {
	switch word {
	case "reject":
		return engine.Reject
	case "accept":
		return engine.Accept
	}
	return engine.Defer
}
