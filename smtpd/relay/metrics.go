package relay

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics count what happens at next hops. A nil *Metrics counts nothing. All hops of a program share one.
type Metrics struct {
	connections  *prometheus.CounterVec
	transactions *prometheus.CounterVec
	seconds      *prometheus.HistogramVec
	up           *prometheus.GaugeVec
	using        *prometheus.GaugeVec
	limits       *prometheus.CounterVec
	restarts     *prometheus.CounterVec
}

// Values of the label result.
const (
	resultDelivered = "delivered"
	resultRefused   = "refused"
	resultUncertain = "uncertain"
	resultPartial   = "partial"
	resultAborted   = "aborted"
)

// NewMetrics registers the metrics with reg:
//
//	postern_relay_connections_total{hop,result}    result: opened, reused, failed
//	postern_relay_transactions_total{hop,result}   result: delivered, refused, uncertain, partial (after the data); aborted
//	postern_relay_transaction_seconds{hop}         from Begin to the reply after the data
//	postern_relay_hop_up{hop}                      with failover: 1 in use, 0 not used for a while after failures
//	postern_relay_connections_in_use{hop}          connections that serve a transaction
//	postern_relay_restarts_total{hop}              transactions begun again at the same hop, which had closed the connection before the data
//	postern_relay_limit_hits_total{hop,limit}      limit: connections, or one of relay.timeouts
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		connections: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_relay_connections_total",
			Help: "Connections to a next hop, by whether they were opened, reused or failed."}, []string{"hop", "result"}),
		transactions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_relay_transactions_total",
			Help: "Transactions at a next hop, by how they ended."}, []string{"hop", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "postern_relay_transaction_seconds",
			Help: "Time from the start of a transaction to the reply after its data.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10)},
			[]string{"hop"}),
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "postern_relay_hop_up",
			Help: "Whether a next hop is in use (1) or not used for a while after failures (0)."}, []string{"hop"}),
		using: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "postern_relay_connections_in_use",
			Help: "Connections to a next hop that serve a transaction."}, []string{"hop"}),
		limits: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_relay_limit_hits_total",
			Help: "Times that a limit was reached: relay.connections, or one of relay.timeouts."}, []string{"hop", "limit"}),
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_relay_restarts_total",
			Help: "Transactions begun again at the same next hop, because it closed the connection before the data."}, []string{"hop"}),
	}
	for _, c := range []prometheus.Collector{m.connections, m.transactions, m.seconds, m.up, m.using, m.limits, m.restarts} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Metrics) connection(hop, result string) {
	if m != nil {
		m.connections.WithLabelValues(hop, result).Inc()
	}
}

func (m *Metrics) transaction(hop, result string) {
	if m != nil {
		m.transactions.WithLabelValues(hop, result).Inc()
	}
}

// done counts a transaction that reached its data.
func (m *Metrics) done(hop, result string, d time.Duration) {
	if m != nil {
		m.transactions.WithLabelValues(hop, result).Inc()
		m.seconds.WithLabelValues(hop).Observe(d.Seconds())
	}
}

// begin sets a hop's limits to 0, so that the first event shows as an increase.
func (m *Metrics) begin(hop string, limits []string) {
	if m == nil {
		return
	}
	m.using.WithLabelValues(hop)
	m.restarts.WithLabelValues(hop)
	for _, name := range limits {
		m.limits.WithLabelValues(hop, name)
	}
}

func (m *Metrics) limit(hop, name string) {
	if m != nil {
		m.limits.WithLabelValues(hop, name).Inc()
	}
}

func (m *Metrics) restart(hop string) {
	if m != nil {
		m.restarts.WithLabelValues(hop).Inc()
	}
}

func (m *Metrics) inUse(hop string, n float64) {
	if m != nil {
		m.using.WithLabelValues(hop).Add(n)
	}
}

func (m *Metrics) setUp(hop string, up bool) {
	if m == nil {
		return
	}
	v := 0.0
	if up {
		v = 1
	}
	m.up.WithLabelValues(hop).Set(v)
}
