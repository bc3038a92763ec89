package milter

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"

	gomilter "github.com/emersion/go-milter"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/limit"
)

// listener gives the library our conns instead of sockets.
type listener struct {
	net.Listener
	server  *Server
	config  ListenerConfig
	log     *slog.Logger
	metrics listenerMetrics
	limits  limit.Reporter
	sockets limit.Accepter
	ctx     context.Context // of decisions; ends when connections are cut
	cancel  context.CancelFunc
	next    *conn // accepted, its session not yet asked for; only the accept goroutine uses it
	done    chan struct{}
	once    sync.Once

	mu      sync.Mutex
	missing string // what was said last of withheld operations
}

// Accept waits for a free slot, then for a connection. A shortage, of file descriptors say, is waited out; the library
// would take any error for the end.
func (l *listener) Accept() (net.Conn, error) {
	if err := l.slot(); err != nil {
		return nil, err
	}
	raw, err := l.sockets.Accept()
	if err != nil {
		<-l.server.slots
		return nil, err
	}
	c := l.server.newConn(l, raw)
	if !l.server.join(c) {
		<-l.server.slots
		_ = raw.Close()
		return nil, net.ErrClosed
	}
	l.metrics.connections.Inc()
	l.metrics.accepted.Inc()
	l.next = c
	return c, nil
}

// slot waits until one more connection may be open. Mail servers wait outside meanwhile: there is nothing to tell them before
// they have negotiated, and closing would be taken for a failure.
func (l *listener) slot() error {
	select {
	case l.server.slots <- struct{}{}:
		return nil
	default:
	}
	l.limits.Met(l.log, limitConnections, cap(l.server.slots))
	select {
	case l.server.slots <- struct{}{}:
		return nil
	case <-l.done:
		return net.ErrClosed
	}
}

// newMilter gives the library the session of the connection that it has just accepted, on the same goroutine. Our
// answers never make the library ask for another.
func (l *listener) newMilter() gomilter.Milter {
	c := l.next
	l.next = nil
	return c.session
}

func (l *listener) close() {
	l.once.Do(func() {
		close(l.done)
		_ = l.Listener.Close()
	})
}

func (l *listener) closed() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// sayMissing logs and counts the operations that policy may use and the MTA withholds: once, and again on a change.
func (l *listener) sayMissing(p *engine.Policy, missing []string) {
	for op := range actionsFor {
		l.metrics.missing.WithLabelValues(op).Set(0)
	}
	for _, op := range missing {
		l.metrics.missing.WithLabelValues(op).Set(1)
	}
	said := strings.Join(missing, " ")
	l.mu.Lock()
	again := l.missing == said
	l.missing = said
	l.mu.Unlock()
	if said == "" || again {
		return
	}
	revision := ""
	if p != nil {
		revision = p.Revision()
	}
	l.log.Error("the mail server does not allow operations that the active policy may use; a decision that needs one becomes the failure verdict",
		"operations", missing, "revision", revision)
}
