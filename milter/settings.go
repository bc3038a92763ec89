package milter

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/limit"
	"github.com/postern-mail/postern/internal/message"
)

// Limits bound what a mail server can make the process hold. Zero fields mean the default.
type Limits struct {
	Connections  int           // open at a time over all listeners; further ones wait unaccepted. 1000
	HeaderBytes  int           // of one message's header; a message beyond it is refused. 1 MiB
	HeaderFields int           // of one message's header; a message beyond it is refused. 2000
	BodyBytes    int64         // of a body that are kept for policy; the rest is only counted. 1 MiB and one byte
	Recipients   int           // of one message; further ones are deferred. 10000
	Memory       int64         // bytes of header fields and bodies of all messages in memory; bodies beyond it go to files. 64 MiB
	Disk         int64         // bytes of all those files. 2 GiB
	Idle         time.Duration // silence between commands, while the mail server waits for its own client. 2 h, as in libmilter
	Frame        time.Duration // from the first byte of a frame to its last, and for a write. 30 s
	Callback     time.Duration // for one decision with its wait, even if the engine's own bounds are longer. 20 s
}

// Names of limits in the log and the metrics: the keys of the configuration.
const (
	limitConnections = "connections"
	limitRecipients  = "recipients"
	limitMemory      = "memory"
	limitDisk        = "disk"
	limitIdle        = "idle"
	limitFrame       = "frame"
)

func limitNames() []string {
	return []string{limitConnections, limitRecipients, message.LimitBytes, message.LimitFields, limitMemory, limitDisk, limitIdle, limitFrame, limit.Descriptors}
}

// OrDefault fills in the defaults where a field is zero or negative.
func (l Limits) OrDefault() Limits {
	return Limits{
		Connections:  cmp.Or(max(l.Connections, 0), 1000),
		HeaderBytes:  cmp.Or(max(l.HeaderBytes, 0), 1<<20),
		HeaderFields: cmp.Or(max(l.HeaderFields, 0), 2000),
		BodyBytes:    cmp.Or(max(l.BodyBytes, 0), 1<<20+1), // policy sees 1 MiB; one byte more shows that there was more
		Recipients:   cmp.Or(max(l.Recipients, 0), 10000),
		Memory:       cmp.Or(max(l.Memory, 0), 64<<20),
		Disk:         cmp.Or(max(l.Disk, 0), 2<<30),
		Idle:         cmp.Or(max(l.Idle, 0), 2*time.Hour),
		Frame:        cmp.Or(max(l.Frame, 0), 30*time.Second),
		Callback:     cmp.Or(max(l.Callback, 0), 20*time.Second),
	}
}

// ListenerConfig is what differs between listeners.
type ListenerConfig struct {
	Name    string         // input.server.listener, log and metrics; "": the listener's address
	Failure engine.Verdict // when a decision cannot be taken: Defer (the zero value), Reject or Accept
}

// settings are what all connections of one listener share.
type settings struct {
	ListenerConfig
	ctx      context.Context // of decisions; cancelled when connections are cut
	engine   *engine.Engine
	hostname string // "": the mail server's own name
	clock    func() time.Time
	random   io.Reader
	limits   Limits // without zero fields
	place    *message.Place
	log      *slog.Logger
	metrics  *metrics
	reporter *limit.Reporter
	withheld *withheld
}

// of makes the settings of one listener from those of all listeners.
func (s settings) of(cfg ListenerConfig) *settings {
	s.ListenerConfig = cfg
	s.log = s.log.With("listener", cfg.Name)
	s.metrics.begin(cfg.Name, limitNames())
	s.reporter = &limit.Reporter{Count: func(name string) { s.metrics.limits.WithLabelValues(cfg.Name, name).Inc() }}
	s.withheld = &withheld{}
	return &s
}
