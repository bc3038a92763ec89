package milter

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testmilter"
)

// readsAll is a policy that reads header and body.
const readsAll = `note contains "read" if { input.message.header.subject; contains(input.message.body.text, "x") }`

// TestLimitsAreMet: the reply to a message that exceeds a limit, and what is counted and logged. Another connection goes on, and
// nothing is held afterwards.
func TestLimitsAreMet(t *testing.T) {
	body := strings.Repeat(strings.Repeat("x", 98)+"\n", 50)
	for _, tc := range []struct {
		limit, value string
		set          func(*Limits)
		eml, want    string
	}{
		{"header_bytes", "100", func(l *Limits) { l.HeaderBytes = 100 }, "Subject: " + strings.Repeat("x", 100) + "\n\n", "552 5.3.4 Message header is too large"},
		{"header_fields", "3", func(l *Limits) { l.HeaderFields = 3 }, "A: b\nB: c\nC: d\nSubject: e\n\n", "552 5.3.4 Message header is too large"},
		{"memory", "300", func(l *Limits) { l.Memory = 300 }, "Subject: " + strings.Repeat("x", 300) + "\n\n", "452 4.3.1 Insufficient system storage, try again later"},
		{"disk", "1000", func(l *Limits) { l.Memory, l.Disk = 300, 1000 }, "Subject: x\n\n" + body, "452 4.3.1 Insufficient system storage, try again later"},
	} {
		t.Run(tc.limit, func(t *testing.T) {
			r := serve(t, rego(t, "1", map[string]string{"message": readsAll}), func(s *Server, _ *ListenerConfig) { tc.set(&s.Limits) })
			m := r.dial(t, testmilter.Options{})
			greet(t, m)
			for range 2 { // the second on the same connection
				res, err := oneMessage(t, m, tc.eml)
				if err != nil {
					t.Fatal(err)
				}
				refused(t, res.Answer, err, tc.want)
			}
			if n := r.gauge(t, "postern_milter_limit_hits_total", "limit", tc.limit); n != 2 {
				t.Errorf("it was met %v times", n)
			}
			if log := r.logs.String(); !strings.Contains(log, fmt.Sprintf(`msg="limit met" listener=test daemon=smtpd limit=%s value=%s`, tc.limit, tc.value)) {
				t.Error("the log does not say so")
			}
			other := r.dial(t, testmilter.Options{})
			greet(t, other)
			res, err := oneMessage(t, other, "Subject: x\n\nHello\n")
			accepted(t, res, err)
			r.nothingHeld(t)
		})
	}
}

func oneMessage(t *testing.T, m *testmilter.MTA, text string) (*testmilter.Result, error) {
	t.Helper()
	go1(t)(m.Mail("<a@example.com>"))
	go1(t)(m.Rcpt("<b@example.net>"))
	return m.Message("<a@example.com>", []string{"<b@example.net>"}, eml(text))
}

func (r *rig) nothingHeld(t *testing.T) {
	t.Helper()
	for _, name := range []string{"memory", "disk"} {
		held := func() float64 { return r.gauge(t, "postern_milter_spool_"+name+"_bytes") }
		for range 1000 { // the answer is sent before the memory is released
			if held() == 0 {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		if n := held(); n != 0 {
			t.Errorf("%s: %v octets are held", name, n)
		}
	}
}

// TestRecipientsLimit: further recipients are answered 452, and this is counted.
func TestRecipientsLimit(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"rcpt": "note contains 1"}), func(s *Server, _ *ListenerConfig) { s.Limits.Recipients = 1 })
	m := r.dial(t, testmilter.Options{})
	greet(t, m)
	go1(t)(m.Mail("<a@example.com>"))
	go1(t)(m.Rcpt("<b@example.net>"))
	a, err := m.Rcpt("<c@example.net>")
	refused(t, a, err, "452 4.5.3 Too many recipients")
	if n := r.gauge(t, "postern_milter_limit_hits_total", "limit", "recipients"); n != 1 {
		t.Errorf("it was met %v times", n)
	}
}

// TestConnectionsLimit: a connection beyond the limit waits until another has ended and is served then. This is counted.
func TestConnectionsLimit(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"mail": "note contains 1"}), func(s *Server, _ *ListenerConfig) { s.Limits.Connections = 1 })
	first := r.dial(t, testmilter.Options{})
	greet(t, first)
	served := make(chan error, 1)
	go func() {
		m, err := testmilter.Dial("tcp", r.addr, testmilter.Options{})
		if err == nil {
			_, err = m.Helo("x")
			m.Close()
		}
		served <- err
	}()
	select {
	case err := <-served:
		t.Fatalf("the second is served while the first is there: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	go1(t)(first.Mail("<a@example.com>"))
	if n := r.gauge(t, "postern_milter_limit_hits_total", "limit", "connections"); n < 1 {
		t.Errorf("it was met %v times", n)
	}
	first.Quit()
	if err := <-served; err != nil {
		t.Errorf("the second: %v", err)
	}
}

// TestSilenceIsCounted: silence between commands and within a frame are counted by their limits.
func TestSilenceIsCounted(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"mail": "note contains 1"}), func(s *Server, _ *ListenerConfig) {
		s.Limits.Idle, s.Limits.Frame = 300*time.Millisecond, 100*time.Millisecond
	})
	idle, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	half, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	half.Write([]byte{0, 0, 0})
	hungUp(t, half)
	hungUp(t, idle)
	for _, name := range []string{"idle", "frame"} {
		if n := r.gauge(t, "postern_milter_limit_hits_total", "limit", name); n != 1 {
			t.Errorf("%s was met %v times", name, n)
		}
	}
}

// TestNothingIsHeld: after mail servers disconnect in the middle of messages, no memory or disk is held.
func TestNothingIsHeld(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"message": readsAll}), func(s *Server, _ *ListenerConfig) { s.Limits.Memory = 64 << 10 })
	big := bytes.Repeat([]byte("x"), 40<<10)
	for n := range 30 {
		m := r.dial(t, testmilter.Options{})
		greet(t, m)
		go1(t)(m.Mail("<a@example.com>"))
		go1(t)(m.Rcpt("<b@example.net>"))
		m.Command('L', []byte("Subject\x00x\x00"))
		m.Command('N', nil)
		m.Command('B', big)
		if n%3 == 1 {
			m.Abort()
			greet(t, m)
		}
		if n%3 == 2 {
			m.Quit()
		}
		m.Close()
	}
	for range 1000 {
		if r.gauge(t, "postern_milter_connections") == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	r.nothingHeld(t)
}
