package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/daemon"
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

// serve runs the daemon.
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
	return daemon.Run(ctx, daemon.Options{Config: cfg, Log: log, Notice: p.stderr, Grace: grace})
}
