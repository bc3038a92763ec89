package trial

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/yamldoc"
)

// everything is a case that uses every key there is.
const everything = `A comment.
-- session --
now: 2026-02-03T04:05:06.5+01:00
id: q1
client: {ip: 2001:db8::7, port: 4711, name: host.example.com}
ehlo: "[192.0.2.1]"
tls:
  version: 1.2
  cipher: X
  sni: mail.example.com
  implicit: true
  certificate: {subject: CN=a, issuer: CN=b, sans: ["dns:a.example"], sha256: ab}
auth:
  login: alice
  mechanism: LOGIN
  backend: ldap
  authzid: bob
  groups: [staff, "cn=x,dc=y"]
  attributes: {mail: [a@example.com, b@example.com]}
server: {hostname: mx.example.com, listener: ":587", door: milter}
unknown: [message.size]
on_error: accept
-- envelope --
# as a client says it
mail from:<alice@example.com> SIZE=12 body=8BITMIME SMTPUTF8
RCPT TO:<bob@example.net> NOTIFY=NEVER
RCPT TO: carol@example.net
-- message.eml --
From: a@example.com

x
-- data.yaml --
a: 1
-- policy/postern/mail/p.rego --
package postern.mail
-- want --
verdict: accept
stage: message
reply:
allow: one
allow: two
reject:
defer:
quarantine:
discard:
default:
error:
note: {"b": 1, "a": 2}
refused: RCPT TO:<bob@example.net>: 550 5.1.1 No
from: <>
to: bob@example.net
header: Subject: x: y
header: subject: z
header: Bcc:
-- want.eml --
From: a@example.com

x
`

