package engine

import (
	"context"
	"fmt"
	"testing"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/message"
)

// TestMemo: with a memo a transaction has the input that it has without, whatever changes between two questions.
func TestMemo(t *testing.T) {
	tr := full(t)
	tr.Memo = &Memo{}
	two := 2
	rcpt := func(local string, p message.Params) Recipient {
		return Recipient{Path: path(local + "@example.net"), Params: p}
	}
	for i, change := range []func(){
		func() {},
		func() { tr.Auth = &Auth{Login: "alice", Mechanism: "PLAIN", Backend: "file", Groups: []string{"a"}} },
		func() { tr.Auth.Groups[0] = "b" },
		func() { tr.Auth.Groups = nil },
		func() { tr.Auth.Login = "bob" },
		func() { tr.Auth.Mechanism = "LOGIN" },
		func() { tr.Auth.Backend = "ldap" },
		func() { tr.Auth.AuthzID = "carol" },
		func() { tr.Auth.RecentFailures = &two },
		func() { two = 3 },
		func() { tr.Auth.Attributes = map[string][]string{"mail": {"x@example.com"}} },
		func() { tr.Auth.Attributes["mail"][0] = "y@example.com" },
		func() { tr.Auth.Attributes = nil },
		func() { tr.Auth.Certificate = &Certificate{Subject: "CN=a"} },
		func() { tr.Auth = nil },
		func() { tr.Envelope.From = path("bob@example.com") },
		func() { tr.Envelope.From.Local = "Bob" },
		func() { tr.Envelope.From = message.Path{Null: true} },
		func() { tr.Envelope.FromParams = message.Params{"SIZE": "1"} },
		func() { tr.Envelope.FromParams["SIZE"] = "2" },
		func() { tr.Envelope.FromParams["BODY"] = "8BITMIME" },
		func() { tr.Envelope.To = []Recipient{rcpt("r0", nil)} },
		func() {
			tr.Envelope.To = append(tr.Envelope.To, rcpt("r1", message.Params{"NOTIFY": "NEVER"}), rcpt("r2", nil))
		},
		func() { tr.Envelope.To[1].Params["NOTIFY"] = "DELAY" },
		func() { tr.Envelope.To[1].Params = nil },
		func() { tr.Envelope.To[0], tr.Envelope.To[2] = tr.Envelope.To[2], tr.Envelope.To[0] },
		func() { tr.Envelope.To[2].Domain = "example.org" },
		func() { tr.Envelope.To = tr.Envelope.To[1:] },
		func() { tr.Unknown = []string{"tls"} },
		func() { tr.Unknown[0] = "auth" },
		func() { tr.Unknown = nil },
		func() { tr.Stage = StageRcpt; r := rcpt("r9", nil); tr.Recipient = &r },
	} {
		change()
		for range 2 {
			with, without := builder{k: newKeys(), memo: tr.Memo}, builder{k: newKeys()}
			a, err := with.build(tr, contract.PartsAll&^contract.PartMessageBody)
			if err != nil {
				t.Fatal(err)
			}
			b, err := without.build(tr, contract.PartsAll&^contract.PartMessageBody)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := string(appendValue(nil, a)), string(appendValue(nil, b)); got != want || a.Compare(b) != 0 || with.octets != without.octets {
				t.Fatalf("change %d: %d octets\n%s\nwithout a memo %d octets\n%s", i, with.octets, got, without.octets, want)
			}
		}
	}
}

// BenchmarkRecipients is the RCPT commands of a hundred recipients, each of which is told of those before.
func BenchmarkRecipients(b *testing.B) {
	for _, memo := range []bool{false, true} {
		b.Run(fmt.Sprint("memo=", memo), func(b *testing.B) {
			p := compile(b, nil, `package postern.rcpt
reject contains "x" if count(input.envelope.to) > 1000`)
			var e Engine
			e.Swap(p)
			tr := large(b)
			tr.Stage = StageRcpt
			b.ReportAllocs()
			for b.Loop() {
				tr.Envelope.To, tr.Memo = nil, nil
				if memo {
					tr.Memo = &Memo{}
				}
				for i := range 100 {
					r := Recipient{Path: path(fmt.Sprintf("r%d@example.net", i))}
					tr.Recipient = &r
					if d := e.Decide(context.Background(), tr); d.Verdict != Accept {
						b.Fatal(d.Err)
					}
					tr.Envelope.To = append(tr.Envelope.To, r)
				}
			}
		})
	}
}
