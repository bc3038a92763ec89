package engine

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics count decisions. A nil *Metrics counts nothing.
type Metrics struct {
	decisions *prometheus.CounterVec
	errors    *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
}

// NewMetrics registers postern_decisions_total, postern_decision_errors_total and postern_decision_seconds. It panics
// if they are registered already: that is a mistake in the wiring.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_decisions_total", Help: "Decisions by stage and verdict, stages without policy left out.",
		}, []string{"stage", "verdict"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_decision_errors_total", Help: "Decisions that were the failure verdict, by kind of error.",
		}, []string{"kind"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "postern_decision_seconds", Help: "Time a decision took, input building included.",
			Buckets: []float64{25e-6, 50e-6, 100e-6, 200e-6, 400e-6, 800e-6, 1.6e-3, 5e-3, 20e-3, 100e-3, 500e-3},
		}, []string{"stage"}),
	}
	if r != nil {
		r.MustRegister(m.decisions, m.errors, m.seconds)
	}
	return m
}

// observe one decision.
func (m *Metrics) observe(d *Decision) {
	if m == nil {
		return
	}
	stage := d.Stage.String()
	m.decisions.WithLabelValues(stage, d.Verdict.String()).Inc()
	m.seconds.WithLabelValues(stage).Observe(d.Latency.Seconds())
	var e *EvalError
	if errors.As(d.Err, &e) {
		m.errors.WithLabelValues(e.Kind).Inc()
	}
}
