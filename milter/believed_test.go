package milter

import (
	"testing"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/testmilter"
)

// TestClientNameIsVerified: Sendmail gives a name that does not resolve to the client's address all the same, and says so.
func TestClientNameIsVerified(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"mail": "note contains input"}), nil)
	for _, c := range []struct {
		resolve, underscore string
		want                any
	}{
		{"OK", "client.example.net [192.0.2.1]", "client.example.net"},
		{"", "client.example.net [192.0.2.1]", "client.example.net"}, // Postfix
		{"FORGED", "client.example.net [192.0.2.1]", nil}, {"TEMP", "client.example.net [192.0.2.1]", nil}, {"FAIL", "[192.0.2.1]", nil},
		{"", "client.example.net [192.0.2.1] (may be forged)", nil}, {"OK", "client.example.net [192.0.2.1] (may be forged)", nil},
	} {
		m := r.dial(t, testmilter.Options{})
		m.Macros('C', "j", "mta.example.com", "{client_resolve}", c.resolve, "_", c.underscore)
		go1(t)(m.Connect("client.example.net", '4', 40000, "192.0.2.1"))
		go1(t)(m.Helo("client.example.net"))
		go1(t)(m.Mail("<a@example.com>"))
		if got := dig(r.records.last(t, engine.StageMail).input, "client", "name"); got != c.want {
			t.Errorf("%+v: the name is %v", c, got)
		}
	}
}

// TestCertificateIsVerified: Sendmail sends the subject of any certificate, and in {verify} what it thinks of it.
func TestCertificateIsVerified(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"mail": "note contains input"}), nil)
	for verify, want := range map[string]any{"OK": "/CN=alice", "": "/CN=alice", "FAIL": nil, "NO": nil, "NOT": nil, "NONE": nil, "TEMP": nil, "PROTOCOL": nil, "SOFTWARE": nil, "TRUSTED": nil, "ok ": nil} {
		m := r.dial(t, testmilter.Options{})
		m.Macros('C', "j", "mta.example.com")
		go1(t)(m.Connect("client.example.net", '4', 40000, "192.0.2.1"))
		m.Macros('H', "{tls_version}", "TLSv1.3", "{cipher}", "TLS_AES_128_GCM_SHA256", "{cert_subject}", "/CN=alice", "{cert_issuer}", "/CN=ca", "{verify}", verify)
		go1(t)(m.Helo("client.example.net"))
		go1(t)(m.Mail("<a@example.com>"))
		in := r.records.last(t, engine.StageMail).input
		tls, _ := in["tls"].(map[string]any)
		if tls["version"] != "1.3" {
			t.Fatalf("%q: TLS %v", verify, in["tls"])
		}
		certificate, _ := tls["certificate"].(map[string]any)
		if certificate["subject"] != want {
			t.Errorf("%q: the certificate is %v", verify, certificate)
		}
	}
}

// TestNothingIsLeftOver: a MAIL without macros has nobody's login, and a message that was broken off leaves no fields to the next, although Sendmail
// sends no ABORT between them.
func TestNothingIsLeftOver(t *testing.T) {
	r := serve(t, rego(t, "1", map[string]string{"mail": "note contains input", "message": "note contains input"}), nil)
	m := r.dial(t, testmilter.Options{})
	greet(t, m)
	m.Macros('M', "{auth_authen}", "alice", "{auth_type}", "PLAIN", "i", "FIRST")
	go1(t)(m.Mail("<a@example.com>"))
	go1(t)(m.Rcpt("<b@example.net>"))
	if login := dig(r.records.last(t, engine.StageMail).input, "auth", "login"); login != "alice" {
		t.Fatalf("login %v", login)
	}
	for _, field := range []string{"X-First\x00 1\x00", "From\x00 ceo@example.com\x00"} { // and then no end
		if err := m.Send('L', []byte(field)); err != nil {
			t.Fatal(err)
		}
	}
	m.Macros('M')
	go1(t)(m.Mail("<c@example.com>"))
	if in := r.records.last(t, engine.StageMail).input; in["auth"] != nil || in["id"] == "FIRST" {
		t.Errorf("auth %v, id %v", in["auth"], in["id"])
	}
	go1(t)(m.Rcpt("<b@example.net>"))
	res, err := m.Message("", nil, eml("Subject: second\n\nbody\n"))
	accepted(t, res, err)
	if header := dig(r.records.last(t, engine.StageMessage).input, "message", "headers").([]any); len(header) != 1 {
		t.Errorf("the second message has the fields %v", header)
	}
}
