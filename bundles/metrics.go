package bundles

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the reloads.
type metrics struct {
	successful, timestamp prometheus.Gauge
	reloads               *prometheus.CounterVec
	info                  *prometheus.GaugeVec
}

// newMetrics makes the metrics and registers them where there is a registry. They work even if that fails.
func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		successful: prometheus.NewGauge(prometheus.GaugeOpts{Name: "postern_policy_last_reload_successful",
			Help: "1 if the policy at the source is the active one, 0 if it was refused."}),
		timestamp: prometheus.NewGauge(prometheus.GaugeOpts{Name: "postern_policy_last_reload_timestamp_seconds",
			Help: "When a policy was last activated, in seconds since 1970."}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_policy_reloads_total",
			Help: "Candidates that were tried, by result."}, []string{"result"}),
		info: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "postern_policy_revision",
			Help: "1 for the revision of the active policy."}, []string{"revision"}),
	}
	m.reloads.WithLabelValues("success")
	m.reloads.WithLabelValues("failure")
	if registry == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.successful, m.timestamp, m.reloads, m.info} {
		errs = append(errs, registry.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m *metrics) revision(revision string) {
	m.info.Reset()
	m.info.WithLabelValues(revision).Set(1)
}

func (m *metrics) succeeded(revision string, now time.Time) {
	m.successful.Set(1)
	m.timestamp.Set(float64(now.UnixNano()) / 1e9)
	m.reloads.WithLabelValues("success").Inc()
	m.revision(revision)
}

func (m *metrics) failed() {
	m.successful.Set(0)
	m.reloads.WithLabelValues("failure").Inc()
}
