package daemon

import (
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/cmd/postern/certs"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/internal/safefile"
	"github.com/postern-mail/postern/smtpd/relay"
)

// hops are where messages go.
type hops struct {
	relay      relay.Hop
	quarantine relay.Hop // for held messages
}

// open makes the next hop, with failover where there are several, and the quarantine.
func (h *hops) open(cfg *config.Config, log *slog.Logger, registry prometheus.Registerer) error {
	metrics, err := relay.NewMetrics(registry)
	if err != nil {
		return err
	}
	var list []relay.Hop
	for _, t := range cfg.Relay.To {
		o, err := hopOptions(t)
		if err != nil {
			return err
		}
		o.Hello, o.Log, o.Metrics = cfg.Hostname, log, metrics
		o.Connections, o.Timeouts = cfg.Relay.Connections, cfg.Relay.Timeouts
		hop, err := relay.Open(o, t.URL)
		if err != nil {
			return err
		}
		list = append(list, hop)
	}
	h.relay = list[0]
	if len(list) > 1 {
		h.relay = relay.NewFailover(list, relay.Options{Log: log, Metrics: metrics})
	}
	h.quarantine, err = relay.Open(relay.Options{Log: log, Metrics: metrics}, "maildir:"+cfg.Relay.Quarantine)
	return err
}

// hopOptions returns the options of a configured target. It reads the files that the target names.
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
		if o.Password, err = safefile.ReadSecret(t.PasswordFile); err != nil {
			return o, fmt.Errorf("relay password: %w", err)
		}
	}
	return o, nil
}

func (h *hops) close() {
	for _, hop := range []relay.Hop{h.relay, h.quarantine} {
		if hop != nil {
			hop.Close()
		}
	}
}
