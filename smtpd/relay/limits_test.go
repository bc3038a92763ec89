package relay

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// limitsMet counts how often each limit was reached, and the connections in use, over all hops of reg.
func limitsMet(t *testing.T, reg *prometheus.Registry) (met map[string]float64, inUse float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	met = map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "postern_relay_connections_in_use" {
				inUse += m.GetGauge().GetValue()
			}
			for _, l := range m.GetLabel() {
				if l.GetName() == "limit" {
					met[l.GetValue()] += m.GetCounter().GetValue()
				}
			}
		}
	}
	return met, inUse
}

// noisy is a log that a test reads.
type noisy struct {
	mu sync.Mutex
	bytes.Buffer
}

func (n *noisy) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.Buffer.Write(p)
}

func (n *noisy) has(text string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Contains(n.String(), text)
}

// TestConnectionsLimit: a next hop that hangs keeps as many transactions as there may be connections in use. Further ones wait and get
// 451, or go to another target. When the hop answers again, all are served.
func TestConnectionsLimit(t *testing.T) {
	m, reg := newMetrics(t)
	wake := make(chan struct{})
	a := startHop(t, script{at: func(_ *fakeConn, stage string) bool {
		if strings.HasPrefix(stage, "dot ") {
			<-wake
		}
		return false
	}})
	b := startHop(t, script{})
	log := &noisy{}
	o := Options{Connections: 2, Timeouts: Timeouts{Connect: 100 * time.Millisecond}, Metrics: m, Log: slog.New(slog.NewTextHandler(log, nil))}
	ha := openHop(t, o, a.url)
	var hung sync.WaitGroup
	for _, id := range []string{"X1", "X2"} {
		hung.Go(func() {
			if err := send(ha, id, small); err != nil {
				t.Errorf("%s, which only had to wait: %v", id, err)
			}
		})
	}
	eventually(t, "both connections are in use", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.whole) == 2
	})
	wantError(t, send(ha, "X3", small), stageConnect, "451 4.4.5 The next mail server is busy, try again later")
	if met, inUse := limitsMet(t, reg); met["connections"] != 1 || inUse != 2 {
		t.Errorf("met %v, %v in use", met, inUse)
	}
	if !log.has("limit=connections value=2 hop=" + a.url) {
		t.Errorf("log: %s", log)
	}
	f := &Failover{Hops: []Hop{ha, openHop(t, Options{}, b.url)}}
	if err := send(f, "X4", small); err != nil {
		t.Errorf("with another target: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	tx, _ := ha.Begin(ctx, Envelope{From: path("<a@example.com>")})
	if err := tx.Rcpt(ctx, path("<b@example.net>"), nil); err == nil {
		t.Error("a client that has gone gets a connection")
	}
	tx.Abort()
	close(wake)
	hung.Wait()
	if err := send(ha, "X5", small); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if _, inUse := limitsMet(t, reg); inUse != 0 || len(ha.(*SMTP).slots) != 0 {
		t.Errorf("%v are still in use, %d slots", inUse, len(ha.(*SMTP).slots))
	}
}

// TestWaitsForConnection: a connection that becomes free in time is used, and the limit is never exceeded.
func TestWaitsForConnection(t *testing.T) {
	m, reg := newMetrics(t)
	hop := startHop(t, script{})
	h := openHop(t, Options{Connections: 3, Timeouts: Timeouts{Connect: long}, Metrics: m}, hop.url)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 5 {
				if err := send(h, "X1", small); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	conns, _, _, mails := hop.seen()
	if conns > 3 || len(mails) != 100 {
		t.Errorf("%d connections, %d messages", conns, len(mails))
	}
	if met, inUse := limitsMet(t, reg); met["connections"] == 0 || inUse != 0 {
		t.Errorf("met %v, %v in use", met, inUse)
	}
}

// TestEverySlotComesBack: after every outcome of a transaction in every stage, and after a panic, the slot is free again.
func TestEverySlotComesBack(t *testing.T) {
	for _, k := range killings {
		for _, how := range []string{closes, says421} {
			hop := startHop(t, script{tls: testCA().server("127.0.0.1"), at: func(c *fakeConn, stage string) bool { return strings.HasPrefix(stage, k.at) && c.die(how) }})
			h := openHop(t, Options{Login: "a", Password: "b", Dial: smallBuffer}, hop.url)
			send(h, "X1", k.size)
			send(h, "X2", k.size)
			if n := len(h.(*SMTP).slots); n != 0 {
				t.Errorf("%s at %s: %d slots are not free", how, k.at, n)
			}
		}
	}
	hop := startHop(t, script{})
	h := openHop(t, Options{}, hop.url)
	func() {
		defer func() { _ = recover() }()
		transferFrom(h, 10, func() io.Reader { return panicking{} }, "<a@example.com>", nil, "<b@example.net>")
		t.Error("nothing has panicked")
	}()
	if n := len(h.(*SMTP).slots); n != 0 {
		t.Errorf("after a panic: %d slots are not free", n)
	}
	if err := send(h, "X3", small); err != nil {
		t.Errorf("after a panic: %v", err)
	}
	if _, _, _, mails := hop.seen(); len(mails) != 1 {
		t.Errorf("%d messages", len(mails))
	}
}

type panicking struct{}

func (panicking) Read([]byte) (int, error) { panic("no message") }

// TestTimeouts: a next hop that is slow at each step, with the time limit, the reply and the log. Another transaction at another hop
// is not delayed.
func TestTimeouts(t *testing.T) {
	const short = 300 * time.Millisecond // a TLS handshake has to fit, on a busy machine too
	patient := Timeouts{Connect: long, Greeting: long, Command: long, Block: long, Final: long}
	for _, tc := range []struct {
		limit, at string
		set       func(*Timeouts)
		stage     string
		reply     string
		size      int
		uncertain bool
	}{
		{"greeting", "connect", func(o *Timeouts) { o.Greeting = short }, stageConnect, "451 4.4.1 The next mail server cannot be reached, try again later", small, false},
		{"command", "EHLO", func(o *Timeouts) { o.Command = short }, stageConnect, "451 4.4.1 The next mail server cannot be reached, try again later", small, false},
		{"command", "tls", func(o *Timeouts) { o.Command = short }, stageConnect, "451 4.4.1 The next mail server cannot be reached, try again later", small, false},
		{"command", "MAIL", func(o *Timeouts) { o.Command = short }, stageMail, "451 4.4.2 The connection to the next mail server broke, try again later", small, false},
		{"command", "RCPT", func(o *Timeouts) { o.Command = short }, stageRcpt, "451 4.4.2 The connection to the next mail server broke, try again later", small, false},
		{"command", "DATA", func(o *Timeouts) { o.Command = short }, stageData, "451 4.4.2 The connection to the next mail server broke, try again later", small, false},
		{"block", "354", func(o *Timeouts) { o.Block, o.Command = short, 2*short }, stageData, "451 4.4.2 The connection to the next mail server broke, try again later", large, false},
		{"final", "dot", func(o *Timeouts) { o.Final = short }, stageEnd, "451 4.4.2 The next mail server did not confirm the message, try again later", small, true},
	} {
		t.Run(tc.limit+" "+tc.at, func(t *testing.T) {
			m, reg := newMetrics(t)
			log := &noisy{}
			hop := startHop(t, script{tls: testCA().server("127.0.0.1"), at: func(c *fakeConn, stage string) bool { return strings.HasPrefix(stage, tc.at) && c.die(hangs) }})
			o := Options{Timeouts: patient, Metrics: m, Dial: smallBuffer, Log: slog.New(slog.NewTextHandler(log, nil))}
			tc.set(&o.Timeouts)
			began := time.Now()
			e := failure(t, send(openHop(t, o, hop.url), "X1", tc.size))
			if e.Stage != tc.stage || e.Reply.String() != tc.reply || e.Uncertain != tc.uncertain || time.Since(began) > long {
				t.Errorf("got %q at %s (uncertain: %v, cause: %v) after %v", e.Reply, e.Stage, e.Uncertain, e.Cause, time.Since(began))
			}
			met, inUse := limitsMet(t, reg)
			if met[tc.limit] == 0 || inUse != 0 || !log.has("limit="+tc.limit+" value="+short.String()+" hop="+hop.url) {
				t.Errorf("met %v, %v in use, log %s", met, inUse, log)
			}
			if err := send(openHop(t, Options{}, startHop(t, script{}).url), "X2", small); err != nil {
				t.Errorf("another hop: %v", err)
			}
		})
	}
}

// TestConnectTimeout: a next hop that does not answer at all.
func TestConnectTimeout(t *testing.T) {
	m, reg := newMetrics(t)
	h := openHop(t, Options{Timeouts: Timeouts{Connect: 50 * time.Millisecond}, Metrics: m, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}, "smtp://192.0.2.1")
	wantError(t, send(h, "X1", small), stageConnect, "451 4.4.1 The next mail server cannot be reached, try again later")
	if met, _ := limitsMet(t, reg); met["connect"] != 1 {
		t.Errorf("met %v", met)
	}
}
