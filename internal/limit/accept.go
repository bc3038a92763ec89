package limit

import (
	"errors"
	"log/slog"
	"net"
	"syscall"
	"time"
)

// Descriptors names the limit of open files and sockets that the operating system sets for a process.
const Descriptors = "file_descriptors"

// Accepter accepts connections from a Listener. On a temporary error, such as a shortage of file descriptors or memory, it
// waits and tries again, longer each time up to a second. Open connections go on meanwhile, and new clients wait. The start
// of a shortage is logged at most once a minute, and so is its end. An Accepter is for one goroutine.
type Accepter struct {
	net.Listener
	Stop     <-chan struct{} // ends a wait
	Reporter *Reporter
	Log      *slog.Logger

	logged time.Time // when a shortage was last logged
	short  time.Time // start of the logged shortage; zero: there is none
}

// Accept returns the next connection. The error is net.ErrClosed if Stop ended a wait, and otherwise the Listener's.
func (a *Accepter) Accept() (net.Conn, error) {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		conn, err := a.Listener.Accept()
		switch {
		case err == nil:
			a.recovered()
			return conn, nil
		case isShortage(err):
			a.shortage(err)
		case !isTemporary(err):
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
	if !a.logged.IsZero() && now.Sub(a.logged) < time.Minute {
		return
	}
	a.logged = now
	if a.short.IsZero() {
		a.short = now
	}
	a.Log.Error("no connection can be accepted; trying again until one can", "error", err, "since", a.short)
}

func (a *Accepter) recovered() {
	if !a.short.IsZero() {
		a.Log.Info("connections are accepted again", "after", time.Since(a.short).Round(time.Millisecond))
		a.short = time.Time{}
	}
}

// isTemporary reports whether one connection failed and the listener still works (accept(2)).
func isTemporary(err error) bool {
	for _, e := range []error{syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EINTR, syscall.EPROTO, syscall.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func isShortage(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
