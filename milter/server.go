package milter

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	gomilter "github.com/emersion/go-milter"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/limit"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/socket"
)

// Server is a milter. Set the fields before the first Serve and leave them alone then; only Engine is required.
type Server struct {
	Engine   *engine.Engine
	Hostname string                // input.server.hostname, and the right side of message ids; "": the MTA's own name ({j})
	Log      *slog.Logger          // nil: no log
	Metrics  prometheus.Registerer // nil: no metrics
	Clock    func() time.Time      // nil: time.Now
	Rand     io.Reader             // for transaction ids; nil: crypto/rand
	Limits   Limits
	SpoolDir string // for bodies beyond 128 KiB; "": os.TempDir

	mu       sync.Mutex
	started  bool
	closing  chan struct{} // closed at Shutdown
	slots    chan struct{} // one for each connection
	all      *metrics
	open     map[*conn]struct{}
	sockets  map[*listener]struct{}
	readers  sync.Pool      // of *bufio.Reader, of connections that have ended
	serving  sync.WaitGroup // of connections
	resolved Limits
	place    message.Place
}

// Limits bound what a mail server can make us hold. Zero fields mean the default.
type Limits struct {
	Connections  int           // open at a time over all listeners; more wait unaccepted. 1000
	HeaderBytes  int           // of one message's header; beyond it the message is refused. 1 MiB
	HeaderFields int           // likewise. 2000
	BodyBytes    int64         // of a body that are kept for policy; the rest is only counted. 1 MiB and an octet
	Recipients   int           // of one message; further ones are deferred. 10000
	Memory       int64         // octets of all messages that are held in memory, header fields and bodies; what does not fit of bodies goes to files. 64 MiB
	Disk         int64         // octets of all those files. 2 GiB
	Idle         time.Duration // silence between commands: the MTA waits for its own client meanwhile. 2 h, as libmilter's
	Frame        time.Duration // from the first octet of a frame to its last, and for a write. 30 s
	Callback     time.Duration // for one decision, whatever the engine's own time-out. 10 s
}

// The limits by the names that the log and the metrics have for them: those of the configuration. What else can run short is
// limit.Descriptors.
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

