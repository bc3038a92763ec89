package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/cmd/postern/systemd"
)

// defaultGrace is how long transactions under way may take after SIGTERM.
const defaultGrace = 30 * time.Second

func newServeCmd(p *program) *cobra.Command {
	grace := defaultGrace
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the submission server, the milter, or both",
		Long: `Run the submission server, the milter, or both, as the configuration says.

Without --config: loopback 2587 (STARTTLS) and 2465 (implicit TLS), a self-signed certificate, one demo user whose
password is printed, the default policy, and accepted mail in the Maildir outbox. Everything that is written lies in one
directory: --dir, or else the current one.

SIGHUP, and any change on disk, reloads policy, users and certificates; what cannot be loaded changes nothing. SIGHUP
reopens the decision log, too. SIGTERM stops accepting, lets what is under way finish within --grace, then cuts. A
second one cuts at once.`,
		Example: `  postern serve
  postern serve --dir /var/lib/postern
  postern serve --config /etc/postern/postern.yaml --log-level debug`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.serve(cmd.Context(), grace) },
	}
	cmd.Flags().DurationVar(&grace, "grace", defaultGrace, "how long transactions under way may take to end after SIGTERM")
	return cmd
}

// serve runs until a signal or a failure ends it.
func (p *program) serve(ctx context.Context, grace time.Duration) error {
	cfg, warnings, err := p.loadConfig()
	if err != nil {
		return err
	}
	log, err := p.logger(cfg.Log)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		log.Warn("configuration", "finding", w.String())
	}
	warning, err := checkDescriptors(cfg, allowedDescriptors())
	if err != nil {
		return usageError(err)
	}
	if warning != "" {
		log.Warn("file descriptors", "finding", warning)
	}
	if err := noCore(); err != nil {
		log.Warn("a crash could leave passwords in a core file", "error", err)
	}
	sockets := systemd.Inherit()
	defer sockets.Close()
	if err := sockets.Match(cfg.Systemd()); err != nil {
		return usageError(err)
	}

	signals := make(chan os.Signal, 4)
	// Never undone: a signal that comes while the last line is written must not make a clean end look like a kill.
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)

	if ctx == nil {
		ctx = context.Background()
	}
	d := &daemon{cfg: cfg, log: log, hup: make(chan struct{}, 1), inherited: sockets}
	defer d.close()
	configureGC()
	if err := d.build(ctx, p.stderr); err != nil {
		return err
	}
	if err := d.bind(); err != nil {
		return err
	}
	sockets.Close() // the listeners have copies of their own
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	group, ctx := errgroup.WithContext(ctx)
	d.run(ctx, group)
	log.Info("ready", d.addresses()...)

	ended := make(chan error, 1)
	go func() { ended <- group.Wait() }()
	return d.attend(cut, ended, signals, grace)
}

// attend waits for signals and the end, and lets the service manager know how things are.
func (d *daemon) attend(cut func(), ended <-chan error, signals <-chan os.Signal, grace time.Duration) error {
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
			return err // a listener failed: a server that cannot be reached must not look alive
		case <-watchdog:
			manager.Alive()
		case s := <-signals:
			if s == syscall.SIGHUP {
				manager.Reloading()
				d.reload()
				manager.Ready("reload asked for; its outcome is in the log and in postern_policy_last_reload_successful")
				continue
			}
			d.log.Info("stopping", "signal", s.String(), "grace", grace)
			manager.Stopping()
			return d.stop(cut, ended, signals, grace)
		}
	}
}

// stop ends gracefully, then not.
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
		d.log.Warn("connections were cut: they did not end in time")
		err = nil
	}
	d.log.Info("stopped")
	return err
}

// addresses are the fields of the line that says we are ready.
func (d *daemon) addresses() []any {
	fields := []any{"policy", d.engine.Policy().Revision()}
	if len(d.submission) > 0 {
		var list []string
		for _, l := range d.submission {
			list = append(list, l.listener.Addr().String())
		}
		fields = append(fields, "submission", list)
	}
	if len(d.milters) > 0 {
		var list []string
		for _, l := range d.milters {
			list = append(list, l.listener.Addr().Network()+":"+l.listener.Addr().String())
		}
		fields = append(fields, "milter", list)
	}
	if len(d.adminListeners) > 0 {
		fields = append(fields, "admin", d.adminListeners[0].Addr().String())
	}
	return append(fields, "directory", d.cfg.StateDir)
}

// reload does what SIGHUP asks for.
func (d *daemon) reload() {
	d.log.Info("reloading")
	d.feed.watcher.Trigger()
	d.tried.reload()
	for _, f := range d.flushers {
		f.Flush()
	}
	select {
	case d.hup <- struct{}{}:
	default: // one is under way
	}
	if d.decisions != nil {
		if err := d.decisions.Reopen(); err != nil {
			d.log.Error("decision log was not reopened", "error", err)
		}
	}
}

var errNothing = errors.New("nothing to serve: configure submission.listen, submission.listen_tls or milter.listen")

// describe an error of binding.
func bindError(what, addr string, err error) error {
	return fmt.Errorf("%s %s: %w", what, addr, err)
}
