package milter

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/testmilter"
)

const failedTemporarily = "421 4.3.0 Temporary failure, try again later"

// panicAt panics at a stage.
type panicAt struct {
	engine.Recorder
	stage engine.Stage
}

func (p panicAt) Record(ctx context.Context, r engine.Record) error {
	if r.Decision.Stage == p.stage {
		panic("at a stage")
	}
	return p.Recorder.Record(ctx, r)
}

// TestPanicRefusesTheRest: after a panic the message cannot be accepted, and neither can the client's later ones.
func TestPanicRefusesTheRest(t *testing.T) {
	stages := map[string]string{"mail": "note contains 1", "rcpt": "note contains 1", "message": "note contains 1"}
	for _, stage := range []engine.Stage{engine.StageMail, engine.StageRcpt} {
		r := serve(t, rego(t, "1", stages), func(s *Server, _ *ListenerConfig) { s.Engine.Recorder = panicAt{s.Engine.Recorder, stage} })
		m := r.dial(t, testmilter.Options{})
		greet(t, m)
		a, err := m.Mail("<a@example.com>")
		if stage == engine.StageMail {
			refused(t, a, err, failedTemporarily)
		} else {
			go1(t)(a, err)
		}
		a, err = m.Rcpt("<b@example.net>")
		refused(t, a, err, failedTemporarily)
		r.Engine.Recorder = r.records // no more panics
		a, err = m.Rcpt("<c@example.net>")
		refused(t, a, err, failedTemporarily)
		res, err := m.Message("", nil, eml(simple))
		refused(t, res.Answer, err, failedTemporarily)
		a, err = m.Mail("<d@example.com>")
		refused(t, a, err, failedTemporarily)
	}
}

// TestPanicWithoutAnswer: where no answer is expected, a panic cuts the connection.
func TestPanicWithoutAnswer(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"message": "note contains 1"}), func(s *Server, _ *ListenerConfig) {
		s.Engine.Recorder = panicAt{s.Engine.Recorder, engine.StageMail}
	})
	m := r.dial(t, testmilter.Options{})
	greet(t, m)
	r.Engine.Swap(rego(t, "2", map[string]string{"mail": "note contains 1", "message": "note contains 1"}))
	go1(t)(m.Mail("<a@example.com>")) // sends only
	if _, _, err := m.Receive(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection goes on: %v", err)
	}
}

// TestRefusedClient: a refusal at CONNECT holds for all messages of the client, and not for the next client.
func TestRefusedClient(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"connect": `reject contains "not you" if input.client.ip == "192.0.2.1"`, "mail": "note contains input"}), nil)
	m := r.dial(t, testmilter.Options{})
	a, err := m.Connect("client.example.net", '4', 40000, "192.0.2.1")
	refused(t, a, err, "550 5.7.1 not you")
	for range 2 {
		a, err = m.Mail("<a@example.com>")
		refused(t, a, err, "550 5.7.1 not you")
	}
	if err := m.Send('K', nil); err != nil {
		t.Fatal(err)
	}
	go1(t)(m.Mail("<a@example.com>")) // without CONNECT
	if ip := dig(r.records.last(t, engine.StageMail).input, "client", "ip"); ip != nil {
		t.Errorf("the next client has address %v", ip)
	}
}

