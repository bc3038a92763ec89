package smtpd

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// jumping is a clock that jumps by hours, to before 1970 and beyond 2100, each time it is read.
func jumping(s *Server, _ *Listener) {
	var n atomic.Int64
	jumps := []time.Duration{0, 6 * time.Hour, -6 * time.Hour, -60 * 365 * 24 * time.Hour, 90 * 365 * 24 * time.Hour, time.Nanosecond}
	began := time.Now()
	s.Clock = func() time.Time { return began.Add(jumps[n.Add(1)%int64(len(jumps))]) }
}

// TestClockJumps: messages are accepted, and their ids differ.
func TestClockJumps(t *testing.T) {
	s := start(t, jumping)
	c := s.talk(hello)
	for range 20 {
		c.talk(envelope + message1)
	}
	ids := map[string]bool{}
	for _, m := range s.hop.got() {
		ids[m.env.ID] = true
		if _, err := message.ParseHeader(m.body[:strings.Index(string(m.body), "\r\n\r\n")+4], message.Limits{}); err != nil {
			t.Errorf("%v in %q", err, m.body)
		}
	}
	if len(ids) != 20 {
		t.Errorf("%d ids of 20 messages", len(ids))
	}
}

// TestClockJumpsAndTimeouts: jumps do not change time-outs.
func TestClockJumpsAndTimeouts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := startPipe(t, jumping)
		for _, script := range []string{hello, hello + envelope, hello + envelope + "C: DATA\nS: 354\nC: half"} {
			c := s.talk(script)
			began, wait := time.Now(), s.Limits.Idle
			if strings.Contains(script, "DATA") {
				wait = s.Limits.Data
			}
			c.talk("S: 421 4.4.2\nEOF")
			if took := time.Since(began); took != wait {
				t.Errorf("it took %v, want %v", took, wait)
			}
		}
	})
}
