// Package daemon runs the servers of a configuration: the submission server, the milter and the admin server, with the policy that decides
// for them.
//
// Run owns all goroutines: one for each listener, one for each policy source, one for files that are reloaded, one that gives memory
// back to the system, and one that waits for all of them. They end when the context of Run ends or when one of them fails.
package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/daemon/process"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/feed"
	"github.com/postern-mail/postern/cmd/postern/systemd"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/engine/decisionlog"
)

// daemon is everything that runs. build makes it, bind opens its sockets, run starts its goroutines, shutdown ends the doors, and close
// frees the rest.
type daemon struct {
	cfg       *config.Config
	log       *slog.Logger
	metrics   *prometheus.Registry
	inherited *systemd.Sockets // opened by systemd

	engine     *engine.Engine
	feed       *feed.Feed
	candidates *feed.Candidates
	decisions  *decisionlog.Log // nil without a decision log

	submission submissionDoor
	milter     milterDoor
	admin      []net.Listener
	reloadAll  chan struct{} // asks for a reload of all files
}

// build makes everything that can fail before a socket is open. notice is where a first start prints the password of its demo user.
func (d *daemon) build(ctx context.Context, notice io.Writer) error {
	if !d.cfg.Submission.Enabled() && len(d.cfg.Milter.Listen) == 0 {
		return exitcode.UsageError(errors.New("there is nothing to serve; configure submission.listen, submission.listen_tls or milter.listen"))
	}
	d.metrics = prometheus.NewRegistry()
	d.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	d.engine = &engine.Engine{Metrics: engine.NewMetrics(d.metrics)}
	var err error
	if d.decisions, err = openDecisions(d.cfg.DecisionLog, d.log, d.metrics); err != nil {
		return err
	}
	if d.decisions != nil {
		d.engine.Recorder = d.decisions
	}
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
		if err := firstStart(d.cfg, notice); err != nil {
			return err
		}
		if err := d.submission.build(d.cfg, d.engine, d.log, d.metrics); err != nil {
			return err
		}
	}
	if len(d.cfg.Milter.Listen) > 0 {
		d.milter.build(d.cfg, d.engine, d.log, d.metrics)
	}
	return nil
}

// bind opens all sockets. If it fails, close closes those that it has opened.
func (d *daemon) bind() (err error) {
	if err := d.submission.bind(d.cfg.Submission, d.inherited); err != nil {
		return err
	}
	if err := d.milter.bind(d.cfg, d.inherited); err != nil {
		return err
	}
	d.admin, err = listenAdmin(d.cfg.Admin, d.inherited)
	return err
}

// run starts the goroutines in group. All of them end with ctx, and the first that fails ends the others.
func (d *daemon) run(ctx context.Context, group *errgroup.Group) {
	d.submission.run(ctx, group, failureVerdict(d.cfg.Policy.OnError))
	d.milter.run(ctx, group)
	for _, l := range d.admin {
		group.Go(func() error { return adminServer(ctx, l, d.metrics, d.health, d.submission.clientSetup(d.cfg)) })
	}
	group.Go(func() error { return d.feed.Watcher.Run(ctx) })
	d.candidates.Run(ctx, group)
	group.Go(func() error { watchFiles(ctx, d.submission.files(), d.reloadAll, d.log); return nil })
	group.Go(func() error { process.ReleaseMemory(ctx); return nil })
}

// reload does what SIGHUP asks for.
func (d *daemon) reload() {
	d.log.Info("reloading")
	d.feed.Watcher.Trigger()
	d.candidates.Reload()
	d.submission.backends.flush()
	select {
	case d.reloadAll <- struct{}{}:
	default: // the reload before has not begun yet
	}
	if d.decisions != nil {
		if err := d.decisions.Reopen(); err != nil {
			d.log.Error("decision log was not reopened", "error", err)
		}
	}
}

// health returns what /healthz answers.
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

// addresses returns the fields of the log line that says that the servers are ready.
func (d *daemon) addresses() []any {
	fields := []any{"policy", d.engine.Policy().Revision()}
	if list := d.submission.addresses(); len(list) > 0 {
		fields = append(fields, "submission", list)
	}
	if list := d.milter.addresses(); len(list) > 0 {
		fields = append(fields, "milter", list)
	}
	if len(d.admin) > 0 {
		fields = append(fields, "admin", d.admin[0].Addr().String())
	}
	return append(fields, "directory", d.cfg.StateDir)
}

// shutdown lets the transactions in both doors end, for as long as ctx lasts.
func (d *daemon) shutdown(ctx context.Context) error {
	var group errgroup.Group
	group.Go(func() error { return d.submission.shutdown(ctx) })
	group.Go(func() error { return d.milter.shutdown(ctx) })
	return group.Wait()
}

// close frees what build and bind took. The decision log is last, because the doors write to it until they have ended.
func (d *daemon) close() {
	d.submission.close()
	d.milter.close()
	for _, l := range d.admin {
		l.Close()
	}
	if d.decisions != nil {
		if err := d.decisions.Close(); err != nil && !errors.Is(err, decisionlog.ErrClosed) {
			d.log.Error("decision log", "error", err)
		}
	}
}