// TestUnreadableAddresses: the mail server has taken an address already, so one that cannot be read is a fact for policy.
func TestUnreadableAddresses(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"mail": "note contains input", "rcpt": `reject contains input.recipient.unreadable if input.recipient.unreadable == "<no one>"`, "message": "note contains input"}), nil)
	m := r.dial(t, testmilter.Options{})
	greet(t, m)
	for _, c := range []struct{ path, unreadable string }{
		{"<a b@@>", "<a b@@>"}, {"a b@@", "a b@@"}, {"<a@b>x", "<a@b>x"}, {"<a\xff@b.example>", "<a?@b.example>"}, {"<a\x01@b.example>", "<a?@b.example>"},
		{"<" + strings.Repeat("x", 3000) + "@b.example>", "<" + strings.Repeat("x", 1023)},
		{"<a..b@c.example>", ""}, {"<" + strings.Repeat("v", 70) + "@y.example>", ""}, {"<x@my_host.example>", ""}, {"<bob@example.net.>", ""}, {"<j\u00f6e@y.example>", ""},
	} {
		go1(t)(m.Mail(c.path))
		from := dig(r.records.last(t, engine.StageMail).input, "envelope", "from").(map[string]any)
		if got, _ := from["unreadable"].(string); got != c.unreadable || (from["address"] == "") != (c.unreadable != "") || from["null"] != false {
			t.Errorf("%q: got %v", c.path, from)
		}
		go1(t)(m.Rcpt(c.path))
		if a, err := m.Rcpt("<no one>"); err != nil || a.Text == "" {
			t.Errorf("policy's refusal of a recipient: %+v, %v", a, err)
		}
		res, err := m.Message("", nil, eml("Subject: x\n\nbody\n"))
		accepted(t, res, err)
		to := dig(r.records.last(t, engine.StageMessage).input, "envelope", "to").([]any)
		if got, _ := to[0].(map[string]any)["unreadable"].(string); len(to) != 1 || got != c.unreadable {
			t.Errorf("%q: recipients %v", c.path, to)
		}
	}
	go1(t)(m.Mail("<>"))
	if from := dig(r.records.last(t, engine.StageMail).input, "envelope", "from").(map[string]any); from["null"] != true || from["unreadable"] != nil {
		t.Errorf("null sender: %v", from)
	}
	go1(t)(m.Rcpt("<>"))
}

// TestQueueIDThatIsNoID: a queue id with other characters than visible ASCII is not the transaction's.
func TestQueueIDThatIsNoID(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"mail": "note contains input"}), nil)
	m := r.dial(t, testmilter.Options{})
	greet(t, m)
	for _, id := range []string{"two words", "line\nend", "caf\xc3\xa9"} {
		m.Macros('M', "i", id)
		go1(t)(m.Mail("<a@example.com>"))
		if got := r.records.last(t, engine.StageMail).id; got == id || got == "" {
			t.Errorf("queue id %q: the transaction has %q", id, got)
		}
		if err := m.Abort(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSimulatedDecidesAtTheEnd: for a session that Postfix makes up, the earlier stages are asked before the message.
func TestSimulatedDecidesAtTheEnd(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"mail": `reject contains "at mail"`, "message": "note contains input.envelope"}), nil)
	m := r.dial(t, testmilter.Options{NoProtocol: true}) // end of header has an answer
	m.Macros('C', "v", "Postfix 3.7.11")
	go1(t)(m.Connect("localhost", '4', 0, "127.0.0.1"))
	go1(t)(m.Mail("<a@example.com>"))
	go1(t)(m.Rcpt("<b@example.net>"))
	res, err := m.Message("", nil, eml(simple))
	refused(t, res.Answer, err, "550 5.7.1 at mail")
	for _, rec := range r.records.all() {
		if rec.stage == engine.StageMessage {
			t.Error("the message was decided although its sender is refused")
		}
	}
}

// TestNoConnectionAfterShutdown: a connection that was accepted during Shutdown is not served.
func TestNoConnectionAfterShutdown(t *testing.T) {
	r := &Server{Engine: &engine.Engine{}}
	ln, err := Listen("tcp:127.0.0.1:0", 0, "")
	if err != nil {
		t.Fatal(err)
	}
	a, err := r.listen(context.Background(), ln, ListenerConfig{Name: "late"})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.slots <- struct{}{}
	ours, _ := net.Pipe()
	if c := a.connect(ours); c != nil {
		t.Error("the connection is served")
	}
	if len(r.slots) != 0 {
		t.Error("its slot is taken")
	}
}
