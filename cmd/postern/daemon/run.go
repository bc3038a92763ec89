package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/daemon/process"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/systemd"
	"github.com/postern-mail/postern/internal/yamldoc"
)

// Options are what Run needs.
type Options struct {
	Config *config.Config // checked by config.Check or Validate
	// Reread reads the configuration again, so that SIGHUP can say what in it needs a restart; nil: there is no file.
	// A nil error means that findings are warnings.
	Reread func() (*config.Config, yamldoc.Findings, error)
	Log    *slog.Logger
	Notice io.Writer     // where a first start prints the password of its demo user
	Grace  time.Duration // how long transactions may take to finish after SIGTERM
}

// Run runs the servers of a configuration until a signal ends them, ctx ends, or one of them fails. Its errors may carry an exit code
// (package exitcode).
func Run(ctx context.Context, o Options) error {
	if err := prepareProcess(o); err != nil {
		return err
	}
	sockets := systemd.Inherit()
	defer sockets.Close()
	if err := sockets.Match(o.Config.Systemd()); err != nil {
		return exitcode.UsageError(err)
	}

	hang := newHangUp()
	signals := make(chan os.Signal, 4)
	// There is no signal.Stop. Otherwise a signal during the last log line would kill the process, and a clean end would look like a kill.
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)

	d := &daemon{cfg: o.Config, reread: o.Reread, log: o.Log, reloadAll: make(chan struct{}, 1), inherited: sockets, hang: hang}
	defer d.close()
	process.ConfigureGC()
	if err := d.open(); err != nil {
		return err
	}
	sockets.Close() // the listeners have copies of their own
	if stopped, err := d.buildUnlessStopped(ctx, o.Notice, signals); stopped || err != nil {
		return err
	}
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	group, ctx := errgroup.WithContext(ctx)
	d.run(ctx, group)
	o.Log.Info("ready", d.addresses()...)

	ended := make(chan error, 1)
	go func() { ended <- group.Wait() }()
	return d.wait(cut, ended, signals, o.Grace)
}

// buildUnlessStopped builds, and gives up when a signal says so: a policy's tests may take long. SIGHUP asks for nothing here, because all
// files are being read.
func (d *daemon) buildUnlessStopped(ctx context.Context, notice io.Writer, signals <-chan os.Signal) (stopped bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	built := make(chan error, 1)
	go func() { built <- d.build(ctx, notice) }()
	for {
		select {
		case err := <-built:
			return stopped, err
		case s := <-signals:
			if s == syscall.SIGHUP && !d.hang.happened() {
				continue
			}
			d.log.Info("stopping before all was ready", "signal", s.String(), "reason", reason(s))
			cancel()
			<-built
			return true, nil
		}
	}
}

// prepareProcess compares the limits of the configuration with those of the process, and keeps passwords out of core files.
func prepareProcess(o Options) error {
	warning, err := process.CheckDescriptors(o.Config, process.AllowedDescriptors())
	if err != nil {
		return exitcode.UsageError(err)
	}
	if warning != "" {
		o.Log.Warn("file descriptors", "finding", warning)
	}
	if err := process.NoCore(); err != nil {
		o.Log.Warn("a crash could leave passwords in a core file", "error", err)
	}
	return nil
}

// wait handles signals until the servers end, and reports the state to the service manager. cut ends all goroutines; ended receives their
// error when they have ended.
func (d *daemon) wait(cut func(), ended <-chan error, signals <-chan os.Signal, grace time.Duration) error {
	manager := systemd.Manager{Log: d.log}
	var watchdog <-chan time.Time
	if every := manager.Watchdog(); every > 0 {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		watchdog = ticker.C
	}
	manager.Ready("policy " + d.engine.Policy().Revision())
	for {
		select {
		case err := <-ended:
			return err // a listener failed; the process ends, so that the service manager notices
		case <-watchdog:
			manager.Alive()
		case s := <-signals:
			if s == syscall.SIGHUP && !d.hang.happened() {
				manager.Reloading()
				d.reload()
				manager.Ready("reload asked for; its result is in the log and in postern_policy_last_reload_successful")
				continue
			}
			d.log.Info("stopping", "signal", s.String(), "reason", reason(s), "grace", grace)
			manager.Stopping()
			return d.stop(cut, ended, signals, grace)
		}
	}
}

// reason says what a signal that ends the program means.
func reason(s os.Signal) string {
	if s == syscall.SIGHUP {
		return "the terminal was closed"
	}
	return "asked to stop"
}

// stop lets transactions finish for as long as grace, or until another signal comes, and then cuts the connections.
func (d *daemon) stop(cut func(), ended <-chan error, again <-chan os.Signal, grace time.Duration) error {
	bounded, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- d.shutdown(bounded) }()
	var err error
	select {
	case err = <-drained:
	case <-again:
		cancel()
		err = <-drained
	}
	cut()
	if serveErr := <-ended; serveErr != nil && !errors.Is(serveErr, context.Canceled) {
		err = errors.Join(err, serveErr)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		d.log.Warn("connections were cut, because they did not end in time")
		err = nil
	}
	d.log.Info("stopped")
	return err
}
