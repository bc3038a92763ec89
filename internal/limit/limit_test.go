package limit

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestReporter: every hit is counted, and each limit has one log line a second, with the number of lines left out.
func TestReporter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		count := map[string]int{}
		r := &Reporter{Count: func(limit string) { count[limit]++ }}
		for range 3 {
			for range 10 {
				r.Met(log, "errors", 20, "client", "192.0.2.1")
			}
			r.Met(log, "recipients", 100)
			time.Sleep(time.Second)
		}
		if count["errors"] != 30 || count["recipients"] != 3 {
			t.Errorf("counted %v", count)
		}
		if text := out.String(); strings.Count(text, "limit=errors value=20 client=192.0.2.1") != 3 || strings.Count(text, "unsaid=9") != 2 || strings.Count(text, "limit=recipients") != 3 {
			t.Errorf("log:\n%s", text)
		}
	})
}

// listener fails with each of errs in turn, and then returns a connection.
type listener struct {
	net.Listener
	errs []error
}

func (l *listener) Accept() (net.Conn, error) {
	if len(l.errs) == 0 {
		return &net.TCPConn{}, nil
	}
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
}

// TestAccept: a shortage is waited out, and logged when it begins, once a minute while it lasts, and when it ends.
func TestAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		met := 0
		r := &Reporter{Count: func(string) { met++ }}
		l := &listener{}
		for range 100 {
			l.errs = append(l.errs, syscall.EMFILE)
		}
		l.errs = append(l.errs, syscall.ECONNABORTED)
		began := time.Now()
		a := &Accepter{Listener: l, Reporter: r, Log: log}
		if _, err := a.Accept(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 90*time.Second || took > 101*time.Second {
			t.Errorf("a hundred tries took %v", took)
		}
		for range 100 { // one connection, one shortage, and so on: no more lines
			l.errs = []error{syscall.EMFILE}
			if _, err := a.Accept(); err != nil {
				t.Fatal(err)
			}
		}
		if text := out.String(); met != 200 || strings.Count(text, "no connection can be accepted") != 2 || strings.Count(text, "accepted again") != 1 {
			t.Errorf("counted %d, log:\n%s", met, text)
		}
	})
}

// TestAcceptEnds: Accept returns when the listener itself fails, and when Stop is closed.
func TestAcceptEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		if _, err := (&Accepter{Listener: &listener{errs: []error{syscall.EBADF}}, Reporter: &Reporter{}, Log: log}).Accept(); !errors.Is(err, syscall.EBADF) {
			t.Errorf("%v", err)
		}
		l := &listener{}
		for range 1000 {
			l.errs = append(l.errs, syscall.ENFILE)
		}
		stop := make(chan struct{})
		time.AfterFunc(10*time.Second, func() { close(stop) })
		if _, err := (&Accepter{Listener: l, Stop: stop, Reporter: &Reporter{}, Log: log}).Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v", err)
		}
	})
}
