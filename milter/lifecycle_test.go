package milter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/testmilter"
)

const stamp = `edit contains {"op": "add_header", "name": "X-Id", "value": input.envelope.from.local}
edit contains {"op": "insert_header", "name": "X-Top", "value": "1", "index": 0}
edit contains {"op": "replace_header", "name": "Subject", "value": "two"}`

// deliver sends one message and checks that it came back edited for its own sender.
func deliver(m *testmilter.MTA, sender string) error {
	if a, err := m.Mail("<" + sender + "@example.com>"); err != nil || a.Refused() {
		return fmt.Errorf("MAIL %q: %w", a.Text, err)
	}
	if a, err := m.Rcpt("<bob@example.net>"); err != nil || a.Refused() {
		return fmt.Errorf("RCPT %q: %w", a.Text, err)
	}
	r, err := m.Message("", nil, eml(simple))
	if err != nil {
		return err
	}
	want := eml("X-Top: 1\nFrom: alice@example.com\nTo: bob@example.net\nSubject: two\nX-Id: " + sender + "\n\nHello.\n")
	if r.Answer.Refused() || !bytes.Equal(r.Bytes(), want) {
		return fmt.Errorf("answer %q %q, message %q", r.Answer.Code, r.Answer.Text, r.Bytes())
	}
	return nil
}

func TestFiveHundredConnections(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"message": stamp}), func(s *Server, _ *ListenerConfig) { s.Log = nil })
	var open, done sync.WaitGroup
	open.Add(500)
	errs := make(chan error, 500)
	for i := range 500 {
		done.Go(func() {
			m, err := testmilter.Dial("tcp", r.addr, testmilter.Options{Timeout: time.Minute})
			if err == nil {
				defer m.Close()
				_, err = m.Connect("c", '4', uint16(1000+i), "192.0.2.1")
			}
			open.Done()
			open.Wait() // all are open at once
			for n := 0; n < 3 && err == nil; n++ {
				err = deliver(m, fmt.Sprintf("u%d-%d", i, n))
			}
			if err == nil {
				err = m.Quit()
			}
			errs <- err
		})
	}
	done.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestConnectionLimitWaits(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"message": stamp}), func(s *Server, _ *ListenerConfig) { s.Limits.Connections = 1 })
	first := r.dial(t, testmilter.Options{})
	second := make(chan error, 1)
	go func() {
		m, err := testmilter.Dial("tcp", r.addr, testmilter.Options{Timeout: 30 * time.Second})
		if err == nil {
			err = m.Close()
		}
		second <- err
	}()
	select {
	case err := <-second:
		t.Fatalf("a second connection was served at a limit of one: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	_ = first.Quit()
	if err := <-second; err != nil {
		t.Fatal(err)
	}
}

func TestShutdownFinishesTransactions(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"mail": "note contains 1", "message": stamp}), nil) // so that MAIL has an answer
	idle, busy := r.dial(t, testmilter.Options{}), r.dial(t, testmilter.Options{})
	greet(t, idle)
	greet(t, busy)
	go1(t)(busy.Mail("<a@example.com>"))
	go1(t)(busy.Rcpt("<bob@example.net>"))
	down := make(chan error, 1)
	go func() { down <- r.Shutdown(context.Background()) }()
	if _, _, err := idle.Receive(); err == nil {
		t.Error("an idle connection was kept")
	}
	if _, err := net.Dial("tcp", r.addr); err == nil {
		t.Error("still listening")
	}
	res, err := busy.Message("", nil, eml(simple))
	accepted(t, res, err)
	if _, _, err := busy.Receive(); err == nil {
		t.Error("the connection was kept after its transaction")
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := r.Serve(context.Background(), &net.TCPListener{}, ListenerConfig{Name: "late"}); !errors.Is(err, ErrClosed) {
		t.Errorf("Serve after Shutdown: %v", err)
	}
}

// TestShutdownAfterRefusedSender: a mail server whose client stays connected after a refused MAIL does not delay Shutdown.
func TestShutdownAfterRefusedSender(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"mail": `reject contains "no"`}), nil)
	m := r.dial(t, testmilter.Options{})
	greet(t, m)
	if res, err := m.Mail("<a@example.com>"); err != nil || res.Code != 'y' {
		t.Fatalf("MAIL was answered %+v, %v", res, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

func TestShutdownCutsWhatDoesNotEnd(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"mail": "note contains 1", "message": stamp}), nil)
	m := r.dial(t, testmilter.Options{})
	greet(t, m)
	go1(t)(m.Mail("<a@example.com>"))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := r.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if r.gauge(t, "postern_milter_connections") != 0 {
		t.Error("a connection is still open")
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	eng := &engine.Engine{}
	s := &Server{Engine: eng}
	ln, err := Listen("tcp:127.0.0.1:0", 0, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln, ListenerConfig{}) }()
	m, err := testmilter.Dial("tcp", ln.Addr().String(), testmilter.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, _, err := m.Receive(); err == nil {
		t.Error("a connection outlived Serve")
	}
}

