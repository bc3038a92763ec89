package bundles

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the metrics of reloads.
type metrics struct {
	successful, timestamp prometheus.Gauge
	duration              prometheus.Histogram
	reloads               *prometheus.CounterVec
	info                  *prometheus.GaugeVec
}

// newMetrics makes the metrics, and registers them if there is a registry. They can be used even if that fails.
func newMetrics(registry prometheus.Registerer, subsystem string) (*metrics, error) {
	name := func(s string) string { return prometheus.BuildFQName("postern", subsystem, s) }
	m := &metrics{
		successful: prometheus.NewGauge(prometheus.GaugeOpts{Name: name("last_reload_successful"),
			Help: "1 if the policy at the source is the active one, 0 if it was refused or cannot be read."}),
		timestamp: prometheus.NewGauge(prometheus.GaugeOpts{Name: name("last_reload_timestamp_seconds"),
			Help: "When a policy was last activated, in seconds since 1970."}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: name("reload_duration_seconds"),
			Help:    "How long it took to parse, verify, compile and test a candidate, activated or not.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10, 30, 100}}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name("reloads_total"),
			Help: "Candidates that were tried, by result, and failures by the stage at which they were refused."}, []string{"result", "stage"}),
		info: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name("revision"),
			Help: "1 for the revision of the active policy and where it came from."}, []string{"revision", "source"}),
	}
	m.reloads.WithLabelValues("success", "")
	for _, s := range stages() {
		m.reloads.WithLabelValues("failure", string(s))
	}
	if registry == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.successful, m.timestamp, m.duration, m.reloads, m.info} {
		errs = append(errs, registry.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m *metrics) revision(revision, source string) {
	m.info.Reset()
	m.info.WithLabelValues(revision, source).Set(1)
}

func (m *metrics) activated(revision, source string, now time.Time) {
	m.successful.Set(1)
	m.timestamp.Set(float64(now.UnixNano()) / 1e9)
	m.reloads.WithLabelValues("success", "").Inc()
	m.revision(revision, source)
}

// recovered records that the source holds the active policy again.
func (m *metrics) recovered() { m.successful.Set(1) }

func (m *metrics) failed(stage Stage) {
	m.successful.Set(0)
	m.reloads.WithLabelValues("failure", string(stage)).Inc()
}

func (m *metrics) took(d time.Duration) { m.duration.Observe(d.Seconds()) }
