package milter

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/limit"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/milter/wire"
)

// Server is a milter. Set the fields before the first Serve and do not change them afterwards; only Engine is required.
type Server struct {
	Engine   *engine.Engine
	Hostname string                // input.server.hostname, and the right side of message ids; "": the mail server's own name ({j})
	Log      *slog.Logger          // nil: no log
	Metrics  prometheus.Registerer // nil: no metrics
	Clock    func() time.Time      // nil: time.Now
	Rand     io.Reader             // for transaction ids; nil: crypto/rand
	Limits   Limits
	SpoolDir string // for bodies beyond 128 KiB; "": os.TempDir

	mu        sync.Mutex
	started   bool
	closing   chan struct{} // closed by Shutdown
	slots     chan struct{} // one element for each connection
	common    settings      // of all listeners
	acceptors map[*acceptor]struct{}
	open      map[*wire.Conn]*acceptor
	serving   sync.WaitGroup // of connections
}

// ErrClosed is returned by Serve after Shutdown.
var ErrClosed = errors.New("milter: server closed")

// Serve accepts connections on ln until Shutdown is called, which makes it return nil, or until ctx is done, which cuts its
// connections. It closes ln. It may be called for several listeners, each on a goroutine of its own.
func (s *Server) Serve(ctx context.Context, ln net.Listener, cfg ListenerConfig) error {
	if cfg.Name == "" {
		cfg.Name = ln.Addr().Network() + ":" + ln.Addr().String()
	}
	a, err := s.listen(ctx, ln, cfg)
	if err != nil {
		_ = ln.Close()
		return err
	}
	defer s.forget(a)
	stop := context.AfterFunc(ctx, func() { a.close(); s.cut(a) })
	defer stop()
	err = wire.Serve(a, a.connect)
	if !a.closed() {
		return fmt.Errorf("milter: listener %s: %w", cfg.Name, err)
	}
	if ctx.Err() != nil {
		s.serving.Wait()
	}
	return nil
}

// Shutdown stops listening, closes connections that have no transaction open, and lets the others finish theirs until
// ctx is done; then it cuts them and returns ctx's error. All goroutines of connections have ended when it returns.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if err := s.start(); err != nil {
		s.mu.Unlock()
		return err
	}
	if !isClosed(s.closing) {
		close(s.closing)
	}
	for a := range s.acceptors {
		a.close()
	}
	for c := range s.open {
		c.Drain()
	}
	s.mu.Unlock()

	done := make(chan struct{})
	go func() { s.serving.Wait(); close(done) }() // ends with the last connection; the lines below make sure of that
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.cut(nil)
		<-done
		return ctx.Err()
	}
}

// start fills in the defaults and registers the metrics, once. s.mu is held.
func (s *Server) start() error {
	if s.started {
		return nil
	}
	if s.Engine == nil {
		return errors.New("milter: Server.Engine is not set")
	}
	limits := s.Limits.OrDefault()
	place := &message.Place{
		Dir: s.SpoolDir, Memory: bodyInMemory, InMemory: &message.Budget{Max: limits.Memory}, OnDisk: &message.Budget{Max: limits.Disk},
	}
	metrics, err := newMetrics(s.Metrics, place)
	if err != nil {
		return fmt.Errorf("milter: metrics: %w", err)
	}
	s.common = settings{engine: s.Engine, hostname: s.Hostname, clock: s.Clock, random: s.Rand, limits: limits, place: place, log: s.Log, metrics: metrics}
	if s.common.log == nil {
		s.common.log = slog.New(slog.DiscardHandler)
	}
	if s.common.clock == nil {
		s.common.clock = time.Now
	}
	if s.common.random == nil {
		s.common.random = rand.Reader
	}
	s.closing, s.slots = make(chan struct{}), make(chan struct{}, limits.Connections)
	s.open, s.acceptors = map[*wire.Conn]*acceptor{}, map[*acceptor]struct{}{}
	s.started = true
	return nil
}

// listen makes an acceptor with the settings of its connections.
func (s *Server) listen(ctx context.Context, ln net.Listener, cfg ListenerConfig) (*acceptor, error) {
	switch cfg.Failure {
	case engine.Defer, engine.Reject, engine.Accept:
	default:
		return nil, fmt.Errorf("milter: listener %s: the failure verdict is %v; use defer, reject or accept", cfg.Name, cfg.Failure)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.start(); err != nil {
		return nil, err
	}
	if isClosed(s.closing) {
		return nil, ErrClosed
	}
	a := &acceptor{Listener: ln, server: s, settings: s.common.of(cfg), done: make(chan struct{})}
	a.ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	a.sockets = limit.Accepter{Listener: ln, Stop: a.done, Reporter: a.reporter, Log: a.log}
	s.acceptors[a] = struct{}{}
	return a, nil
}

func (s *Server) forget(a *acceptor) {
	a.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.acceptors, a)
}

// join adds a connection to the table; false after Shutdown.
func (s *Server) join(c *wire.Conn, a *acceptor) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if isClosed(s.closing) {
		return false
	}
	s.open[c] = a
	s.serving.Add(1)
	return true
}

// leave takes a connection out of the table when its goroutine ends.
func (s *Server) leave(c *wire.Conn) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	<-s.slots
	s.serving.Done()
}

// cut ends the connections of a at once; nil means all listeners.
func (s *Server) cut(a *acceptor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, of := range s.open {
		if a == nil || of == a {
			of.cancel()
			c.Cut()
		}
	}
}

// acceptor accepts the connections of one Serve.
type acceptor struct {
	net.Listener
	*settings
	server  *Server
	sockets limit.Accepter
	cancel  context.CancelFunc // ends decisions
	done    chan struct{}
	once    sync.Once
}

// Accept waits for a slot, then for a connection.
func (a *acceptor) Accept() (net.Conn, error) {
	if err := a.slot(); err != nil {
		return nil, err
	}
	c, err := a.sockets.Accept()
	if err != nil {
		<-a.server.slots
	}
	return c, err
}

// slot waits until one more connection may be open. Mail servers wait unaccepted meanwhile: no answer is possible before
// negotiation, and a closed connection would be taken for a failure.
func (a *acceptor) slot() error {
	select {
	case a.server.slots <- struct{}{}:
		return nil
	default:
	}
	a.reporter.Met(a.log, limitConnections, cap(a.server.slots))
	select {
	case a.server.slots <- struct{}{}:
		return nil
	case <-a.done:
		return net.ErrClosed
	}
}

// connect makes the session of an accepted connection; nil after Shutdown.
func (a *acceptor) connect(socket net.Conn) *wire.Conn {
	c := &wire.Conn{Socket: socket, Log: a.log, Idle: a.limits.Idle, Frame: a.limits.Frame}
	c.Session = &session{connection: connection{settings: a.settings, wire: c, log: a.log}}
	c.Closed = func() {
		a.metrics.connections.WithLabelValues(a.Name).Dec()
		a.server.leave(c)
	}
	if !a.server.join(c, a) {
		<-a.server.slots
		return nil
	}
	a.metrics.connections.WithLabelValues(a.Name).Inc()
	a.metrics.accepted.WithLabelValues(a.Name).Inc()
	return c
}

func (a *acceptor) close() {
	a.once.Do(func() {
		close(a.done)
		_ = a.Listener.Close()
	})
}

func (a *acceptor) closed() bool { return isClosed(a.done) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
