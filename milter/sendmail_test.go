package milter

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/testenv"
	"github.com/postern-mail/postern/internal/testmilter"
)

// TestSendmail runs a real Sendmail 8.17, which puts Received on top and must leave the rest as message.Header.Apply makes it.
func TestSendmail(t *testing.T) {
	testenv.NotShort(t, "Sendmail")
	r := serve(t, rego(t, "1", realPolicy), nil)
	sink := testmilter.StartSink(t)
	_, port, _ := strings.Cut(r.addr, ":")
	s := testmilter.StartSendmail(t, "inet:"+port+"@127.0.0.1", sink.Addr)

	t.Run("edits", func(t *testing.T) {
		x := testmilter.DialSMTP(t, s.Addr)
		x.Want("250", "EHLO laptop.example.com")
		for n := range 2 {
			x.Want("250", "MAIL FROM:<alice@example.com> RET=HDRS ENVID=abc")
			x.Want("250", "RCPT TO:<Bob@example.net>")
			x.Want("250", "RCPT TO:<carol@example.net>")
			if got := x.Data(testMessage("edit")); !strings.HasPrefix(got, "250") {
				t.Fatalf("message %d: %s", n, got)
			}
			mail := collect(t, sink, 2)
			want := edited(t, r.records.last(t, engine.StageMessage), testMessage("edit"))
			for _, m := range mail {
				if got := withoutTrace(m.Data); !bytes.Equal(got, want) {
					t.Errorf("arrived\n%s\nwant\n%s", got, want)
				}
				if !strings.HasPrefix(m.From, "<bounces@example.com>") || !strings.Contains(m.From, "RET=HDRS") || !strings.Contains(m.From, "ENVID=abc") {
					t.Errorf("sender %s", m.From)
				}
			}
			if to := recipients(mail); !slices.Equal(to, []string{"<archive@example.com>", "<carol@example.net>"}) {
				t.Errorf("recipients %v", to)
			}
		}
	})

	t.Run("replies", func(t *testing.T) {
		x := testmilter.DialSMTP(t, s.Addr)
		x.Want("250", "EHLO laptop.example.com")
		// Sendmail puts the address before a refusal at MAIL and RCPT, and not before a deferral.
		x.Want("553-5.7.1 <badmail@example.com>... 100% no\n553 5.7.1 second line", "MAIL FROM:<badmail@example.com>")
		x.Want("451 4.7.1 come back", "MAIL FROM:<latemail@example.com>")
		for test, want := range map[string]string{"reject": "550-5.7.1 100% refused\n550 5.7.1 by 2 lines", "defer": "451 4.7.1 later", "discard": "250", "quarantine": "250"} {
			x.Want("250", "MAIL FROM:<alice@example.com>")
			x.Want("550 5.7.1 <bad@example.net>... not this one", "RCPT TO:<bad@example.net>")
			x.Want("250", "RCPT TO:<bob@example.net>")
			if got := x.Data(testMessage(test)); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %q, want %q", test, got, want)
			}
		}
		x.Want("250", "MAIL FROM:<alice@example.com>")
		x.Want("250", "RCPT TO:<last@example.net>")
		if got := x.Data(testMessage("none")); !strings.HasPrefix(got, "250") {
			t.Fatal(got)
		}
		if m := sink.Next(t); !slices.Equal(recipients([]testmilter.Mail{m}), []string{"<last@example.net>"}) || !bytes.Equal(withoutTrace(m.Data), testMessage("none")) {
			t.Errorf("arrived %v\n%s", m.To, m.Data)
		}
		if in := r.records.last(t, engine.StageMessage).input; len(dig(in, "envelope", "to").([]any)) != 1 {
			t.Errorf("recipients %v leaked from a message before", dig(in, "envelope", "to"))
		}
	})

	t.Run("facts", func(t *testing.T) {
		x := testmilter.DialSMTP(t, s.Addr)
		x.Want("250", "EHLO before.example.com")
		x.StartTLS()
		x.Want("250", "EHLO after.example.com")
		x.Want("250", "MAIL FROM:<alice@example.com> BODY=8BITMIME")
		x.Want("250", "RCPT TO:<bob@example.net>")
		if got := x.Data(testMessage("none")); !strings.HasPrefix(got, "250") {
			t.Fatal(got)
		}
		sink.Next(t)
		for _, stage := range []engine.Stage{engine.StageMail, engine.StageRcpt, engine.StageMessage} {
			in := r.records.last(t, stage).input
			for path, want := range map[string]any{"auth": nil, "tls.version": "1.3", "tls.certificate": nil, "client.ip": "127.0.0.1",
				"client.ehlo": "after.example.com", "envelope.from.parameters.BODY": "8BITMIME"} {
				if got := dig(in, strings.Split(path, ".")...); got != want {
					t.Errorf("stage %v: %s is %v, want %v", stage, path, got, want)
				}
			}
			if slices.Contains(in["unknown"].([]any), "auth") {
				t.Errorf("stage %v: unknown %v", stage, in["unknown"])
			}
		}
	})
}

// TestMiltertest runs Debian's miltertest, an independent client of the protocol.
func TestMiltertest(t *testing.T) {
	testenv.NotShort(t, "miltertest")
	r := serve(t, rego(t, "1", realPolicy), nil)
	_, port, _ := strings.Cut(r.addr, ":")
	scripts, err := filepath.Glob("testdata/miltertest/*.lua")
	if err != nil || len(scripts) < 3 {
		t.Fatalf("%d scripts, %v", len(scripts), err)
	}
	for _, script := range scripts {
		t.Run(filepath.Base(script), func(t *testing.T) {
			if out, err := testmilter.Miltertest(t, script, "socket=inet:"+port+"@127.0.0.1"); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
