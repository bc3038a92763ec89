package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/daemon"
)

// defaultGrace is how long transactions may take to finish after SIGTERM.
const defaultGrace = 30 * time.Second

func newServeCmd(p *program) *cobra.Command {
	grace := defaultGrace
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the submission server, the milter, or both",
		Long: `Run the submission server, the milter, or both, as the configuration says.

Without --config it serves submission on loopback ports 2587 (STARTTLS) and 2465 (implicit TLS). It
makes a self-signed certificate and one demo user, prints the user's password, uses the default
policy, and stores accepted mail in the Maildir outbox. All files are in one directory: --dir, or
else the current one.

A change on disk, or SIGHUP, reloads policy, users and certificates. What cannot be loaded changes
nothing. SIGHUP also reopens the decision log, and logs which changed keys of the configuration
need a restart, or what is wrong with the file. After SIGTERM the server accepts no more
connections, lets transactions finish for as long as --grace, and then cuts the connections. A
second SIGTERM cuts them at once. A server that was started from a terminal stops in the same way
when the terminal is closed, unless it was started with nohup or setsid.

Exit codes: 0 stopped by a signal; 1 a listener could not be opened or failed, or another server
uses the state directory or the decision log; 2 wrong usage or configuration, or no policy can be
loaded.`,
		Example: `  postern serve
  postern serve --dir /var/lib/postern
  postern serve --config /etc/postern/postern.yaml --log-level debug`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.serve(cmd.Context(), grace) },
	}
	cmd.Flags().DurationVar(&grace, "grace", defaultGrace, "how long transactions may take to finish after SIGTERM")
	return cmd
}

// serve loads the configuration and runs the daemon.
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
	if ctx == nil {
		ctx = context.Background()
	}
	o := daemon.Options{Config: cfg, Log: log, Notice: p.stderr, Grace: grace}
	if cfg.File != "" {
		o.Reread = p.loadConfig
	}
	return daemon.Run(ctx, o)
}
