package smtpd

import (
	"context"
	"crypto/rand"
	"errors"
	"hash/maphash"
	"net"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/limit"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/smtpd/wire"
)

// Serve accepts clients from l until Shutdown, the end of ctx, or a failure of l, and closes l. The end of ctx stops accepting;
// open connections go on until Shutdown. The error is ErrServerClosed after Shutdown, or that of ctx or l.
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
	if !s.addListener(l.Listener) {
		l.Close()
		return ErrServerClosed
	}
	defer s.removeListener(l.Listener)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	sockets := limit.Accepter{Listener: l.Listener, Stop: s.stopping(), Reporter: &s.hits, Log: s.logger().With("listener", l.Name)}
	err := s.wire.Serve(&accepter{Listener: l, sockets: sockets, srv: s, ctx: context.WithoutCancel(ctx)})
	switch {
	case s.isStopping():
		return ErrServerClosed
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

// Shutdown stops accepting, ends connections that wait between two transactions with 421, lets transactions under way finish,
// and waits for all connections. When ctx ends, it closes those that are left and returns the cause. Afterwards no goroutine of the
// Server is left.
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
	for _, c := range s.table.all() {
		c.Interrupt()
	}
	done := make(chan struct{})
	go func() { s.running.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
		s.table.cut()
		<-done
	}
	s.wire.Shutdown()
	return err
}

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
		s.logSeed = maphash.MakeSeed()
		s.Limits = s.Limits.OrDefault()
		s.hits.Count = s.Metrics.limit
		s.place = message.Place{
			Dir: s.SpoolDir, Memory: s.Limits.SpoolMemory,
			InMemory: &message.Budget{Max: s.Limits.SpoolMemoryTotal}, OnDisk: &message.Budget{Max: s.Limits.SpoolDisk},
		}
		s.Metrics.watch(&s.place)
		s.wire = wire.NewServer(wire.Options{
			Hostname: s.Hostname, CommandLine: s.Limits.CommandLine, Write: s.Limits.Write, Log: s.logger(),
		})
	})
	return s.setupErr
}

// addListener keeps a listener for Shutdown to close, unless Shutdown has begun.
func (s *Server) addListener(l net.Listener) bool {
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

func (s *Server) removeListener(l net.Listener) {
	l.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

// admit counts a new connection among those that Shutdown waits for, unless Shutdown has begun. Both hold the same lock, so no
// connection is added after the waiting has begun.
func (s *Server) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.stopChan():
		return false
	default:
		s.running.Add(1)
		return true
	}
}

// accepter is the net.Listener that go-smtp accepts from. Each connection comes as a *wire.Conn.
type accepter struct {
	Listener
	sockets limit.Accepter
	srv     *Server
	ctx     context.Context
}

func (l *accepter) Accept() (net.Conn, error) {
	for {
		conn, err := l.sockets.Accept()
		if err != nil {
			return nil, err
		}
		if !l.srv.admit() {
			l.turnAway(conn, replyStopping(), "stopping")
			continue
		}
		s := l.srv.newSession(l.ctx, l.Listener, conn)
		if !l.srv.table.add(s.conn, s.cancel, s.limits.Connections) {
			s.setClient(conn.RemoteAddr())
			s.hit(limitConnections) // before the reply, so that the count is right when the client has it
			l.turnAway(conn, say(421, "4.3.2", "Too many connections, try again later"), "limit")
			s.cancel()
			l.srv.running.Done()
			continue
		}
		l.srv.Metrics.open(1)
		if l.srv.isStopping() { // Shutdown may have read the table before this connection was in it
			s.conn.Interrupt()
		}
		return s.conn, nil
	}
}

// turnAway closes a connection that cannot be served. It never waits: one line fits into a socket's buffer.
func (l *accepter) turnAway(conn net.Conn, r message.Reply, result string) {
	l.srv.Metrics.connection(result)
	if !l.TLS {
		conn.SetWriteDeadline(time.Now().Add(time.Second))
		conn.Write(r.AppendTo(nil))
	}
	conn.Close()
}

// newSession makes the session of a new connection.
func (s *Server) newSession(ctx context.Context, ln Listener, conn net.Conn) *session {
	id := s.ids.next(s.now())
	c := &session{srv: s, ln: ln, limits: s.Limits, id: id, log: s.logger().With("connection", id)}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.conn = s.wire.NewConn(conn, c)
	return c
}
