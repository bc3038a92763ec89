package smtpd

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/message"
)

// Metrics count. A nil *Metrics counts nothing.
type Metrics struct {
	conns    prometheus.Gauge
	accepted *prometheus.CounterVec
	flying   prometheus.Gauge
	auths    *prometheus.CounterVec
	messages *prometheus.CounterVec
	bytes    prometheus.Counter
	refusals *prometheus.CounterVec
	limits   *prometheus.CounterVec
	place    atomic.Pointer[message.Place]
}

// NewMetrics registers the metrics of submission, postern_submission_*. It panics where they are registered already.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		conns: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_submission_connections", Help: "Connections that are open."}),
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_submission_connections_total", Help: "Connections by what became of them at the start."}, []string{"result"}),
		flying: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_submission_in_flight", Help: "Transactions between MAIL and their end."}),
		auths: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_submission_auth_total", Help: "Tries at authentication."}, []string{"mechanism", "result"}),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_submission_messages_total", Help: "Messages by what the client was told, and why."}, []string{"outcome"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_submission_message_bytes_total", Help: "Octets of messages that arrived whole."}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_submission_refused_commands_total", Help: "Commands wrong in form or order."}, []string{"code"}),
		limits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_submission_limit_hits_total", Help: "Times that a limit was met, by the key of submission.limits that it has."}, []string{"limit"}),
	}
	for _, name := range countedLimits() { // a counter must exist before its first increase
		m.limits.WithLabelValues(name)
	}
	memory := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "postern_submission_spool_memory_bytes", Help: "Memory that messages under way take."}, func() float64 { return float64(m.spooled().InMemory.Used()) })
	disk := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "postern_submission_spool_disk_bytes", Help: "Temporary files of messages under way."}, func() float64 { return float64(m.spooled().OnDisk.Used()) })
	if r != nil {
		r.MustRegister(m.conns, m.accepted, m.flying, m.auths, m.messages, m.bytes, m.refusals, m.limits, memory, disk)
	}
	return m
}

// watch has the gauges show what p holds.
func (m *Metrics) watch(p *message.Place) {
	if m != nil {
		m.place.Store(p)
	}
}

func (m *Metrics) spooled() *message.Place {
	if p := m.place.Load(); p != nil {
		return p
	}
	return &message.Place{}
}

func (m *Metrics) limit(name string) {
	if m != nil {
		m.limits.WithLabelValues(name).Inc()
	}
}

func (m *Metrics) open(n float64) {
	if m != nil {
		m.conns.Add(n)
	}
}

func (m *Metrics) connection(result string) {
	if m != nil {
		m.accepted.WithLabelValues(result).Inc()
	}
}

func (m *Metrics) transaction(n float64) {
	if m != nil {
		m.flying.Add(n)
	}
}

func (m *Metrics) auth(mechanism, result string) {
	if m != nil {
		m.auths.WithLabelValues(mechanism, result).Inc()
	}
}

func (m *Metrics) message(outcome string) {
	if m != nil {
		m.messages.WithLabelValues(outcome).Inc()
	}
}

func (m *Metrics) octets(n int64) {
	if m != nil {
		m.bytes.Add(float64(n))
	}
}

func (m *Metrics) refused(code int) {
	if m != nil {
		m.refusals.WithLabelValues(strconv.Itoa(code)).Inc()
	}
}
