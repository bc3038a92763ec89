package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// Failover is a Hop that offers a transaction to its Hops in order until one takes it, by the rules in the package's
// documentation. A Hop that failed is not used for a pause, which doubles with each failure in a row, from 1 s to 1 min,
// plus or minus a fifth. If all have failed, all are tried.
type Failover struct {
	Hops    []Hop
	Log     *slog.Logger     // nil: nothing is logged
	Metrics *Metrics         // nil: nothing is counted
	Now     func() time.Time // nil: time.Now

	mu    sync.Mutex
	state map[int]downtime // by index in Hops
}

// NewFailover makes a Failover whose hops count as up. Of o it uses Log, Metrics and Now.
func NewFailover(hops []Hop, o Options) *Failover {
	for _, h := range hops {
		o.Metrics.setUp(hopName(h), true)
	}
	return &Failover{Hops: hops, Log: o.Log, Metrics: o.Metrics, Now: o.Now}
}

// downtime of a Hop that failed.
type downtime struct {
	failures int
	until    time.Time
}

const (
	firstDowntime = time.Second
	maxDowntime   = time.Minute
)

// Begin implements Hop.
func (f *Failover) Begin(ctx context.Context, env Envelope) (Tx, error) {
	return &failoverTx{f: f, env: env, left: f.order()}, nil
}

// Close closes all Hops.
func (f *Failover) Close() error {
	var errs []error
	for _, h := range f.Hops {
		errs = append(errs, h.Close())
	}
	return errors.Join(errs...)
}

func (f *Failover) now() time.Time {
	if f.Now != nil {
		return f.Now()
	}
	return time.Now()
}

// order lists the Hops that are up, then those that are down.
func (f *Failover) order() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	up, down := make([]int, 0, len(f.Hops)), []int(nil)
	for i := range f.Hops {
		if now.Before(f.state[i].until) {
			down = append(down, i)
		} else {
			up = append(up, i)
		}
	}
	return append(up, down...)
}

// failed marks Hop i as down.
func (f *Failover) failed(i int, id string, e *Error) {
	f.mu.Lock()
	if f.state == nil {
		f.state = map[int]downtime{}
	}
	d := f.state[i]
	now := f.now()
	if !now.Before(d.until) { // failures of transactions that are open at the same time count once
		wait := min(firstDowntime<<min(d.failures, 10), maxDowntime)
		wait = wait*4/5 + rand.N(wait*2/5)
		d = downtime{d.failures + 1, now.Add(wait)}
		f.state[i] = d
	}
	f.mu.Unlock()
	f.Metrics.setUp(e.Hop, false)
	if f.Log != nil {
		f.Log.Warn("next hop failed, trying another", "id", id, "hop", e.Hop, "stage", e.Stage, "reply", e.Reply.String(),
			"error", e.Cause, "down_until", d.until)
	}
}

// worked forgets the failures of Hop i.
func (f *Failover) worked(i int) {
	f.mu.Lock()
	_, was := f.state[i]
	delete(f.state, i)
	f.mu.Unlock()
	if was {
		f.Metrics.setUp(hopName(f.Hops[i]), true)
	}
}

func hopName(h Hop) string {
	if s, ok := h.(fmt.Stringer); ok {
		return s.String()
	}
	return fmt.Sprintf("%T", h)
}

// failoverTx is a transaction that can move to the next Hop until its end of data has been sent.
type failoverTx struct {
	f     *Failover
	env   Envelope
	left  []int // Hops not yet tried
	hop   int   // the one in use
	tx    Tx    // at hop; nil before the first Rcpt
	to    []recipient
	over  *Error
	ended bool
}

func (t *failoverTx) fail(e *Error) *Error {
	t.over = e
	if t.tx != nil {
		t.tx.Abort()
		t.tx = nil
	}
	return e
}

// try runs step at the Hop in use, and at the next ones as long as the error allows another try.
func (t *failoverTx) try(ctx context.Context, step func(Tx) error) error {
	for {
		e := t.connect(ctx)
		if e == nil {
			e = asError(step(t.tx))
		}
		if e == nil {
			return nil
		}
		if !e.next {
			if e.over {
				return t.fail(e)
			}
			return e
		}
		if ctx.Err() != nil { // the client is at fault, not the Hop
			return t.fail(e)
		}
		t.f.failed(t.hop, t.env.ID, e)
		if len(t.left) == 0 {
			return t.fail(e)
		}
		if t.tx != nil {
			t.tx.Abort()
			t.tx = nil
		}
	}
}

// connect makes sure that there is a transaction at some Hop which has accepted all recipients so far.
func (t *failoverTx) connect(ctx context.Context) *Error {
	if t.tx != nil {
		return nil
	}
	t.hop, t.left = t.left[0], t.left[1:]
	tx, err := t.f.Hops[t.hop].Begin(ctx, t.env)
	if err != nil {
		return asError(err)
	}
	t.tx = tx
	for _, r := range t.to {
		e := asError(tx.Rcpt(ctx, r.path, r.params))
		if e == nil {
			continue
		}
		if e.next {
			return e
		}
		// The client was told that this recipient is accepted, so only the message can still be refused.
		return &Error{Reply: message.MustReply(451, "4.4.0", "The next mail server failed, and another did not accept the same recipients; try again later"),
			Hop: e.Hop, Stage: e.Stage, Cause: e, over: true}
	}
	return nil
}

func (t *failoverTx) usable() *Error {
	if t.over == nil && t.ended {
		t.over = &Error{Reply: local(), Cause: errEnded, over: true}
	}
	if t.over == nil && len(t.f.Hops) == 0 {
		t.over = &Error{Reply: unreachable(), Stage: stageConnect, Cause: errors.New("no next hop is configured"), over: true}
	}
	return t.over
}

// Rcpt implements Tx.
func (t *failoverTx) Rcpt(ctx context.Context, to message.Path, params message.Params) error {
	if e := t.usable(); e != nil {
		return e
	}
	if err := t.try(ctx, func(tx Tx) error { return tx.Rcpt(ctx, to, params) }); err != nil {
		return err
	}
	t.to = append(t.to, recipient{to, params})
	return nil
}

// Data implements Tx.
func (t *failoverTx) Data(ctx context.Context, size int64, body func() io.Reader) (reply message.Reply, err error) {
	if e := t.usable(); e != nil {
		return message.Reply{}, e
	}
	if len(t.to) == 0 {
		t.Abort()
		return message.Reply{}, noRecipients("")
	}
	err = t.try(ctx, func(tx Tx) (err error) {
		reply, err = tx.Data(ctx, size, body)
		return err
	})
	t.ended = true
	if err != nil {
		return message.Reply{}, err
	}
	t.f.worked(t.hop)
	return reply, nil
}

// Abort implements Tx.
func (t *failoverTx) Abort() {
	if t.ended {
		return
	}
	t.ended = true
	if t.tx != nil {
		t.tx.Abort()
		t.tx = nil
	}
}
