package relay

import (
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// counted returns the metrics of reg with their labels except hop: "connections_total opened" and so on.
func counted(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		name := strings.TrimPrefix(f.GetName(), "postern_relay_")
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "result" {
					name = strings.TrimPrefix(f.GetName(), "postern_relay_") + " " + l.GetValue()
				}
			}
			got[name] += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return got
}

func newMetrics(t *testing.T) (*Metrics, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	m, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	return m, reg
}

// eventually waits for a condition that must come true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for began := time.Now(); time.Since(began) < long; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("still not: %s", what)
}

// TestReuse: how many connections a number of messages takes, one after the other.
func TestReuse(t *testing.T) {
	for _, tc := range []struct {
		name  string
		pool  Pool
		s     script
		conns int
	}{
		{"kept", Pool{}, script{}, 1},
		{"kept under TLS", Pool{}, script{tls: testCA().server("127.0.0.1")}, 1},
		{"kept, LMTP on a unix socket", Pool{}, script{lmtp: true, unix: true}, 1},
		{"MaxUses", Pool{MaxUses: 2}, script{}, 3},
		{"none kept", Pool{MaxIdle: -1}, script{}, 5},
		{"the next hop closes after each", Pool{}, script{at: func(_ *fakeConn, stage string) bool { return stage == "answered" }}, 5},
		{"the next hop resets after each", Pool{}, script{at: func(c *fakeConn, stage string) bool {
			// On the second visit, so that the answer is not overtaken.
			return stage == "MAIL" && c.done == 1 && c.die(resets)
		}}, 5},
		{"the next hop says good-bye after each", Pool{}, script{at: func(c *fakeConn, stage string) bool { return stage == "answered" && c.die(says421) }}, 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, reg := newMetrics(t)
			hop := startHop(t, tc.s)
			h := openHop(t, Options{Pool: tc.pool, Metrics: m}, hop.url)
			for i := range 5 {
				if err := send(h, fmt.Sprintf("X%d", i), small); err != nil {
					t.Fatal(i, err)
				}
			}
			got := counted(t, reg)
			if conns, _, _, mails := hop.seen(); conns != tc.conns || len(mails) != 5 || got["connections_total opened"] != float64(tc.conns) {
				t.Errorf("%d connections, %d mails, counted %v", conns, len(mails), got)
			}
			if tc.conns == 1 && got["connections_total reused"] != 4 || got["transactions_total delivered"] != 5 || got["transaction_seconds"] != 5 {
				t.Errorf("counted %v", got)
			}
		})
	}
}

// TestReplacedOnce: a kept connection that is closed is replaced by a new one. If that fails too, the transaction fails. The other kept
// connections are closed.
func TestReplacedOnce(t *testing.T) {
	var dying atomic.Bool
	hop := startHop(t, script{at: func(_ *fakeConn, stage string) bool { return stage == "MAIL" && dying.Load() }})
	h := openHop(t, Options{}, hop.url)
	var txs []Tx
	for range 3 { // three at once make three connections
		tx, _ := h.Begin(t.Context(), Envelope{From: path("<>")})
		if err := tx.Rcpt(t.Context(), path("<b@example.net>"), nil); err != nil {
			t.Fatal(err)
		}
		txs = append(txs, tx)
	}
	for _, tx := range txs {
		tx.Abort()
		tx.Abort() // harmless
	}
	if n := idleConns(h); n != 3 {
		t.Fatalf("%d connections are kept", n)
	}
	dying.Store(true)
	wantError(t, send(h, "X1", small), stageMail, "451 4.4.2 The connection to the next mail server broke, try again later")
	if conns, _, _, _ := hop.seen(); conns != 4 || idleConns(h) != 0 {
		t.Errorf("%d connections, %d kept", conns, idleConns(h))
	}
	wantError(t, send(h, "X2", small), stageMail, "451 4.4.2 The connection to the next mail server broke, try again later")
	if conns, _, _, _ := hop.seen(); conns != 5 {
		t.Errorf("a new connection that died was replaced: %d connections", conns)
	}
}