func TestSlowPeers(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"message": stamp}), func(s *Server, _ *ListenerConfig) {
		s.Limits.Idle, s.Limits.Frame = 300*time.Millisecond, 300*time.Millisecond
	})
	for name, text := range map[string]string{"silent": "", "silent after negotiation": testmilter.Offer(), "half a frame": testmilter.Offer() + "\x00\x00\x00\x20M<a@",
		"announces much": testmilter.Offer() + "\x00\x0f\xff\xffB"} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, _ = c.Write([]byte(text))
			hungUp(t, c)
		})
	}
	// One octet at a time is slow, but it is not silence.
	r.resolvedFrame(t)
}

// resolvedFrame sends a whole message octet by octet.
func (r *rig) resolvedFrame(t *testing.T) {
	t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text := testmilter.Offer() + testmilter.Frame('C', testmilter.GoodConnect) + testmilter.Frame('M', testmilter.GoodMail) + testmilter.Frame('R', "<b@example.net>\x00") + testmilter.Frame('N', "") + testmilter.Frame('E', "") + testmilter.Frame('Q', "")
	for i := range len(text) {
		if _, err := c.Write([]byte{text[i]}); err != nil {
			t.Fatalf("octet %d: %v", i, err)
		}
	}
	if out := hungUp(t, c); !bytes.HasSuffix(out, []byte(testmilter.Frame('c', ""))) {
		t.Errorf("answered %q", out)
	}
}

func TestManyCommands(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"mail": "note contains input", "message": stamp}), nil)
	for _, o := range []testmilter.Options{{}, {NoProtocol: true}} {
		m := r.dial(t, o)
		greet(t, m)
		go1(t)(m.Command('U', []byte("XFOO\x00")))
		if err := deliver(m, "one"); err != nil {
			t.Fatal(err)
		}
		go1(t)(m.Mail("<x@example.com>"))
		go1(t)(m.Command('U', []byte("XBAR\x00")))
		go1(t)(m.Helo("again.example.net")) // EHLO in a transaction ends it
		if err := deliver(m, "two"); err != nil {
			t.Fatal(err)
		}
		// The next client on the same socket gets no facts of the one before.
		m.Macros('C', "v", "Postfix 3.7.11")
		if err := m.Send('K', nil); err != nil {
			t.Fatal(err)
		}
		go1(t)(m.Connect("[IPv6:2001:db8::1]", '6', 50000, "IPv6:2001:db8::1"))
		if err := deliver(m, "three"); err != nil {
			t.Fatal(err)
		}
		in := r.records.last(t, engine.StageMail).input
		if dig(in, "client", "ip") != "2001:db8::1" || dig(in, "client", "ehlo") != nil || dig(in, "client", "name") != nil {
			t.Errorf("client %v", in["client"])
		}
		if err := m.Quit(); err != nil {
			t.Fatal(err)
		}
	}
}

// A mail server that dies while its message is edited: nothing is kept, and the next connection is served.
func TestMTAVanishes(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"message": stamp}), nil)
	for cut := range 40 {
		m := r.dial(t, testmilter.Options{})
		greet(t, m)
		go1(t)(m.Mail("<a@example.com>"))
		go1(t)(m.Rcpt("<bob@example.net>"))
		text := testmilter.Frame('L', "Subject\x00 one\x00") + testmilter.Frame('N', "") + testmilter.Frame('E', "")
		_ = m.SendRaw([]byte(text[:min(len(text), cut)]))
		_ = m.Close()
	}
	m := r.dial(t, testmilter.Options{})
	greet(t, m)
	if err := deliver(m, "next"); err != nil {
		t.Fatal(err)
	}
	_ = m.Quit()
	for range 500 {
		if r.gauge(t, "postern_milter_connections") == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("connections of dead servers are still open")
}

// panicky panics for one sender, or in the middle of a message's edits.
type panicky struct{ engine.Recorder }

