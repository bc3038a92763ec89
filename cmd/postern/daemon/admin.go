package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/postern-mail/postern/cmd/postern/autoconfig"
	"github.com/postern-mail/postern/cmd/postern/config"
	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/feed"
	"github.com/postern-mail/postern/cmd/postern/systemd"
	"github.com/postern-mail/postern/internal/printable"
)

// health is what /healthz answers.
type health struct {
	Status   string `json:"status"` // "ok", or "degraded" while a policy at the source is refused and an older one decides
	Revision string `json:"revision"`
	Policy   string `json:"policy_error,omitempty"`
	// Refused is the policy at the source that is not active, and why.
	Refused *feed.Refused `json:"policy_refused,omitempty"`
	// Shadow and Canary are the candidates. A refused one does not make the server degraded, because mail does not depend on it.
	Shadow *feed.CandidateHealth `json:"shadow,omitempty"`
	Canary *feed.CandidateHealth `json:"canary,omitempty"`
}

// listenAdmin opens the sockets of the admin server, if one is configured.
func listenAdmin(c config.Admin, inherited *systemd.Sockets) ([]net.Listener, error) {
	if c.Listen == "" {
		return nil, nil
	}
	all, err := listen(inherited, c.Listen, "tcp", "unix")
	if err != nil {
		return nil, listenError("admin.listen", c.Listen, err)
	}
	for _, l := range all {
		if at := l.Addr(); at.Network() == "tcp" && !c.MayListen(at.String()) {
			return all, exitcode.UsageError(fmt.Errorf("admin.listen %s: systemd has opened %s, which other machines can reach, and the admin server asks nobody for a password; write ListenStream=127.0.0.1:8880, or add public: true", c.Listen, at))
		}
	}
	return all, nil
}

// adminServer serves /metrics and /healthz, and the configuration of mail programs, until ctx ends. status returns the health.
func adminServer(ctx context.Context, l net.Listener, metrics prometheus.Gatherer, status func() health, setup *autoconfig.Setup) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		h := status()
		code := http.StatusOK
		if h.Revision == "" {
			code = http.StatusServiceUnavailable
		}
		if !r.URL.Query().Has("verbose") {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.WriteHeader(code)
			fmt.Fprintln(w, h.Status)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		json.NewEncoder(&printable.Writer{W: w}).Encode(h)
	})
	setup.Register(mux)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