func TestParseCase(t *testing.T) {
	c, err := ParseCase("x.txtar", []byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	tx := c.Transaction
	s := tx.Session
	now := time.Date(2026, 2, 3, 3, 5, 6, 500_000_000, time.UTC)
	if !tx.Now.Equal(now) || tx.ID != "q1" || s.Client.IP.String() != "2001:db8::7" || s.Client.Port != 4711 || s.Client.Name != "host.example.com" ||
		s.Client.EHLO != "[192.0.2.1]" || s.TLS != "1.2" || s.Cipher != "X" || s.SNI != "mail.example.com" || !s.ImplicitTLS {
		t.Errorf("%+v", tx)
	}
	if want := (&engine.Certificate{Subject: "CN=a", Issuer: "CN=b", SANs: []string{"dns:a.example"}, SHA256: "ab"}); !reflect.DeepEqual(s.Certificate, want) {
		t.Errorf("%+v", s.Certificate)
	}
	if s.Login != "alice" || s.Mechanism != "LOGIN" || s.Backend != "ldap" || s.AuthzID != "bob" || !reflect.DeepEqual(s.Groups, []string{"staff", "cn=x,dc=y"}) ||
		!reflect.DeepEqual(s.Attributes, map[string][]string{"mail": {"a@example.com", "b@example.com"}}) {
		t.Errorf("%+v", s)
	}
	if s.Hostname != "mx.example.com" || s.Listener != ":587" || s.Door != "milter" || s.Failure != engine.Accept || !reflect.DeepEqual(s.Unknown, []string{"message.size"}) {
		t.Errorf("%+v", s)
	}
	if tx.From.String() != "<alice@example.com>" || !reflect.DeepEqual(map[string]string(tx.Params), map[string]string{"SIZE": "12", "BODY": "8BITMIME", "SMTPUTF8": ""}) ||
		len(tx.To) != 2 || tx.To[0].Params["NOTIFY"] != "NEVER" || tx.To[1].Path.String() != "<carol@example.net>" || tx.Last != 0 {
		t.Errorf("%+v", tx)
	}
	if string(tx.Message) != "From: a@example.com\r\n\r\nx\r\n" || string(c.WantMessage) != string(tx.Message) || string(c.Data) != "a: 1\n" || c.DataLine != 33 || len(c.Policy) != 1 {
		t.Errorf("%q %q %q %d %v", tx.Message, c.WantMessage, c.Data, c.DataLine, c.Policy)
	}
	if c.Verdict() != "accept" || len(c.wants) != 16 || !reflect.DeepEqual(c.wants[14], want{"header", "Subject", []string{"x: y", "z"}}) {
		t.Errorf("%+v", c.wants)
	}
}

// TestParseCaseRefuses: every mistake is said with its place and how to mend it.
func TestParseCaseRefuses(t *testing.T) {
	const envelope = "-- envelope --\nMAIL FROM:<a@example.com>\nRCPT TO:<b@example.com>\n"
	for text, want := range map[string]string{
		"":                                                        "x:1:1: there is no section",
		"-- sesion --\n":                                          `x:1:1: unknown section "sesion"; did you mean session?`,
		"-- data.yml --\n":                                        `did you mean data.yaml?`,
		"-- zzzzzz --\n":                                          "there are data.yaml, envelope, message.eml, session, want, want.eml, policy/FILE",
		"\n-- want --\n-- want --\n":                              "x:3:1: section want stands here a second time; keep one of the two; the first is in line 2",
		"-- session --\n\nlogon: a\n":                             `x:3:1: unknown key "logon"; did you mean login?`,
		"-- session --\ntls: 1.4\n":                               "x:2:6: tls:",
		"-- session --\ntls: {sni: a}\n":                          "has no version",
		"-- session --\nclient: a\n":                              "x:2:9: client: is no IP address",
		"-- session --\nnow: today\n":                             "x:2:6: now: is no time",
		"-- session --\nauth: {groups: [a]}\n":                    "has no login",
		"-- session --\nlogin: a\nauth: {login: b}\n":             "auth.login: says what login has said",
		"-- session --\nunknown: [clinet.port]\n":                 "input has no clinet.port; did you mean client.port?",
		"-- session --\nlogin: a\nunknown: [auth]\n":              "gives auth.login, which unknown says nobody knows",
		"-- session --\nserver: {door: front}\n":                  "one of submission, milter",
		"-- session --\non_error: pass\n":                         "x:2:11: on_error",
		"-- session --\nlogin: [a]\n":                             "x:2:8: login:",
		"-- session --\n\tlogin: a\n":                             "x:2:1: the line begins with a tab",
		"-- session --\nclient: {port: 70000}\n":                  "70000 is out of range",
		"-- envelope --\nMAIL TO:<a@b>\n":                         "x:2:1: this is no command of an envelope",
		"-- envelope --\n":                                        "x:1:1: the envelope is empty",
		"-- envelope --\nRCPT TO:<a@example.com>\n":               "x:2:1: RCPT TO before MAIL FROM",
		"-- envelope --\nMAIL FROM:<a b>\n":                       "x:2:11: ",
		"-- envelope --\nMAIL FROM:<a@example.com>SIZE=1\n":       "follows the address without a space",
		"-- envelope --\nMAIL FROM:<a@example.com> SI_ZE=1\n":     `"SI_ZE=1" is no parameter`,
		"-- envelope --\nMAIL FROM:<a@example.com> A=1 a=2\n":     "parameter A stands there twice",
		"-- envelope --\nMAIL FROM:<>\nMAIL FROM:<>\n":            "x:3:1: a second MAIL FROM",
		"-- message.eml --\nx\n":                                  "x:1:1: a message without an envelope",
		"-- envelope --\nMAIL FROM:<>\n-- message.eml --\nx: y\n": "x:3:1: a message without a recipient",
		envelope + "-- want.eml --\n":                             "x:4:1: want.eml is empty",
		envelope + "-- want --\nverdikt: x\n":                     `x:5:1: unknown key "verdikt"; did you mean verdict?`,
		envelope + "-- want --\nverdict: acept\n":                 `x:5:10: "acept" is no verdict; did you mean accept?`,
		envelope + "-- want --\nstage: data\n":                    `"data" is no stage`,
		envelope + "-- want --\nstage: rcpt\nstage: rcpt\n":       "x:6:1: stage stands here a second time",
		envelope + "-- want --\nnote: x\n":                        "x:5:7: a note is JSON",
		envelope + "-- want --\nheader: a b\n":                    "this is no header field",
		envelope + "-- want --\nfrom: <a\n":                       "x:5:7: ",
		envelope + "-- want --\nto: <a@b.c> X=1\n":                "an address with parameters",
		envelope + "-- want --\nrefused: MAIL\n":                  "only a recipient is refused by itself",
	} {
		c, err := ParseCase("x", []byte(text))
		var found yamldoc.Findings
		if err == nil || !errors.As(err, &found) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v %v, want %q", text, c, err, want)
		}
	}
}

