package smtpd

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/testpipe"
)

// TestShutdown: idle connections get 421. A transaction under way is completed and then gets 421 too. go-smtp would let open
// sessions go on.
func TestShutdown(t *testing.T) {
	t.Parallel()
	s := start(t)
	fresh, idle, between := s.talk("S: 220"), s.talk(hello), s.talk(hello+envelope+message1)
	auth := s.talk(secure + "C: AUTH LOGIN\nS: 334")
	half := s.talk(hello)
	half.write("NOO")
	busy, chunks := s.talk(hello+envelope+"C: DATA\nS: 354"), s.talk(hello+envelope+"W: \"BDAT 14\\r\\n"+head+"\"\nS: 250")
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	go func() { done <- s.Shutdown(ctx) }()
	for _, c := range []*client{fresh, idle, between, auth, half} {
		c.talk("S: 421 4.3.2 The server is shutting down\nEOF")
		c.conn.Close()
	}
	busy.talk("W: \"x: y\\r\\n\\r\\nlast\\r\\n.\\r\\n\"\nS: 250 2.0.0 Ok: queued\nS: 421 4.3.2\nEOF")
	busy.conn.Close()
	chunks.talk("W: \"BDAT 0 LAST\\r\\n\"\nS: 250 2.0.0 Ok: queued\nS: 421 4.3.2\nEOF")
	chunks.conn.Close()
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	s.hop.want("one\r\n", "last\r\n", "")
	if err := s.Serve(context.Background(), Listener{Listener: testpipe.NewListener()}); err != ErrServerClosed {
		t.Errorf("Serve after Shutdown: %v", err)
	}
}

// TestShutdownCuts: when the time is over, Shutdown closes what is left: a client that sends no more, one in a handshake, and one
// that waits for a next hop.
func TestShutdownCuts(t *testing.T) {
	t.Parallel()
	waiting := make(chan struct{})
	s := start(t, hop(func(h *recorder) {
		h.data = func(ctx context.Context, _ *letter) (message.Reply, error) {
			close(waiting)
			<-ctx.Done()
			return message.Reply{}, ctx.Err()
		}
	}))
	stalled := s.talk(hello + envelope + "C: DATA\nS: 354\nC: x: y")
	handshake := s.talk(hello + "C: STARTTLS\nS: 220")
	waits := s.talk(hello + envelope + "C: DATA\nS: 354\nW: \"x: y\\r\\n\\r\\n.\\r\\n\"\n")
	<-waiting
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if took := time.Since(begin); took > patience/2 {
		t.Errorf("it took %v", took)
	}
	for _, c := range []*client{stalled, handshake, waits} {
		c.talk("EOF")
	}
	if n := len(s.table.all()); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	s.hop.want()
	s.hop.ended()
}

// TestShutdownLeavesNoGoroutine: the bubble panics if a goroutine is left.
func TestShutdownLeavesNoGoroutine(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := startPipe(t)
		for _, script := range []string{"S: 220", hello, hello + envelope, hello + envelope + "C: DATA\nS: 354", secure, secure + "C: AUTH LOGIN\nS: 334", hello + envelope + message1} {
			s.talk(script)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

// TestShutdownWhileConnecting: a connection that comes when Shutdown begins is either served to its end or not at all. For the
// race detector.
func TestShutdownWhileConnecting(t *testing.T) {
	t.Parallel()
	for range 20 {
		s := startPipe(t, func(s *Server, _ *Listener) { s.Log = nil })
		s.talk("S: 220").conn.Close()
		stop, gone := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(gone)
			for {
				select {
				case <-stop:
					return
				default:
				}
				conn, err := s.dial()
				if err != nil {
					return
				}
				conn.Close()
			}
		}()
		s.stop()
		if n := len(s.table.all()); n != 0 {
			t.Errorf("%d connections are left", n)
		}
		close(stop)
		<-gone
	}
}

// TestServeNeeds: a missing required field is an error of Serve.
func TestServeNeeds(t *testing.T) {
	t.Parallel()
	l := testpipe.NewListener()
	if err := (&Server{}).Serve(context.Background(), Listener{Listener: l}); err == nil || !strings.Contains(err.Error(), "Hostname") {
		t.Errorf("Serve: %v", err)
	}
	s := &Server{Hostname: "x", Relay: &recorder{t: t}}
	if err := s.Serve(context.Background(), Listener{Listener: l, TLS: true}); err == nil {
		t.Error("a server with nothing starts")
	}
}

// TestServeEnds: Serve ends with its context, and with its listener.
func TestServeEnds(t *testing.T) {
	t.Parallel()
	s := startPipe(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Serve(ctx, Listener{Listener: testpipe.NewListener()}); !errors.Is(err, context.Canceled) {
		t.Errorf("Serve: %v", err)
	}
	l := testpipe.NewListener()
	l.Close()
	if err := s.Serve(context.Background(), Listener{Listener: l}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
	s.talk(hello + quit) // the others go on
}
