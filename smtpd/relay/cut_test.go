package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// TestCancelled: the end of a context ends the step in progress, and its cause is in the error. After the end of data the outcome
// is uncertain.
func TestCancelled(t *testing.T) {
	gone := errors.New("client gone")
	for stage, want := range map[string]string{"connect": stageConnect, "EHLO": stageConnect, "tls": stageConnect, "MAIL": stageMail, "RCPT 2": stageRcpt, "DATA": stageData, "dot X1": stageEnd} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			hop := startHop(t, script{tls: testCA().server("127.0.0.1"), at: func(c *fakeConn, at string) bool {
				if at != stage {
					return false
				}
				cancel(gone)
				return c.die(hangs)
			}})
			b := startHop(t, script{})
			f := openHop(t, Options{}, hop.url, b.url)
			tx, _ := f.Begin(ctx, Envelope{From: path("<>")})
			err := tx.Rcpt(ctx, path("<b@example.net>"), nil)
			if err == nil {
				err = tx.Rcpt(ctx, path("<c@example.net>"), nil)
			}
			if err == nil {
				_, err = tx.Data(ctx, -1, func() io.Reader { return strings.NewReader(letter("X1", small)) })
			}
			e := failure(t, err)
			if e.Stage != want || !errors.Is(err, gone) || e.Uncertain != (want == stageEnd) {
				t.Errorf("got %v at %s, uncertain: %v", err, e.Stage, e.Uncertain)
			}
			if conns, _, _, _ := b.seen(); conns != 0 || idleConns(f.(*Failover).Hops[0]) != 0 {
				t.Errorf("%d connections to the other next hop, %d kept", conns, idleConns(f.(*Failover).Hops[0]))
			}
		})
	}
}

// shortWrite fails in the write that holds the end of data, having sent some of it, or all.
type shortWrite struct {
	net.Conn
	less int
}

func (s shortWrite) Write(p []byte) (int, error) {
	if !strings.HasSuffix(string(p), "\r\n.\r\n") {
		return s.Conn.Write(p)
	}
	n, _ := s.Conn.Write(p[:len(p)-s.less])
	_ = s.Conn.Close()
	return n, errors.New("cable cut")
}

// TestShortWrite: if a write fails before the last octet of the end of data, the message was certainly not accepted, and another next
// hop may get it.
func TestShortWrite(t *testing.T) {
	for less, want := range map[int]int{0: uncertain, 1: delivered, 5: delivered, 100: delivered} {
		a, b := startHop(t, script{}), startHop(t, script{})
		ha := openHop(t, Options{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			return shortWrite{nc, less}, err
		}}, a.url)
		f := &Failover{Hops: []Hop{ha, openHop(t, Options{}, b.url)}}
		err := send(f, "X1", small)
		_ = f.Close()
		a.stop()
		b.stop()
		honest(t, map[string]error{"X1": err}, a, b)
		if out := outcome(err); out != want {
			t.Errorf("%d octets less: outcome %b, want %b: %v", less, out, want, err)
		}
	}
}
