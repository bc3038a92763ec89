package smtpd

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"hash/maphash"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/limit"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/auth"
	"github.com/postern-mail/postern/smtpd/relay"
)

// Server takes mail from authenticated clients, asks policy about it, and hands what is accepted to a next hop. Its fields
// are set before the first Serve.
type Server struct {
	Hostname string // in greeting, EHLO and Received
	Engine   *engine.Engine
	Relay    relay.Hop
	// Quarantine takes what policy quarantines; nil: such a message is deferred with 451.
	Quarantine relay.Hop
	// Auth backends, tried in order; none: AUTH is not offered.
	Auth []auth.Backend
	// Throttle counts failed logins by address and login over all connections; nil: each connection is on its own.
	Throttle *auth.Throttle
	// RecentLogins are logins at other servers, for policy to read; nil: none are known.
	RecentLogins *auth.RecentLogins
	// Anonymous lets clients send without authentication.
	Anonymous bool
	// TLS gives the configuration for each handshake; nil, or a nil configuration: no TLS, and so no AUTH.
	TLS    func() *tls.Config
	Limits Limits
	// Received is "full" (or ""), "private" (no address and name of the client), or a template; see CheckReceived.
	Received string
	// SpoolDir is where messages wait that do not fit into memory; "": os.TempDir.
	SpoolDir string

	Log     *slog.Logger     // nil: nothing is logged
	Metrics *Metrics         // nil: nothing is counted
	Clock   func() time.Time // nil: time.Now
	Rand    io.Reader        // nil: crypto/rand

	once     sync.Once
	setupErr error
	lib      *smtp.Server
	stop     chan struct{} // closed when Shutdown begins
	stopOnce sync.Once
	ids      ids
	door     door
	blocks   sync.Pool
	limits   limit.Reporter
	place    message.Place
	hide     maphash.Seed // of what logs must not have
	open     sync.WaitGroup

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
}

// Listener is where clients come in.
type Listener struct {
	net.Listener
	Name    string         // for policy and logs; "": the address
	TLS     bool           // implicit TLS (RFC 8314), not STARTTLS
	Trusted []netip.Prefix // proxies that speak the PROXY protocol, and must
	// Mechanisms of authentication that may be used here, as EHLO names them; none: all that the backends can serve.
	Mechanisms []string
	Failure    engine.Verdict // when policy cannot decide; the zero value is Defer

	observer *atomic.Pointer[observer] // set by Serve
}

// ErrServerClosed is what Serve returns after Shutdown.
var ErrServerClosed = errors.New("smtpd: server closed")

func (s *Server) setup() error {
	s.once.Do(func() {
		if s.Engine == nil || s.Relay == nil || s.Hostname == "" {
			s.setupErr = errors.New("smtpd: a Server needs Hostname, Engine and Relay")
			return
		}
		if s.setupErr = CheckReceived(s.Received); s.setupErr != nil {
			return
		}
		random := s.Rand
		if random == nil {
			random = rand.Reader
		}
		if s.setupErr = s.ids.seed(random); s.setupErr != nil {
			return
		}
		s.Limits = s.Limits.OrDefault()
		s.limits.Count = s.Metrics.limit
		s.place = message.Place{
			Dir: s.SpoolDir, Memory: s.Limits.SpoolMemory,
			InMemory: &message.Budget{Max: s.Limits.SpoolMemoryTotal}, OnDisk: &message.Budget{Max: s.Limits.SpoolDisk},
		}
		s.Metrics.watch(&s.place)
		s.hide = maphash.MakeSeed()
		s.blocks.New = func() any { b := make([]byte, largeBuffer); return &b }
		s.lib = smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
			return c.Conn().(*guard).s, nil
		}))
		s.lib.Domain = s.Hostname
		s.lib.AllowInsecureAuth = true // the library does not see TLS; the guard offers AUTH under TLS only
		s.lib.MaxLineLength = 0        // the guard's lines are short
		s.lib.ErrorLog = libraryLog{s}
	})
	return s.setupErr
}

// Serve accepts clients from l until Shutdown, the end of ctx, or a failure of l, and closes it. The end of ctx stops
// accepting; connections that are open go on until Shutdown.
func (s *Server) Serve(ctx context.Context, l Listener) error {
	if err := s.setup(); err != nil {
		return err
	}
	if l.TLS && s.TLS == nil {
		return errors.New("smtpd: a listener with implicit TLS needs Server.TLS")
	}
	if l.Name == "" {
		l.Name = l.Addr().String()
	}
	l.observer = new(atomic.Pointer[observer])
	if !s.keep(l.Listener) {
		l.Close()
		return ErrServerClosed
	}
	defer s.letGo(l.Listener)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	sockets := limit.Accepter{Listener: l.Listener, Stop: s.stopping(), Reporter: &s.limits, Log: s.logger().With("listener", l.Name)}
	err := s.lib.Serve(&gate{Listener: l, sockets: sockets, srv: s, ctx: context.WithoutCancel(ctx)})
	switch {
	case s.isStopping():
		return ErrServerClosed
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

// Shutdown stops accepting, ends connections that wait between two transactions with 421, lets transactions under way come to
// their end, and waits for all. When ctx ends, it cuts those that are left. Afterwards no goroutine of the Server is left.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := s.setup(); err != nil {
		return err
	}
	s.mu.Lock()
	s.stopOnce.Do(func() { close(s.stopChan()) })
	for l := range s.listeners {
		l.Close()
	}
	s.mu.Unlock()
	for _, c := range s.door.inside() {
		c.g.interrupt()
	}
	done := make(chan struct{})
	go func() { s.open.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
		for _, c := range s.door.inside() {
			c.cancel()
			c.g.raw.Close()
		}
		<-done
	}
	s.lib.Shutdown(context.Background()) // its goroutines have nothing left to do
	return err
}

// stopChan is made on first use; mu is held.
func (s *Server) stopChan() chan struct{} {
	if s.stop == nil {
		s.stop = make(chan struct{})
	}
	return s.stop
}

// stopping is closed when Shutdown begins.
func (s *Server) stopping() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopChan()
}

func (s *Server) isStopping() bool {
	select {
	case <-s.stopping():
		return true
	default:
		return false
	}
}

// admit counts a connection that was just accepted among those that Shutdown waits for, unless that has begun. It has begun
// under the same lock, so that none is counted when the waiting has.
func (s *Server) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.stopChan():
		return false
	default:
		s.open.Add(1)
		return true
	}
}

// keep remembers a listener for Shutdown to close, unless that has begun.
func (s *Server) keep(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.stopChan():
		return false
	default:
	}
	if s.listeners == nil {
		s.listeners = map[net.Listener]struct{}{}
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) letGo(l net.Listener) {
	l.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

func (s *Server) now() time.Time {
	if s.Clock != nil {
		return s.Clock()
	}
	return time.Now()
}

func (s *Server) logger() *slog.Logger {
	if s.Log != nil {
		return s.Log
	}
	return slog.New(slog.DiscardHandler)
}

// panicked logs a panic outside of the library's handlers; those the library catches itself.
func (s *Server) panicked(c *session, value any, stack []byte) {
	c.log.Error("panic serving a connection", "panic", value, "stack", string(stack))
}