func (p panicky) Record(ctx context.Context, r engine.Record) error {
	if f := r.Transaction.Envelope; f != nil && f.From.Local == "panic" && r.Decision.Stage == engine.StageMessage || f != nil && f.From.Local == "panicmail" {
		panic("recorder of doom")
	}
	return p.Recorder.Record(ctx, r)
}

// TestPanic: a panic while a message is decided is answered with 421 and without edits. Open and later connections are served. The
// stack is in the log.
func TestPanic(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"mail": "note contains input.id", "message": stamp}), func(s *Server, _ *ListenerConfig) {
		s.Engine.Recorder = panicky{s.Engine.Recorder}
	})
	other := r.dial(t, testmilter.Options{})
	greet(t, other)
	go1(t)(other.Mail("<a@example.com>"))
	go1(t)(other.Rcpt("<bob@example.net>"))
	m := r.dial(t, testmilter.Options{})
	greet(t, m)
	a, err := m.Mail("<panicmail@example.com>")
	refused(t, a, err, "421 4.3.0 Temporary failure, try again later")
	m = r.dial(t, testmilter.Options{})
	greet(t, m)
	go1(t)(m.Mail("<panic@example.com>"))
	go1(t)(m.Rcpt("<bob@example.net>"))
	res, err := m.Message("", nil, eml(simple))
	refused(t, res.Answer, err, "421 4.3.0 Temporary failure, try again later")
	if len(res.Operations) != 0 {
		t.Errorf("edits of a message that was not decided: %v", res.Operations)
	}
	if log := r.logs.String(); strings.Count(log, "panic in a milter handler") != 2 || !strings.Contains(log, "recorder of doom") || !strings.Contains(log, "lifecycle_test.go") {
		t.Errorf("logged:\n%s", log)
	}
	res, err = other.Message("", nil, eml(simple))
	accepted(t, res, err)
	m = r.dial(t, testmilter.Options{})
	greet(t, m)
	if err := deliver(m, "next"); err != nil {
		t.Error(err)
	}
}

func TestMissingActions(t *testing.T) {
	p := rego(t, "1", map[string]string{"message": `edit contains {"op": "remove_header", "name": "Subject"} if input.message.header.subject[0] == "one"
quarantine contains "held" if input.message.header.subject[0] == "hold"`})
	for _, f := range []struct {
		verdict engine.Verdict
		want    string
	}{{engine.Defer, "421 4.3.0 Temporary failure, try again later"}, {engine.Reject, "554 5.3.0 Transaction failed"}, {engine.Accept, ""}} {
		r := serve(t, p, func(_ *Server, c *ListenerConfig) { c.Failure = f.verdict })
		m := r.dial(t, testmilter.Options{Actions: testmilter.ActAddHeader | testmilter.ActQuarantine})
		if r.gauge(t, "postern_milter_missing_actions", "operation", "remove_header") != 1 || r.gauge(t, "postern_milter_missing_actions", "operation", "quarantine") != 0 {
			t.Error("the metric does not name remove_header alone")
		}
		if !strings.Contains(r.logs.String(), "remove_header") {
			t.Error("nothing was logged at negotiation")
		}
		greet(t, m)
		send := func(subject string) *testmilter.Result {
			go1(t)(m.Mail("<a@example.com>"))
			go1(t)(m.Rcpt("<b@example.net>"))
			res, err := m.Message("", nil, eml("Subject: "+subject+"\n\nx\n"))
			if err != nil {
				t.Fatal(err)
			}
			return res
		}
		if res := send("one"); res.Answer.Text != f.want || len(res.Operations) != 0 {
			t.Errorf("answer %q, operations %v; want %q and none", res.Answer.Text, res.Operations, f.want)
		}
		if rec := r.records.last(t, engine.StageMessage); rec.decision.Verdict != f.verdict || rec.decision.Err == nil || rec.decision.Reasons[0].Rule != "error.missing-action" {
			t.Errorf("recorded %+v", rec.decision)
		}
		if res := send("other"); res.Answer.Refused() {
			t.Errorf("a message that needs no such operation: %q", res.Answer.Text)
		}
		if res := send("hold"); res.Answer.Refused() || res.Quarantine != "held" {
			t.Errorf("quarantine: %q, %q", res.Answer.Text, res.Quarantine)
		}
		// The next connection may allow it.
		r.dial(t, testmilter.Options{})
		if r.gauge(t, "postern_milter_missing_actions", "operation", "remove_header") != 0 {
			t.Error("the metric stays after a server that allows all")
		}
	}
}

