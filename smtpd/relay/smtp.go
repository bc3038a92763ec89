package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/limit"
)

// SMTP is a next hop that speaks SMTP or LMTP. It keeps connections for reuse. Made by Open.
type SMTP struct {
	o             Options
	name          string // the target, for logs and metrics
	network, addr string
	host          string // for the certificate
	implicitTLS   bool
	lmtp          bool
	pool          pool
	slots         chan struct{} // one for each connection in use
	limits        limit.Reporter
	sessions      tls.ClientSessionCache // a session that was not verified is not resumed where it has to be: crypto/tls sees to it
	blocks        sync.Pool              // *[]byte, blockSize
}

// maxSessions bounds the TLS sessions that are kept for a next hop, one for each certificate name.
const maxSessions = 4

func newSMTP(name, network, addr, host string, o Options) *SMTP {
	o = o.withDefaults()
	h := &SMTP{o: o, name: name, network: network, addr: addr, host: host, sessions: tls.NewLRUClientSessionCache(maxSessions)}
	h.pool.Pool, h.pool.now = o.Pool, o.Now
	h.blocks.New = newBlock
	h.slots = make(chan struct{}, o.Connections)
	h.limits.Count = func(name string) { o.Metrics.limit(h.name, name) }
	o.Metrics.known(h.name)
	return h
}

// late says which time has run out.
func (h *SMTP) late(s step) { h.limits.Met(h.o.Log, s.limit, s.wait, "hop", h.name) }

// errBusy: as many connections as there may be are in use.
var errBusy = errors.New("all connections that may be open to the next hop are in use, and none became free in time")

// slot waits until one more connection may be in use.
func (h *SMTP) slot(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}:
	default:
		h.limits.Met(h.o.Log, limitConnections, cap(h.slots), "hop", h.name)
		timer := time.NewTimer(h.o.Timeouts.Connect)
		defer timer.Stop()
		select {
		case h.slots <- struct{}{}:
		case <-timer.C:
			return errBusy
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	h.o.Metrics.inUse(h.name, 1)
	return nil
}

// leave gives the slot back.
func (h *SMTP) leave() {
	<-h.slots
	h.o.Metrics.inUse(h.name, -1)
}

// String is the target.
func (h *SMTP) String() string { return h.name }

// Begin opens a transaction. Nothing is sent before the first Rcpt, so that MAIL and RCPT go in one write.
func (h *SMTP) Begin(_ context.Context, env Envelope) (Tx, error) {
	return &smtpTx{h: h, env: env, began: time.Now()}, nil
}

// Close ends idle connections with QUIT. The Hop may still be used; it keeps no more connections.
func (h *SMTP) Close() error {
	h.pool.close()
	return nil
}

// get gives a connection: a kept one that is alive, else a new one.
func (h *SMTP) get(ctx context.Context) (c *conn, reused bool, err error) {
	for c := h.pool.get(); c != nil; c = h.pool.get() {
		if c.alive(ctx) {
			c.times = h.o.Timeouts
			h.o.Metrics.connection(h.name, "reused")
			return c, true, nil
		}
		c.doubt = true
		c.close()
	}
	c, err = h.fresh(ctx)
	return c, false, err
}

func (h *SMTP) fresh(ctx context.Context) (*conn, error) {
	c, err := h.dial(ctx)
	if err != nil {
		h.o.Metrics.connection(h.name, "failed")
		return nil, cutShort(ctx, err)
	}
	h.o.Metrics.connection(h.name, "opened")
	return c, nil
}