func or[T ~int | ~int64](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// OrDefault fills in the defaults where a field is zero.
func (l Limits) OrDefault() Limits {
	l.Connections = or(l.Connections, 1000)
	l.HeaderBytes = or(l.HeaderBytes, 1<<20)
	l.HeaderFields = or(l.HeaderFields, 2000)
	l.Recipients = or(l.Recipients, 10000)
	l.BodyBytes = or(l.BodyBytes, 1<<20+1) // policy sees 1 MiB; one octet more shows that there was more
	l.Memory = or(l.Memory, 64<<20)
	l.Disk = or(l.Disk, 2<<30)
	l.Idle = or(l.Idle, 2*time.Hour)
	l.Frame = or(l.Frame, 30*time.Second)
	l.Callback = or(l.Callback, 10*time.Second)
	return l
}

// ListenerConfig is what differs between listeners.
type ListenerConfig struct {
	Name    string         // input.server.listener, log and metrics; "": the listener's address
	Failure engine.Verdict // when a decision cannot be taken: Defer (the zero value), Reject or Accept
}

// ErrClosed is returned by Serve once Shutdown was called before it.
var ErrClosed = errors.New("milter: server closed")

// Serve accepts connections on ln until Shutdown, which makes it return nil, or until ctx is done, which cuts its
// connections. It closes ln. It may be called for several listeners, each on a goroutine of its own.
func (s *Server) Serve(ctx context.Context, ln net.Listener, cfg ListenerConfig) error {
	if cfg.Name == "" {
		cfg.Name = ln.Addr().Network() + ":" + ln.Addr().String()
	}
	switch cfg.Failure {
	case engine.Defer, engine.Reject, engine.Accept:
	default:
		_ = ln.Close()
		return fmt.Errorf("milter: listener %s: failure verdict %v; defer, reject or accept are possible", cfg.Name, cfg.Failure)
	}
	l, err := s.enter(ctx, ln, cfg)
	if err != nil {
		_ = ln.Close()
		return err
	}
	defer s.exit(l)
	stop := context.AfterFunc(ctx, func() { l.close(); s.cutAll(l) })
	defer stop()
	library := gomilter.Server{NewMilter: l.newMilter}
	err = library.Serve(l)
	if l.closed() {
		if ctx.Err() != nil {
			s.serving.Wait()
		}
		return nil
	}
	return fmt.Errorf("milter: listener %s: %w", cfg.Name, err)
}

func (s *Server) enter(ctx context.Context, ln net.Listener, cfg ListenerConfig) (*listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.start(); err != nil {
		return nil, err
	}
	select {
	case <-s.closing:
		return nil, ErrClosed
	default:
	}
	l := &listener{Listener: ln, server: s, config: cfg, log: s.Log.With("listener", cfg.Name), metrics: s.all.of(cfg.Name), done: make(chan struct{})}
	l.limits.Count = func(name string) { l.metrics.limits.WithLabelValues(name).Inc() }
	l.sockets = limit.Accepter{Listener: ln, Stop: l.done, Reporter: &l.limits, Log: l.log}
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.sockets[l] = struct{}{}
	return l, nil
}

// start fills in what the zero value leaves out. s.mu is held.
func (s *Server) start() error {
	if s.started {
		return nil
	}
	if s.Engine == nil {
		return errors.New("milter: Server.Engine is not set")
	}
	s.resolved = s.Limits.OrDefault()
	s.place = message.Place{
		Dir: s.SpoolDir, Memory: bodyInMemory, InMemory: &message.Budget{Max: s.resolved.Memory}, OnDisk: &message.Budget{Max: s.resolved.Disk},
	}
	all, err := newMetrics(s.Metrics, &s.place)
	if err != nil {
		return fmt.Errorf("milter: metrics: %w", err)
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.Clock == nil {
		s.Clock = time.Now
	}
	if s.Rand == nil {
		s.Rand = rand.Reader
	}
	s.all, s.closing, s.slots = all, make(chan struct{}), make(chan struct{}, s.resolved.Connections)
	s.open, s.sockets = map[*conn]struct{}{}, map[*listener]struct{}{}
	s.started = true
	return nil
}

func (s *Server) exit(l *listener) {
	l.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sockets, l)
}

// limits are the limits with defaults filled in.
func (s *Server) limits() *Limits { return &s.resolved }

// join makes a connection known; false while shutting down.
func (s *Server) join(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closing:
		return false
	default:
	}
	s.open[c] = struct{}{}
	s.serving.Add(1)
	return true
}

// leave is called once a connection's goroutine ends.
func (s *Server) leave(c *conn) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	c.listener.metrics.connections.Dec()
	<-s.slots
	s.serving.Done()
}

// Shutdown stops listening, closes connections that have no transaction open, and lets the others finish theirs until
// ctx is done; then it cuts them and returns ctx's error. All goroutines of connections have ended when it returns.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if err := s.start(); err != nil {
		s.mu.Unlock()
		return err
	}
	select {
	case <-s.closing:
	default:
		close(s.closing)
	}
	for l := range s.sockets {
		l.close()
	}
	for c := range s.open {
		c.source.drain()
	}
	s.mu.Unlock()

	done := make(chan struct{})
	go func() { s.serving.Wait(); close(done) }() // ends with the last connection, which the lines below make sure of
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.cutAll(nil)
		<-done
		return ctx.Err()
	}
}

// cutAll closes the connections of l, or all of them.
func (s *Server) cutAll(l *listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		if l == nil || c.listener == l {
			c.listener.cancel()
			c.cut()
		}
	}
}

// newConn wraps an accepted socket.
func (s *Server) newConn(l *listener, raw net.Conn) *conn {
	src := &source{raw: raw, rearm: socket.QuickAck(raw), resting: true}
	c := &conn{Conn: raw, server: s, listener: l, log: l.log, source: src, in: s.reader(src)}
	c.session = &session{conn: c}
	return c
}

// reader is one that a connection before had, or a new one.
func (s *Server) reader(src *source) *bufio.Reader {
	if r, ok := s.readers.Get().(*bufio.Reader); ok {
		r.Reset(src)
		return r
	}
	return bufio.NewReaderSize(src, readBuffer)
}

// giveBack lets another connection have the reader of c, which reads no more.
func (s *Server) giveBack(c *conn) {
	c.in.Reset(nil)
	s.readers.Put(c.in)
	c.in, c.dead = nil, true
}

// readBuffer holds a whole ordinary header.
const readBuffer = 8 << 10
