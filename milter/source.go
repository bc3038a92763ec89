package milter

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// source reads a socket for one connection. Each read has a deadline, and on Linux TCP each is preceded by TCP_QUICKACK:
// Postfix writes twice before it reads, and without it Nagle's algorithm waits 40 ms for our delayed acknowledgement.
type source struct {
	raw   net.Conn
	rearm func() // nil where there is nothing to re-arm
	// until bounds the reads of the frame that is under way.
	until time.Time
	// resting says that the MTA owes us nothing: no frame has begun and no transaction is open. Only then may drain end it.
	resting  bool
	draining atomic.Bool
}

// errDraining ends a resting connection at Shutdown.
var errDraining = errors.New("shutting down")

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	for {
		if err := s.raw.SetReadDeadline(s.until); err != nil {
			return 0, err
		}
		// After the deadline is set, not before: drain stores and then sets a past deadline, so that one of us sees the other.
		if s.resting && s.draining.Load() {
			return 0, errDraining
		}
		if s.rearm != nil {
			s.rearm()
		}
		n, err := s.raw.Read(p)
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && s.draining.Load() && time.Now().Before(s.until) {
			continue // drain woke us, and a transaction is still open
		}
		return n, err
	}
}

// drain lets an open transaction come to its end, and ends the connection then. It may be called from any goroutine.
func (s *source) drain() {
	s.draining.Store(true)
	_ = s.raw.SetReadDeadline(time.Unix(1, 0))
}
