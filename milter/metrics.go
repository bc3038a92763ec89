package milter

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/message"
)

// metrics of a Server. The first label is always the listener's name.
type metrics struct {
	connections    *prometheus.GaugeVec
	accepted       *prometheus.CounterVec
	protocolErrors *prometheus.CounterVec
	missing        *prometheus.GaugeVec
	failures       *prometheus.CounterVec
	limits         *prometheus.CounterVec
}

// newMetrics registers the metrics; reg may be nil.
func newMetrics(reg prometheus.Registerer, p *message.Place) (*metrics, error) {
	var all []prometheus.Collector
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"listener"}, labels...))
		all = append(all, c)
		return c
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, append([]string{"listener"}, labels...))
		all = append(all, g)
		return g
	}
	value := func(name, help string, f func() int64) {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(f()) }))
	}
	m := &metrics{
		connections:    gauge("postern_milter_connections", "Open connections from mail servers."),
		accepted:       counter("postern_milter_connections_total", "Connections from mail servers since the start."),
		protocolErrors: counter("postern_milter_protocol_errors_total", "Connections closed because the mail server broke the milter protocol."),
		missing: gauge("postern_milter_missing_actions",
			"1: the mail server that negotiated last does not allow an operation that the active policy may use; 0: it does.", "operation"),
		failures: counter("postern_milter_failures_total",
			"Decisions that could not be taken or carried out and became the failure verdict, by kind.", "kind"),
		limits: counter("postern_milter_limit_hits_total", "Times that a limit was reached, by its key in milter.limits.", "limit"),
	}
	value("postern_milter_spool_memory_bytes", "Memory taken by header fields and bodies of messages that are being received.", p.InMemory.Used)
	value("postern_milter_spool_disk_bytes", "Temporary files taken by bodies of messages that are being received.", p.OnDisk.Used)
	if reg == nil {
		return m, nil
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// begin sets the metrics of a listener to 0, so that the first event shows as an increase.
func (m *metrics) begin(name string, limits []string) {
	m.connections.WithLabelValues(name)
	m.accepted.WithLabelValues(name)
	m.protocolErrors.WithLabelValues(name)
	for _, limit := range limits {
		m.limits.WithLabelValues(name, limit)
	}
}
