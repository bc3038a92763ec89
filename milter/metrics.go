package milter

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/message"
)

// metrics of the package, all by listener name.
type metrics struct {
	connections    *prometheus.GaugeVec
	accepted       *prometheus.CounterVec
	protocolErrors *prometheus.CounterVec
	missing        *prometheus.GaugeVec
	failures       *prometheus.CounterVec
	limits         *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, p *message.Place) (*metrics, error) {
	m := &metrics{
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "postern_milter_connections",
			Help: "Open connections from mail servers."}, []string{"listener"}),
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_milter_connections_total",
			Help: "Connections from mail servers since the start."}, []string{"listener"}),
		protocolErrors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_milter_protocol_errors_total",
			Help: "Connections closed because the mail server broke the milter protocol."}, []string{"listener"}),
		missing: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "postern_milter_missing_actions",
			Help: "1: the mail server that negotiated last withholds an operation that the active policy may use; 0: it does not."},
			[]string{"listener", "operation"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_milter_failures_total",
			Help: "Decisions that could not be taken or carried out and became the failure verdict, by kind."}, []string{"listener", "kind"}),
		limits: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_milter_limit_hits_total",
			Help: "Times that a limit was met, by the key of milter.limits that it has."}, []string{"listener", "limit"}),
	}
	memory := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "postern_milter_spool_memory_bytes",
		Help: "Memory that header fields and bodies of messages under way take."}, func() float64 { return float64(p.InMemory.Used()) })
	disk := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "postern_milter_spool_disk_bytes",
		Help: "Temporary files of bodies of messages under way."}, func() float64 { return float64(p.OnDisk.Used()) })
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.connections, m.accepted, m.protocolErrors, m.missing, m.failures, m.limits, memory, disk} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// listenerMetrics are the metrics of one listener.
type listenerMetrics struct {
	connections    prometheus.Gauge
	accepted       prometheus.Counter
	protocolErrors prometheus.Counter
	missing        *prometheus.GaugeVec
	failures       *prometheus.CounterVec
	limits         *prometheus.CounterVec
}

func (m *metrics) of(name string) listenerMetrics {
	l := prometheus.Labels{"listener": name}
	limits := m.limits.MustCurryWith(l)
	for _, name := range limitNames() { // from the start, so that the first one shows as an increase
		limits.WithLabelValues(name)
	}
	return listenerMetrics{
		connections: m.connections.With(l), accepted: m.accepted.With(l), protocolErrors: m.protocolErrors.With(l),
		missing: m.missing.MustCurryWith(l), failures: m.failures.MustCurryWith(l), limits: limits,
	}
}