// What was negotiated holds for the connection. If a newer policy needs more, the decision is the failure verdict.
func TestReloadNeedsMore(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"mail": "note contains 1", "message": "note contains input.envelope"}), nil)
	m := r.dial(t, testmilter.Options{})
	if m.Protocol&testmilter.NoBody == 0 {
		t.Error("the body was asked for")
	}
	greet(t, m)
	go1(t)(m.Mail("<a@example.com>"))
	r.Engine.Swap(rego(t, "2", map[string]string{"message": `reject contains "bad" if contains(input.message.body.text, "Hello")`}))
	go1(t)(m.Rcpt("<b@example.net>"))
	res, err := m.Message("", nil, eml(simple))
	accepted(t, res, err)
	if rec := r.records.last(t, engine.StageMessage); rec.revision != "1" {
		t.Errorf("decided by %q; a transaction is pinned to the snapshot of its MAIL", rec.revision)
	}
	go1(t)(m.Mail("<a@example.com>"))
	go1(t)(m.Rcpt("<b@example.net>"))
	res, err = m.Message("", nil, eml(simple))
	refused(t, res.Answer, err, "421 4.3.0 Temporary failure, try again later")
	m = r.dial(t, testmilter.Options{})
	greet(t, m)
	go1(t)(m.Mail("<a@example.com>"))
	go1(t)(m.Rcpt("<b@example.net>"))
	res, err = m.Message("", nil, eml(simple))
	refused(t, res.Answer, err, "550 5.7.1 bad")

	// A refusal at a stage without an answer is given at the next stage that has one.
	r.Engine.Swap(rego(t, "3", map[string]string{"message": "note contains input.envelope"}))
	m = r.dial(t, testmilter.Options{})
	greet(t, m)
	for stage, text := range map[string]string{"mail": `reject contains "at mail"`, "rcpt": `reject contains "at rcpt" if input.recipient.local == "b2"`} {
		r.Engine.Swap(rego(t, "4", map[string]string{stage: text}))
		go1(t)(m.Mail("<a@example.com>"))
		go1(t)(m.Rcpt("<b1@example.net>"))
		go1(t)(m.Rcpt("<b2@example.net>"))
		go1(t)(m.Rcpt("<b3@example.net>"))
		res, err = m.Message("", nil, eml(simple))
		refused(t, res.Answer, err, "550 5.7.1 at "+stage)
	}
}

// A session that Postfix simulates for sendmail(1) is never refused before the end of the message.
func TestNonSMTPD(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{
		"connect": "note contains input",
		"mail":    `reject contains "at mail" if input.envelope.from.local == "badmail"`,
		"rcpt":    `reject contains "at rcpt" if input.recipient.local == "bad"`,
		"message": `reject contains "no login" if { not input.auth; not "auth" in input.unknown }` + "\nnote contains input"}), nil)
	m := r.dial(t, testmilter.Options{})
	m.Macros('C', "j", "mta.example.com", "v", "Postfix 3.7.11", "{daemon_name}", "mta")
	go1(t)(m.Connect("localhost", '4', 0, "127.0.0.1"))
	go1(t)(m.Helo("localhost"))
	for _, c := range []struct{ from, to, want string }{
		{"<root@example.com>", "<bob@example.net>", ""},
		{"<badmail@example.com>", "<bob@example.net>", "550 5.7.1 at mail"},
		{"<root@example.com>", "<bad@example.net>", "550 5.7.1 at rcpt"},
		{"<a b@@>", "<bob@example.net>", ""}, // policy decides about what cannot be read
		{"<root@example.com>", "<a b@@>", ""},
	} {
		go1(t)(m.Mail(c.from))
		go1(t)(m.Rcpt(c.to))
		go1(t)(m.Rcpt("<carol@example.net>"))
		res, err := m.Message("", nil, eml(simple))
		if err != nil || res.Answer.Text != c.want || res.Stage != 'E' {
			t.Errorf("%v: answer %q at %q, %v; want %q", c, res.Answer.Text, res.Stage, err, c.want)
		}
		if c.want == "" {
			in := r.records.last(t, engine.StageMessage).input
			for _, u := range []any{"auth", "client", "tls"} {
				if !slices.Contains(in["unknown"].([]any), u) {
					t.Errorf("unknown %v lacks %v", in["unknown"], u)
				}
			}
			if dig(in, "client", "ip") != nil {
				t.Errorf("client %v is made up", in["client"])
			}
		}
	}
}
