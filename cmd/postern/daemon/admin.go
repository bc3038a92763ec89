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
	"github.com/postern-mail/postern/cmd/postern/feed"
)

// health is what /healthz says.
type health struct {
	Status   string `json:"status"` // "ok", or "degraded": mail is decided, but not by what is configured
	Revision string `json:"revision"`
	Policy   string `json:"policy_error,omitempty"`
	Draining bool   `json:"draining,omitempty"`
	// Refused says what is at the source and not active, and why not.
	Refused *feed.Refused `json:"policy_refused,omitempty"`
	// Shadow and Canary are the candidates beside the policy. They do not make the server degraded: mail does not depend on them.
	Shadow *feed.CandidateHealth `json:"shadow,omitempty"`
	Canary *feed.CandidateHealth `json:"canary,omitempty"`
}

// adminServer serves /metrics and /healthz, and what mail programs ask for. Its goroutine is Serve's, which ends with ctx.
func adminServer(ctx context.Context, l net.Listener, metrics prometheus.Gatherer, status func() health, setup *autoconfig.Setup) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		h := status()
		code := http.StatusOK
		if h.Revision == "" || h.Draining {
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
		json.NewEncoder(w).Encode(h)
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
