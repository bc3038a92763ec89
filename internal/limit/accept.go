package limit

import (
	"errors"
	"log/slog"
	"net"
	"syscall"
	"time"
)

// Descriptors is the limit that a process meets which may open no more files and sockets.
const Descriptors = "file_descriptors"

// Accepter takes connections of a Listener. What passes, a shortage of file descriptors or of memory above all, is waited out,
// for longer each time up to a second: the connections that are open go on meanwhile, and the clients outside wait. The
// log says so when it begins, once a minute at most, and when it is over. One goroutine uses it.
type Accepter struct {
	net.Listener
	Stop     <-chan struct{} // ends a wait
	Reporter *Reporter
	Log      *slog.Logger

	said  time.Time // when the log told of a shortage
	short time.Time // since when there is one that the log has told of; zero: none
}

// Accept gives the next connection. Its error is net.ErrClosed where the waiting was stopped, and otherwise the Listener's.
func (a *Accepter) Accept() (net.Conn, error) {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		conn, err := a.Listener.Accept()
		switch {
		case err == nil:
			a.again()
			return conn, nil
		case shortage(err):
			a.shortage(err)
		case !passing(err):
			return nil, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-a.Stop:
			timer.Stop()
			return nil, net.ErrClosed
		case <-timer.C:
		}
	}
}

func (a *Accepter) shortage(err error) {
	if a.Reporter.Count != nil {
		a.Reporter.Count(Descriptors)
	}
	now := time.Now()
	if !a.said.IsZero() && now.Sub(a.said) < time.Minute {
		return
	}
	a.said = now
	if a.short.IsZero() {
		a.short = now
	}
	a.Log.Error("no connection can be accepted; trying again until one can", "error", err, "since", a.short)
}

func (a *Accepter) again() {
	if !a.short.IsZero() {
		a.Log.Info("connections are accepted again", "after", time.Since(a.short).Round(time.Millisecond))
		a.short = time.Time{}
	}
}

// passing says that it is the connection that failed, not the listener (accept(2)).
func passing(err error) bool {
	for _, e := range []error{syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EINTR, syscall.EPROTO, syscall.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func shortage(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
