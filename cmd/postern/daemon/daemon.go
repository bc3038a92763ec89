// Package daemon runs the servers of a configuration: the submission server, the milter and the admin server, with the policy that decides
// for them.
//
// Run owns all goroutines: one for each listener, one for each policy source, one for files that are reloaded, one that gives memory
// back to the system, and one that waits for all of them. They end when the context of Run ends or when one of them fails. Before, one
// goroutine builds the servers, and ends before Run goes on or returns.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

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
	"github.com/postern-mail/postern/internal/yamldoc"
)

// daemon is everything that runs. open opens its sockets, build makes the rest, run starts its goroutines, shutdown ends the doors, and
// close frees the rest.
type daemon struct {
	cfg       *config.Config
	reread    func() (*config.Config, yamldoc.Findings, error) // nil without a file
	log       *slog.Logger
	metrics   *prometheus.Registry
	inherited *systemd.Sockets // opened by systemd
	hang      hangUp
	locks     locks

	engine     *engine.Engine
	feed       *feed.Feed
	candidates *feed.Candidates
	decisions  *decisionlog.Log // nil without a decision log

	submission submissionDoor
	milter     milterDoor
	admin      []net.Listener
	reloadAll  chan struct{} // asks for a reload of all files
}

// open takes the locks and opens all sockets. Connections wait in the sockets' queues until run accepts them, so that a start which takes
// long refuses nobody. Nothing has been made or printed yet, so that a port that is taken is the first thing that the operator learns. If it
// fails, close closes what was opened.
func (d *daemon) open() (err error) {
	if !d.cfg.Submission.Enabled() && len(d.cfg.Milter.Listen) == 0 {
		return exitcode.UsageError(errors.New("there is nothing to serve; configure submission.listen, submission.listen_tls or milter.listen"))
	}
	if err := d.locks.take(d.cfg, d.log); err != nil {
		return err
	}
	if err := d.submission.bind(d.cfg.Submission, d.inherited); err != nil {
		return err
	}
	if err := d.milter.bind(d.cfg, d.inherited); err != nil {
		return err
	}
	d.admin, err = listenAdmin(d.cfg.Admin, d.inherited)
	return err
}

// build makes everything else that can fail. notice is where a first start prints the password of its demo user. If it fails, close frees
// what was made.
func (d *daemon) build(ctx context.Context, notice io.Writer) error {
	patience := time.Now().Add(feed.Patience)
	d.metrics = prometheus.NewRegistry()
	d.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	d.engine = &engine.Engine{Metrics: engine.NewMetrics(d.metrics), MaxWait: d.cfg.Policy.MaxWait}
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
	d.candidates.Start(ctx, patience)
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
	d.compareConfig()
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

// compareConfig logs what in the configuration's file is wrong, or differs from what runs. The file is read at the start only.
func (d *daemon) compareConfig() {
	if d.reread == nil {
		return
	}
	next, found, err := d.reread()
	var keys []string
	if err == nil {
		if keys = d.cfg.Changed(next); len(keys) == 0 {
			return
		}
		d.log.Warn("the configuration has changed; these keys need a restart", "file", d.cfg.File, "keys", keys)
	}
	for i, f := range found {
		switch {
		case i == maxFindings:
			d.log.Error("configuration", "finding", fmt.Sprintf("%d more findings; run postern check", len(found)-i))
			return
		case f.Warning:
			d.log.Warn("configuration", "finding", f.String())
		default:
			d.log.Error("the configuration is broken; what was read at the start stays in use", "finding", f.String())
		}
	}
	if err != nil && len(found) == 0 {
		d.log.Error("the configuration cannot be read; what was read at the start stays in use", "error", err)
	}
}

// maxFindings bounds how many findings about one configuration SIGHUP logs.
const maxFindings = 25

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

// close frees what open and build took. The decision log comes after the doors, which write to it until they have ended, and the locks
// come last.
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
	d.locks.release()
}
