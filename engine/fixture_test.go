package engine

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/postern-mail/postern/internal/message"
)

// moduleBundle is a bundle of modules, file name then text, and data.
func moduleBundle(data map[string]any, files ...string) *bundle.Bundle {
	b := &bundle.Bundle{Data: data, Manifest: bundle.Manifest{Revision: "test"}}
	for i := 0; i < len(files); i += 2 {
		b.Modules = append(b.Modules, bundle.ModuleFile{Path: "/" + files[i], URL: files[i], Raw: []byte(files[i+1])})
	}
	return b
}

// compile is Compile of a single message stage, which must succeed. Options may follow.
func compile(t testing.TB, data map[string]any, rego string, opts ...Options) *Policy {
	t.Helper()
	o := Options{Timeout: 5 * time.Second}
	if len(opts) > 0 {
		o = opts[0]
	}
	p, err := Compile(context.Background(), moduleBundle(data, "policy.rego", rego), o)
	if err != nil {
		t.Fatalf("compile: %v", err)
	}
	return p
}

// path of an address.
func path(address string) message.Path {
	local, domain, _ := strings.Cut(address, "@")
	return message.Path{Mailbox: message.Mailbox{Local: local, Domain: domain}}
}

// submission is a message from alice to bob.
func submission(t testing.TB) *Transaction {
	t.Helper()
	return transactionOf(t, "From: Alice <alice@example.com>\r\nTo: bob@example.net\r\nSubject: hello\r\nX-Tag: one\r\nX-Tag: two\r\n\r\n")
}

func transactionOf(t testing.TB, header string) *Transaction {
	t.Helper()
	h, err := message.ParseHeader([]byte(header), message.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return &Transaction{
		ID: "t1", Stage: StageMessage, Now: time.Unix(1767225600, 0),
		Server: Server{Hostname: "mail.example.com", Listener: ":587", Door: "submission"},
		Client: Client{IP: netip.MustParseAddr("192.0.2.7"), Port: 4711, EHLO: "laptop"},
		TLS:    &TLS{Version: "1.3", Cipher: "TLS_AES_128_GCM_SHA256"},
		Auth:   &Auth{Login: "alice", Mechanism: "PLAIN", Backend: "file", Groups: []string{"staff"}, Attributes: map[string][]string{"mail": {"alice@example.com"}}},
		Envelope: &Envelope{
			From: path("alice@example.com"), FromParams: message.Params{"SIZE": "100"},
			To: []Recipient{{Path: path("bob@example.net"), Params: message.Params{"NOTIFY": "NEVER"}}},
		},
		Message: &Message{Header: h, Size: 100, Body: func(int) ([]byte, error) { return []byte("body text"), nil },
			Generated: Generated{MessageID: "<1@mail.example.com>", Date: "Thu, 01 Jan 2026 00:00:00 +0000"}},
	}
}

// decide by one policy.
func decide(p *Policy, tr *Transaction) Decision {
	var e Engine
	e.Swap(p)
	return e.Decide(context.Background(), tr)
}
