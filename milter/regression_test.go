package milter

import (
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/testmilter"
)

// Each test here is a fault that the bare library or a real mail server has.

// The library answered header fields even if no answers to them were negotiated. The mail server took the refusal at end of
// message for the answer to something else, and delivered the message.
func TestNRDesynchronisation(t *testing.T) {
	p := rego(t, "1", map[string]string{"message": `
reject contains {"rule": "no", "message": "never"} if input.message.size > 0
note contains input.message.body.text`})
	for _, o := range []testmilter.Options{{}, {NoProtocol: true}, {Protocol: testmilter.NoReplyHead}, {Version: 2, Actions: 0x3f, Protocol: 0x7f}} {
		m := serve(t, p, nil).dial(t, o)
		greet(t, m)
		for range 3 {
			go1(t)(m.Mail("<a@example.com>"))
			go1(t)(m.Rcpt("<b@example.net>"))
			r, err := m.Message("<a@example.com>", nil, eml(simple))
			if err != nil {
				t.Fatal(err)
			}
			refused(t, r.Answer, err, "550 5.7.1 never")
			if r.Stage != 'E' {
				t.Errorf("refused at %q, want at end of message", r.Stage)
			}
		}
	}
}

// After a refused recipient the library made a new backend, so the next recipient had no sender.
func TestRcptRejectThenRcpt(t *testing.T) {
	p := rego(t, "1", map[string]string{
		"rcpt":    `reject contains "not him" if input.recipient.local == "bad"` + "\nnote contains input",
		"message": `note contains input.envelope`})
	r := serve(t, p, nil)
	m := r.dial(t, testmilter.Options{})
	greet(t, m)
	go1(t)(m.Mail("<a@example.com>"))
	a, err := m.Rcpt("<bad@example.net>")
	refused(t, a, err, "550 5.7.1 not him")
	go1(t)(m.Rcpt("<good@example.net>"))
	in := r.records.last(t, engine.StageRcpt).input
	if got := dig(in, "envelope", "from", "address"); got != "a@example.com" {
		t.Errorf("sender at the second RCPT %v", got)
	}
	if got := dig(in, "client", "ip"); got != "192.0.2.1" {
		t.Errorf("client at the second RCPT %v", got)
	}
	res, err := m.Message("<a@example.com>", nil, eml(simple))
	accepted(t, res, err)
	if to := dig(r.records.last(t, engine.StageMessage).input, "envelope", "to").([]any); len(to) != 1 {
		t.Errorf("recipients %v, want the accepted one", to)
	}
}

// Sendmail sends no ABORT between messages: the second saw the first's header and queue id.
func TestTwoMessagesWithoutAbort(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"message": "note contains input"}), nil)
	m := r.dial(t, testmilter.Options{})
	greet(t, m)
	for _, id := range []string{"AAA", "", "CCC"} {
		m.Macros('M', "{mail_addr}", "a@example.com")
		if id != "" {
			m.Macros('M', "i", id, "{auth_authen}", id, "{auth_type}", "PLAIN")
		}
		go1(t)(m.Mail("<" + id + "x@example.com>"))
		go1(t)(m.Rcpt("<b@example.net>"))
		res, err := m.Message("", nil, eml("Subject: "+id+"\n\nbody "+id+"\n"))
		accepted(t, res, err)
		rec := r.records.last(t, engine.StageMessage)
		if h := dig(rec.input, "message", "headers").([]any); len(h) != 1 || dig(h[0].(map[string]any), "value") != id {
			t.Errorf("message %q: header %v", id, h)
		}
		if id != "" && (rec.id != id || dig(rec.input, "auth", "login") != strings.ToLower(id)) || id == "" && (rec.id == "AAA" || dig(rec.input, "auth") != nil) {
			t.Errorf("message %q: id %q, auth %v", id, rec.id, rec.input["auth"])
		}
		if body := dig(rec.input, "message", "body", "text"); body != "body "+id+"\r\n" {
			t.Errorf("message %q: body %q", id, body)
		}
	}
	// A transaction that stays open, and one that is aborted twice, as Postfix does.
	go1(t)(m.Mail("<left@example.com>"))
	go1(t)(m.Mail("<again@example.com>"))
	for range 2 {
		if err := m.Abort(); err != nil {
			t.Fatal(err)
		}
	}
	go1(t)(m.Mail("<c@example.com>"))
	go1(t)(m.Rcpt("<b@example.net>"))
	res, err := m.Message("", nil, eml(simple))
	accepted(t, res, err)
	if got := dig(r.records.last(t, engine.StageMessage).input, "envelope", "from", "address"); got != "c@example.com" {
		t.Errorf("sender %v", got)
	}
}

