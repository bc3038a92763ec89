package decisionlog

import (
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// loss is the reason why a line was lost, a value of the label reason.
type loss int

const (
	lostQueue    loss = iota // the writer did not keep up
	lostWrite                // the file could not be written
	lostEncode               // a line could not be made
	lostClosed               // recorded after Close
	lostBuffer               // not uploaded: the service did not keep up
	lostRefused              // not uploaded: the service does not want it
	lostShutdown             // not uploaded before the program ended
	lossCount
)

var lossNames = [lossCount]string{"queue", "write", "encode", "closed", "upload_buffer", "upload_refused", "upload_shutdown"}

// losses counts lost lines by reason.
type losses struct {
	counts  [lossCount]atomic.Uint64
	metrics [lossCount]prometheus.Counter
}

// newLosses registers the counters. All reasons start at zero, so that a rate includes the first loss.
func newLosses(reg prometheus.Registerer) (*losses, error) {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postern_decision_log_lost_total",
		Help: "Decisions that are missing in the decision log, or with an upload_ reason were not uploaded.",
	}, []string{"reason"})
	if reg != nil {
		if err := reg.Register(vec); err != nil {
			return nil, fmt.Errorf("decision log: %w", err)
		}
	}
	l := &losses{}
	for i, name := range lossNames {
		l.metrics[i] = vec.WithLabelValues(name)
	}
	return l, nil
}

func (l *losses) add(why loss, n int) {
	l.counts[why].Add(uint64(n))
	l.metrics[why].Add(float64(n))
}

// total returns how many lines the file lacks; with uploads, lines that were not uploaded count as well.
func (l *losses) total(uploads bool) (n uint64) {
	for i := range l.counts {
		if uploads || loss(i) < lostBuffer {
			n += l.counts[i].Load()
		}
	}
	return n
}