// asked is an engine of one module.
func asked(t *testing.T, modules ...string) *engine.Engine {
	t.Helper()
	b := &bundle.Bundle{Manifest: bundle.Manifest{Revision: "1"}}
	for i, m := range modules {
		name := string(rune('a'+i)) + ".rego"
		b.Modules = append(b.Modules, bundle.ModuleFile{Path: name, URL: name, Raw: []byte(m)})
	}
	p, err := engine.Compile(context.Background(), b, engine.Options{Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	e := &engine.Engine{}
	e.Swap(p)
	return e
}

// facts of the session reach policy at the stages that have them.
func TestSessionFacts(t *testing.T) {
	eng := asked(t, `package postern.connect

note contains {"client": input.client, "server": input.server, "tls": object.get(input, "tls", {}), "auth": object.get(input, "auth", "none"), "unknown": input.unknown}
`, `package postern.mail

note contains {"client": input.client, "tls": object.get(input, "tls", "none"), "auth": object.get(input, "auth", "none"), "from": input.envelope.from, "now": input.now, "id": input.id}
`, `package postern.message

note contains {"size": object.get(input.message, "size", "none"), "date": input.message.generated}
`)
	notes := func(text string) (out []string) {
		t.Helper()
		c, err := ParseCase("x", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		r, err := Run(context.Background(), eng, c.Transaction)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range r.Steps {
			for _, n := range s.Decision.Notes {
				out = append(out, encoded(n))
			}
		}
		return out
	}
	got := notes(everything)
	for i, want := range [][]string{
		{`"client":{"ip":"2001:db8::7","name":"host.example.com","port":4711}`, `"hostname":"mx.example.com"`, `"door":"milter"`, `"version":"1.2"`, `"auth":"none"`, `["message.size"]`},
		{`"ehlo":"[192.0.2.1]"`, `"groups":["staff","cn=x,dc=y"]`, `"authzid":"bob"`, `"mail":["a@example.com","b@example.com"]`, `"sha256":"ab"`, `"SIZE":"12"`, `"id":"q1"`, `"now":1770087906500000000`},
		{`"size":"none"`, `"Tue, 03 Feb 2026 04:05:06 +0100"`},
	} {
		for _, w := range want {
			if len(got) != 3 || !strings.Contains(got[i], w) {
				t.Fatalf("%s is not in step %d of\n%s", w, i, strings.Join(got, "\n"))
			}
		}
	}
	got = notes("-- session --\nunknown: [client.ip, client.ehlo, tls]\n-- envelope --\nMAIL FROM:<>\n-- want --\n")
	if len(got) != 2 || !strings.Contains(got[1], `"client":{}`) || !strings.Contains(got[0], `"tls":{}`) || !strings.Contains(got[1], `"null":true`) {
		t.Errorf("%q", got)
	}
	got = notes("-- session --\nlogin: a\ntls: 1.3\n-- envelope --\nMAIL FROM:<>\n")
	if !strings.Contains(got[0], `"tls":{}`) || !strings.Contains(got[1], `"mechanism":"PLAIN"`) || !strings.Contains(got[1], `"version":"1.3"`) {
		t.Errorf("%q", got)
	}
}

// TestCompare: what a case wants, and no more, is compared.
func TestCompare(t *testing.T) {
	eng := asked(t, `package postern.rcpt

reject contains {"rule": "gone", "code": 550, "status": "5.1.1", "message": "No such user"} if input.recipient.local == "gone"
`, `package postern.message

quarantine contains "held" if input.message.header["x-hold"]

edit contains {"op": "add_header", "name": "X-A", "value": "1"}

edit contains {"op": "add_header", "name": "X-A", "value": "2"}

note contains {"z": 1, "a": [true]}
`)
	const base = "-- envelope --\nMAIL FROM:<a@example.com>\nRCPT TO:<b@example.com>\nRCPT TO:<gone@example.com>\n-- message.eml --\nFrom: a@example.com\nX-Hold: 1\n\nx\n-- want --\n"
	for wants, want := range map[string]string{
		"verdict: quarantine\n":             "",
		"verdict: accept\n":                 "verdict: quarantine\n",
		"quarantine: held\n":                "",
		"quarantine:\n":                     "quarantine: held\n",
		"reject:\nreply:\nstage: message\n": "",
		"refused: RCPT TO:<gone@example.com>: 550 5.1.1 No such user\nto: <b@example.com>\nfrom: a@example.com\n": "",
		"refused:\n": "refused: RCPT TO:<gone@example.com>: 550 5.1.1 No such user\n",
		"to: <b@example.com>\nto: <gone@example.com>\n": "to: <b@example.com>\n",
		"header: x-a: 1\nheader: X-A: 2\n":              "",
		"header: X-A: 1\n":                              "header: X-A: 1\nheader: X-A: 2\n",
		"header: X-A: 2\nheader: X-A: 1\n":              "header: X-A: 1\nheader: X-A: 2\n",
		"header: Bcc:\n":                                "",
		"header: Bcc: x\n":                              "header: Bcc:\n",
		`note: {"a":[true],"z":1}` + "\n":               "",
		"note:\n":                                       `note: {"a":[true],"z":1}` + "\n",
	} {
		c, err := ParseCase("x", []byte(base+wants))
		if err != nil {
			t.Fatal(err)
		}
		r, err := Run(context.Background(), eng, c.Transaction)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, d := range c.Compare(r) {
			got += string(d.Got)
		}
		if got != want {
			t.Errorf("%q: differs by %q, want %q", wants, got, want)
		}
	}
}

// TestUpdateRefuses: a result that a txtar file cannot hold is not written.
func TestUpdateRefuses(t *testing.T) {
	eng := asked(t, "package postern.message\n\nedit contains {\"op\": \"insert_header\", \"name\": \"X-A\", \"value\": \"1\"}\n")
	c, err := ParseCase("x", []byte("-- envelope --\nMAIL FROM:<>\nRCPT TO:<b@example.com>\n-- message.eml --\nFrom: a@example.com\r\n\r\nx\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	c.Transaction.Message = []byte("From: a@example.com\r\n\r\n-- not a section --\r\n")
	r, err := Run(context.Background(), eng, c.Transaction)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := c.Update(r); err == nil {
		t.Errorf("written:\n%s", text)
	}
}
