package daemon

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/systemd"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/milter"
)

// milterDoor is the milter with its listeners. The zero value is one that is not configured.
type milterDoor struct {
	server    *milter.Server
	listeners []milterListener
}

type milterListener struct {
	net.Listener
	config milter.ListenerConfig
}

func (m *milterDoor) build(cfg *config.Config, eng *engine.Engine, log *slog.Logger, metrics prometheus.Registerer) {
	limits := cfg.Milter.Limits
	limits.Callback = cfg.Policy.MaxWait + cfg.Policy.Timeout + 5*time.Second // the engine gives up before
	m.server = &milter.Server{Engine: eng, Hostname: cfg.Hostname, Log: log, Metrics: metrics, Limits: limits}
}

// bind opens the sockets.
func (m *milterDoor) bind(cfg *config.Config, inherited *systemd.Sockets) error {
	for _, c := range cfg.Milter.Listen {
		all, err := listenMilter(c, inherited)
		if err != nil {
			return err
		}
		failure := failureVerdict(cmp.Or(c.OnError, cfg.Policy.OnError))
		for _, l := range all {
			m.listeners = append(m.listeners, milterListener{l, milter.ListenerConfig{Name: c.Name, Failure: failure}})
		}
	}
	return nil
}

func listenMilter(c config.MilterListener, inherited *systemd.Sockets) ([]net.Listener, error) {
	if c.Network == "systemd" {
		return listen(inherited, c.Spec(), "unix", "tcp")
	}
	l, err := milter.Listen(c.Spec(), c.Mode, c.Group)
	if err != nil {
		return nil, err
	}
	return []net.Listener{l}, nil
}

// run starts a goroutine in group for each listener.
func (m *milterDoor) run(ctx context.Context, group *errgroup.Group) {
	for _, l := range m.listeners {
		group.Go(func() error { return m.server.Serve(ctx, l.Listener, l.config) })
	}
}

func (m *milterDoor) addresses() (list []string) {
	for _, l := range m.listeners {
		list = append(list, l.Addr().Network()+":"+l.Addr().String())
	}
	return list
}

func (m *milterDoor) shutdown(ctx context.Context) error {
	if m.server == nil {
		return nil
	}
	return m.server.Shutdown(ctx)
}

func (m *milterDoor) close() {
	for _, l := range m.listeners {
		l.Close()
	}
}
