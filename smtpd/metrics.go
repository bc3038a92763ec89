package smtpd

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/auth"
)

// Metrics are the metrics of submission. A nil *Metrics counts nothing.
type Metrics struct {
	conns     prometheus.Gauge
	accepted  *prometheus.CounterVec
	inFlight  prometheus.Gauge
	auths     *prometheus.CounterVec
	throttles *prometheus.CounterVec
	messages  *prometheus.CounterVec
	bytes     prometheus.Counter
	refusals  *prometheus.CounterVec
	limits    *prometheus.CounterVec
	place     atomic.Pointer[message.Place]
}

// NewMetrics registers the metrics of submission, postern_submission_*, with r; nil: they are not registered. It panics if they are
// registered already.
//
// To add a metric, add a field and its declaration here, a method that is safe on nil, the call, and a line in the reference of
// metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		conns: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_submission_connections", Help: "Open connections."}),
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_submission_connections_total", Help: "Connections, by what happened at their start."}, []string{"result"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_submission_in_flight", Help: "Transactions under way."}),
		auths: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_submission_auth_total", Help: "Attempts to authenticate."}, []string{"mechanism", "result"}),
		throttles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_submission_auth_throttled_total", Help: "Attempts to authenticate that were refused unchecked, by why."}, []string{"reason"}),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_submission_messages_total", Help: "Messages, by their outcome."}, []string{"outcome"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_submission_message_bytes_total", Help: "Octets of the messages that arrived whole."}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_submission_refused_commands_total", Help: "Commands wrong in form or order."}, []string{"code"}),
		limits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_submission_limit_hits_total", Help: "Times that a limit was hit, by its key in submission.limits."}, []string{"limit"}),
	}
	for _, name := range countedLimits() { // a counter must exist before its first increase
		m.limits.WithLabelValues(name)
	}
	for _, why := range []auth.Refusal{auth.RefusedAddress, auth.RefusedPair, auth.RefusedParallel} {
		m.throttles.WithLabelValues(string(why))
	}
	memory := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "postern_submission_spool_memory_bytes", Help: "Memory that messages under way use."}, func() float64 { return float64(m.spooled().InMemory.Used()) })
	disk := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "postern_submission_spool_disk_bytes", Help: "Temporary files of messages under way."}, func() float64 { return float64(m.spooled().OnDisk.Used()) })
	if r != nil {
		r.MustRegister(m.conns, m.accepted, m.inFlight, m.auths, m.throttles, m.messages, m.bytes, m.refusals, m.limits, memory, disk)
	}
	return m
}

// watch makes the gauges of the spool show what p holds.
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
		m.inFlight.Add(n)
	}
}

func (m *Metrics) auth(mechanism, result string) {
	if m != nil {
		m.auths.WithLabelValues(mechanism, result).Inc()
	}
}

func (m *Metrics) throttled(why auth.Refusal) {
	if m != nil {
		m.throttles.WithLabelValues(string(why)).Inc()
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
