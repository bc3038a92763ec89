package smtpd

import (
	"context"
	"net"
	"time"

	"github.com/postern-mail/postern/internal/limit"
	"github.com/postern-mail/postern/internal/message"
)

// gate is the net.Listener that the library accepts from: each connection comes as a guard.
type gate struct {
	Listener
	sockets limit.Accepter
	srv     *Server
	ctx     context.Context
}

func (l *gate) Accept() (net.Conn, error) {
	for {
		conn, err := l.sockets.Accept()
		if err != nil {
			return nil, err
		}
		if !l.srv.admit() {
			l.turnAway(conn, replyStopping(), "stopping")
			continue
		}
		s := l.srv.session(l.ctx, l.Listener, conn)
		if !l.srv.door.enter(s, l.srv.Limits.Connections) {
			l.turnAway(conn, say(421, "4.3.2", "Too many connections, try again later"), "limit")
			s.setClient(conn.RemoteAddr())
			s.met(limitConnections, s.limits.Connections)
			s.cancel()
			l.srv.open.Done()
			continue
		}
		l.srv.Metrics.open(1)
		if l.srv.isStopping() { // Shutdown may have looked before this one was inside
			s.g.interrupt()
		}
		return s.g, nil
	}
}

// turnAway closes a connection for which there is no room, or no time. It never waits: one line fits into a socket's buffer.
func (l *gate) turnAway(conn net.Conn, r message.Reply, result string) {
	l.srv.Metrics.connection(result)
	if !l.TLS {
		conn.SetWriteDeadline(time.Now().Add(time.Second))
		conn.Write(r.AppendTo(nil))
	}
	conn.Close()
}

// session makes what one connection needs.
func (s *Server) session(ctx context.Context, ln Listener, conn net.Conn) *session {
	id := s.ids.next(s.now())
	c := &session{srv: s, ln: ln, limits: s.Limits, id: id, log: s.logger().With("connection", id)}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.g = &guard{wire: newWire(conn, &s.blocks, s.Limits.Write), s: c}
	return c
}

// gone is called when a connection is closed.
func (s *Server) gone(c *session) {
	s.door.leave(c)
	s.Metrics.open(-1)
	s.open.Done()
}