// TestAfterwards: whether a connection is used again after a transaction that did not end with a 250, and what puts it in order.
func TestAfterwards(t *testing.T) {
	type say = map[string]string
	for _, tc := range []struct {
		name  string
		say   say
		abort bool
		kept  bool
		rset  bool
	}{
		{"MAIL refused", say{"MAIL": "550 5.7.1 No\r\n"}, false, true, false},
		{"MAIL refused, but not RCPT", say{"MAIL": "550 5.7.1 No\r\n", "RCPT": "250 Ok\r\n"}, false, false, false},
		{"RCPT refused", say{"RCPT": "550 5.1.1 No\r\n"}, true, true, true},
		{"DATA refused", say{"DATA": "554 5.5.1 No\r\n"}, false, true, true},
		{"DATA answered with 250", say{"DATA": "250 Ok\r\n"}, false, false, false},
		{"message refused", say{"dot": "554 5.6.0 No\r\n"}, false, true, false},
		{"abandoned", nil, true, true, true},
		{"abandoned, RSET refused", say{"RSET": "500 5.5.1 What?\r\n"}, true, false, true},
		{"abandoned, RSET answered by nonsense", say{"RSET": "what\r\n"}, true, false, true},
		{"two answers to one command", say{"RCPT": "250 Ok\r\n250 Ok\r\n"}, false, false, false},
		{"two answers to the message", say{"dot": "250 Ok\r\n250 And once more Ok\r\n"}, false, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			hop := startHop(t, script{say: tc.say})
			h := openHop(t, Options{}, hop.url)
			tx, _ := h.Begin(t.Context(), Envelope{From: path("<>")})
			err := tx.Rcpt(t.Context(), path("<b@example.net>"), nil)
			if tc.abort {
				tx.Abort()
			} else if err == nil {
				_, _ = tx.Data(t.Context(), -1, func() io.Reader { return strings.NewReader(plainText) })
			}
			if kept := idleConns(h) == 1; kept != tc.kept || hop.said("RSET") != tc.rset {
				t.Errorf("kept: %v, RSET: %v", kept, hop.said("RSET"))
			}
			hop.note(func() { hop.say = nil })
			if err := send(h, "X9", small); err != nil {
				t.Errorf("the next message: %v", err)
			}
		})
	}
}

// TestIdle: kept connections end with QUIT when they have been idle for long, when there are too many, and at Close.
func TestIdle(t *testing.T) {
	hop := startHop(t, script{})
	quits := func() (n int) {
		_, lines, _, _ := hop.seen()
		for _, l := range lines {
			if l == "QUIT" {
				n++
			}
		}
		return n
	}
	h := openHop(t, Options{Pool: Pool{Idle: 30 * time.Millisecond}}, hop.url)
	if err := send(h, "X1", small); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the idle connection is closed", func() bool { return idleConns(h) == 0 && quits() == 1 })
	if err := send(h, "X2", small); err != nil {
		t.Error(err)
	}
	h = openHop(t, Options{Pool: Pool{MaxIdle: 2}}, hop.url)
	var txs []Tx
	for range 4 {
		tx, _ := h.Begin(t.Context(), Envelope{From: path("<>")})
		if err := tx.Rcpt(t.Context(), path("<b@example.net>"), nil); err != nil {
			t.Fatal(err)
		}
		txs = append(txs, tx)
	}
	for _, tx := range txs[:3] {
		tx.Abort()
	}
	if n := idleConns(h); n != 2 {
		t.Errorf("%d connections are kept", n)
	}
	_ = h.Close()
	_ = h.Close()
	// Open transactions go on and later ones work, but no connection is kept.
	if _, err := txs[3].Data(t.Context(), -1, func() io.Reader { return strings.NewReader(plainText) }); err != nil {
		t.Error(err)
	}
	if err := send(h, "X3", small); err != nil || idleConns(h) != 0 {
		t.Errorf("after Close: %v, %d kept", err, idleConns(h))
	}
	eventually(t, "each connection ended with QUIT", func() bool { return quits() >= 6 })
}

// TestConcurrent: many transactions at once over few kept connections; every message arrives once.
func TestConcurrent(t *testing.T) {
	hop := startHop(t, script{at: func(c *fakeConn, stage string) bool { return stage == "answered" && c.done == 5 }})
	h := openHop(t, Options{Pool: Pool{MaxIdle: 4, Idle: 5 * time.Millisecond}}, hop.url)
	got := repeat(500, func(id string) error { return send(h, id, small) })
	_ = h.Close()
	hop.stop()
	honest(t, got, hop)
	for id, err := range got {
		if err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}
