package milter

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/internal/testmilter"
	"github.com/postern-mail/postern/internal/trial"
	"github.com/postern-mail/postern/policies"
)

// goldenPolicy is the bundle of a case: its own, or the default one, with its data document.
func goldenPolicy(t testing.TB, c *trial.Case) *engine.Policy {
	t.Helper()
	dir := t.TempDir()
	source := bundles.FS(policies.FS, "default")
	if len(c.Policy) > 0 {
		for name, text := range c.Policy {
			file := filepath.Join(dir, "bundle", name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		source = bundles.Dir(filepath.Join(dir, "bundle"))
	}
	var data []string
	if len(bytes.TrimSpace(c.Data)) > 0 {
		data = []string{filepath.Join(dir, "data.yaml")}
		if err := os.WriteFile(data[0], c.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cand, err := bundles.Load(context.Background(), source, data...)
	if err != nil {
		t.Fatal(err)
	}
	p, err := engine.Compile(context.Background(), cand.Bundle, engine.Options{Timeout: 10 * time.Second, Revision: "golden"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// goldenOutcome is the result of a transaction, through the milter or without it.
type goldenOutcome struct {
	refusals []string // replies to MAIL and RCPT, and the final one
	from     string
	to       []string
	message  string
	verdict  string // "accept", "discard", "quarantine", "refuse"
}

// TestGolden runs the golden transactions through the milter and a mail server that carries out its operations, and compares
// replies, envelope and bytes with the result without a front end.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("../testdata/transactions/*.txtar")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d golden transactions, %v", len(files), err)
	}
	offers := map[string]testmilter.Options{
		"v6":            {},
		"v6, talkative": {Protocol: testmilter.LeadingSpace | testmilter.NoBody},
		"v2":            {Version: 2, Actions: 0x3f, Protocol: 0x7f},
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c, err := trial.ParseCase(filepath.Base(file), text)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(c.Name, ".txtar"), func(t *testing.T) {
			p := goldenPolicy(t, c)
			eng := &engine.Engine{}
			eng.Swap(p)
			ref, err := trial.Run(context.Background(), eng, c.Transaction)
			if err != nil {
				t.Fatal(err)
			}
			want := fromTrial(ref)
			r := serve(t, p, func(s *Server, _ *ListenerConfig) {
				s.Hostname, s.Clock = "localhost", func() time.Time { return trial.CaseTime }
			})
			for name, o := range offers {
				if name == "v2" && changesSender(p) {
					continue // version 2 has no such action: TestMissingActions
				}
				got := throughMilter(t, r.dial(t, o), c)
				if diff := want.diff(got); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
			}
		})
	}
}

func changesSender(p *engine.Policy) bool {
	for _, op := range editsOf(p.Needs()) {
		if op == "change_sender" {
			return true
		}
	}
	return false
}

func fromTrial(r *trial.Result) goldenOutcome {
	var o goldenOutcome
	for _, s := range r.Steps {
		if !s.Decision.Reply.IsZero() {
			o.refusals = append(o.refusals, strings.TrimSuffix(string(s.Decision.Reply.AppendTo(nil)), "\r\n"))
		}
	}
	switch r.Final.Verdict {
	case engine.Discard:
		o.verdict = "discard"
	case engine.Quarantine, engine.Accept:
		o.verdict = r.Final.Verdict.String()
		o.message, o.from = string(r.Bytes()), r.Envelope.From.String()
		for _, to := range r.Envelope.To {
			o.to = append(o.to, to.Path.String())
		}
	default:
		o.verdict = "refuse"
	}
	return o
}

// throughMilter is one SMTP dialogue of a mail server.
func throughMilter(t testing.TB, m *testmilter.MTA, c *trial.Case) goldenOutcome {
	t.Helper()
	tx := c.Transaction
	s := tx.Session
	m.Macros('C', "j", "localhost", "{daemon_name}", "smtpd", "v", "Postfix 3.7.11")
	if s.TLS != "" {
		m.Macros('H', "{tls_version}", "TLSv"+s.TLS, "{cipher}", "TLS_AES_128_GCM_SHA256")
	}
	auth := []string{"i", "golden"}
	if s.Login != "" {
		auth = append(auth, "{auth_authen}", s.Login, "{auth_type}", "PLAIN")
	}
	m.Macros('M', auth...)
	var out goldenOutcome
	said := func(a testmilter.Answer, err error) bool {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if a.Refused() {
			out.refusals = append(out.refusals, a.Text)
			out.verdict = "refuse"
		}
		return a.Refused()
	}
	ip, port := s.Client.IP, uint16(40000)
	if !ip.IsValid() {
		ip = trialClient
	}
	if said(m.Connect("unknown", '4', port, ip.String())) || said(m.Helo(s.Client.EHLO)) || said(m.Mail(tx.From.String())) {
		return out
	}
	var to []string
	for _, r := range tx.To {
		if !said(m.Rcpt(r.Path.String())) {
			to = append(to, r.Path.String())
		}
	}
	if len(to) == 0 {
		return out
	}
	res, err := m.Message(tx.From.String(), to, tx.Message)
	if said(res.Answer, err) {
		return out
	}
	switch {
	case res.Answer.Code == 'd':
		out.verdict = "discard"
		return out
	case res.Quarantine != "":
		out.verdict = "quarantine"
	default:
		out.verdict = "accept"
	}
	out.message, out.from, out.to = string(res.Bytes()), res.From, res.To
	return out
}

func (o goldenOutcome) diff(got goldenOutcome) string {
	switch {
	case o.verdict != got.verdict:
		return "verdict " + got.verdict + " " + strings.Join(got.refusals, "; ") + ", want " + o.verdict
	case strings.Join(o.refusals, "\n") != strings.Join(got.refusals, "\n"):
		return "replies " + strings.Join(got.refusals, "; ") + ", want " + strings.Join(o.refusals, "; ")
	case o.from != got.from:
		return "sender " + got.from + ", want " + o.from
	case strings.Join(o.to, " ") != strings.Join(got.to, " "):
		return "recipients " + strings.Join(got.to, " ") + ", want " + strings.Join(o.to, " ")
	case o.message != got.message:
		return "message\n" + got.message + "\nwant\n" + o.message
	}
	return ""
}

// trialClient is the client of a case without one.
var trialClient = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// TestGoldenPostfix runs the golden transactions through a real Postfix.
func TestGoldenPostfix(t *testing.T) {
	testenv.NotShort(t, "Postfix")
	files, err := filepath.Glob("../testdata/transactions/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	r := serve(t, rego(t, "1", map[string]string{"mail": "note contains 1"}), func(s *Server, _ *ListenerConfig) {
		s.Clock = func() time.Time { return trial.CaseTime }
	})
	g := &goldenPostfix{rig: r, sink: testmilter.StartSink(t)}
	g.Postfix = testmilter.StartPostfix(t, testmilter.PostfixOptions{Milter: "inet:" + r.addr, Relay: g.sink.Addr, SASL: testmilter.StartDovecotAuth(t, "secret"),
		Main: "smtpd_authorized_xclient_hosts = 127.0.0.1\nlocal_header_rewrite_clients =\nhopcount_limit = 1000\n"})
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c, err := trial.ParseCase(filepath.Base(file), text)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(c.Name, ".txtar"), func(t *testing.T) {
			r.Engine.Swap(goldenPolicy(t, c))
			got := g.through(t, c)
			c.Transaction.ID = g.id() // the queue id is in what was generated
			c.Transaction.Session.Hostname = "mta.example.com"
			ref, err := trial.Run(context.Background(), r.Engine, c.Transaction)
			if err != nil {
				t.Fatal(err)
			}
			want := fromTrial(ref)
			slices.Sort(want.to)
			if ref.Final.Stage == engine.StageConnect && want.verdict == "refuse" {
				want.refusals = []string{"554 mta.example.com ESMTP not accepting connections"} // Postfix greets in its own words
			}
			if want.verdict == "quarantine" {
				want = goldenOutcome{verdict: want.verdict} // it stays in Postfix's queue
			}
			want.message = string(withoutTrace([]byte(want.message)))
			if diff := want.diff(got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

type goldenPostfix struct {
	*testmilter.Postfix
	rig  *rig
	sink *testmilter.Sink
}

// id is that of the newest decision.
func (g *goldenPostfix) id() string {
	list := g.rig.records.all()
	if len(list) == 0 {
		return "none"
	}
	return list[len(list)-1].id
}

func (g *goldenPostfix) through(t testing.TB, c *trial.Case) goldenOutcome {
	t.Helper()
	tx, x := c.Transaction, testmilter.DialSMTP(t, g.Addr)
	var out goldenOutcome
	said := func(reply string) bool {
		if reply[0] == '4' || reply[0] == '5' {
			out.refusals = append(out.refusals, strings.ReplaceAll(reply, "\n", "\r\n"))
			out.verdict = "refuse"
			return true
		}
		return false
	}
	ip := tx.Session.Client.IP
	if !ip.IsValid() {
		ip = trialClient
	}
	x.Want("250", "EHLO proxy")
	if said(x.Say("XCLIENT NAME=[UNAVAILABLE] ADDR=%s PORT=40000", ip)) {
		return out // the greeting
	}
	x.Want("250", "EHLO %s", tx.Session.Client.EHLO)
	if tx.Session.TLS != "" {
		x.StartTLS()
		x.Want("250", "EHLO %s", tx.Session.Client.EHLO)
	}
	if tx.Session.Login != "" {
		x.Login(tx.Session.Login, "secret")
	}
	if said(x.Say("MAIL FROM:%s", tx.From)) {
		return out
	}
	accepted := false
	for _, r := range tx.To {
		accepted = !said(x.Say("RCPT TO:%s", r.Path)) || accepted
	}
	if !accepted || said(x.Data(tx.Message)) {
		return out
	}
	g.fate(t, &out)
	return out
}

// fate waits for what Postfix does with the message that it has just accepted.
func (g *goldenPostfix) fate(t testing.TB, out *goldenOutcome) {
	t.Helper()
	id := g.id()
	for range 400 {
		log := g.Log()
		switch {
		case strings.Contains(log, id+": milter-discard"):
			out.verdict = "discard"
			return
		case strings.Contains(log, id+": milter-hold"):
			out.verdict = "quarantine"
			return
		case strings.Contains(log, id+": removed"):
			out.verdict = "accept"
			for len(g.sink.Mail) > 0 {
				m := <-g.sink.Mail
				out.from, _, _ = strings.Cut(m.From, " ")
				out.to = append(out.to, recipients([]testmilter.Mail{m})...)
				out.message = string(withoutTrace(m.Data))
			}
			slices.Sort(out.to)
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("what became of %s?", id)
}