// MAIL FROM:<x> AUTH=ceo@example.org sets {auth_author} on both servers. It proves nothing.
func TestAuthEqualsCEO(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"mail": "note contains input"}), nil)
	m := r.dial(t, testmilter.Options{})
	greet(t, m)
	m.Macros('M', "{auth_author}", "ceo@example.org")
	go1(t)(m.Mail("<alice@example.com>", "AUTH=ceo@example.org", "size=100", "BODY=8BITMIME"))
	in := r.records.last(t, engine.StageMail).input
	if in["auth"] != nil {
		t.Errorf("auth %v of a client that proved nothing", in["auth"])
	}
	for k, want := range map[string]string{"AUTH": "ceo@example.org", "SIZE": "100", "BODY": "8BITMIME"} {
		if got := dig(in, "envelope", "from", "parameters", k); got != want {
			t.Errorf("parameter %s is %v, want %s", k, got, want)
		}
	}
	if err := m.Abort(); err != nil {
		t.Fatal(err)
	}
	m.Macros('M', "{auth_author}", "ceo@example.org", "{auth_authen}", "alice", "{auth_type}", "plain")
	go1(t)(m.Mail("<alice@example.com>", "AUTH=ceo@example.org"))
	in = r.records.last(t, engine.StageMail).input
	if dig(in, "auth", "login") != "alice" || dig(in, "auth", "mechanism") != "PLAIN" {
		t.Errorf("auth %v, want alice by PLAIN", in["auth"])
	}
}

// A login has one spelling at both doors. What is no login of any account is nobody's.
func TestLoginSpelling(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"mail": "note contains input"}), nil)
	m := r.dial(t, testmilter.Options{Actions: testmilter.ActAddHeader}) // chooses no macros
	greet(t, m)
	for given, want := range map[string]any{"Intern1": "intern1", "mu\u0308ller": "müller", "intern1 ": nil, "ｉntern1": nil, "int\u200bern1": nil, "intern¹": nil} {
		m.Macros('M', "{auth_authen}", given)
		go1(t)(m.Mail("<alice@example.com>"))
		in := r.records.last(t, engine.StageMail).input
		if want == nil {
			if unknown, _ := in["unknown"].([]any); in["auth"] != nil || slices.Contains(unknown, any("auth")) {
				t.Errorf("%q: auth %v, unknown %v", given, in["auth"], unknown)
			}
		} else if dig(in, "auth", "login") != want {
			t.Errorf("%q: auth %v, want %v", given, in["auth"], want)
		}
		if err := m.Abort(); err != nil {
			t.Fatal(err)
		}
	}
}

// Both servers put reply texts through a formatter: "100% of" arrived as "100 of".
func TestPercentInReply(t *testing.T) {
	p := rego(t, "1", map[string]string{"mail": `reject contains {"rule": "full", "code": 552, "status": "5.2.2", "message": "100% of 5%s\nused %%"}`})
	m := serve(t, p, nil).dial(t, testmilter.Options{})
	greet(t, m)
	a, err := m.Mail("<a@example.com>")
	refused(t, a, err, "552-5.2.2 100% of 5%s\r\n552 5.2.2 used %%")
}

// At end of header Postfix sends main.cf's daemon_name and no TLS macros, so the values that were sent first count.
func TestDaemonNameFlip(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"message": "note contains input"}), nil)
	m := r.dial(t, testmilter.Options{})
	m.Macros('C', "{daemon_name}", "submission", "v", "Postfix 3.7.11")
	m.Macros('H', "{tls_version}", "TLSv1.3", "{cipher}", "TLS_AES_256_GCM_SHA384")
	go1(t)(m.Connect("unknown", '4', 40000, "192.0.2.1"))
	go1(t)(m.Helo("one"))
	go1(t)(m.Helo("two")) // again, after STARTTLS
	m.Macros('N', "{daemon_name}", "main", "i", "QUEUEID")
	m.Macros('E', "{daemon_name}", "main", "i", "QUEUEID2")
	go1(t)(m.Mail("<a@example.com>"))
	go1(t)(m.Rcpt("<b@example.net>"))
	res, err := m.Message("", nil, eml(simple))
	accepted(t, res, err)
	rec := r.records.last(t, engine.StageMessage)
	if dig(rec.input, "tls", "version") != "1.3" || dig(rec.input, "client", "ehlo") != "two" || dig(rec.input, "client", "name") != nil {
		t.Errorf("tls %v, client %v", rec.input["tls"], rec.input["client"])
	}
	if rec.id != "QUEUEID2" {
		t.Errorf("id %q: the last one counts", rec.id)
	}
	if strings.Contains(r.logs.String(), "daemon=main") {
		t.Error("daemon_name flipped")
	}
}

// dig returns the value at a path in a JSON object; nil if there is none.
func dig(v any, path ...string) any {
	for _, k := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}
