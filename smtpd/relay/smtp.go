package relay

import (
	"context"
	"sync"
	"time"
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
	blocks        sync.Pool // *[]byte, blockSize
}

func newSMTP(name, network, addr, host string, o Options) *SMTP {
	o = o.withDefaults()
	h := &SMTP{o: o, name: name, network: network, addr: addr, host: host}
	h.pool.Pool, h.pool.now = o.Pool, o.Now
	h.blocks.New = newBlock
	return h
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
