package engine_test

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/table"
	"github.com/postern-mail/postern/policies"
)

// users is the number of logins in the data of the benchmarks.
const users = 10_000

// defaultBundle is the embedded bundle with data for n users.
func defaultBundle(t testing.TB, n int) *bundle.Bundle {
	t.Helper()
	b := &bundle.Bundle{Manifest: bundle.Manifest{Revision: "default"}}
	err := fs.WalkDir(policies.FS, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".rego") {
			return err
		}
		raw, err := fs.ReadFile(policies.FS, name)
		b.Modules = append(b.Modules, bundle.ModuleFile{URL: name, Path: name, Raw: raw})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var senders table.Members // as package bundles reads them
	for i := range n {
		if err := senders.Add(fmt.Sprintf("user%d", i), []any{fmt.Sprintf("user%d@example.com", i), fmt.Sprintf("u%d@example.org", i)}); err != nil {
			t.Fatal(err)
		}
	}
	b.Data = map[string]any{"senders": senders.Object(), "groups": map[string]any{}, "settings": map[string]any{"domain": "example.com"}}
	return b
}

// defaultPolicy compiles it.
func defaultPolicy(t testing.TB, n int) *engine.Policy {
	t.Helper()
	p, err := engine.Compile(context.Background(), defaultBundle(t, n), engine.Options{Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestRecipientsAreCounted: at RCPT the default bundle reads how many recipients came before, and not who they are. Otherwise the cost of
// a message, and its lines in the log, would grow with the square of its recipients.
func TestRecipientsAreCounted(t *testing.T) {
	var log inputs
	e := engine.Engine{Recorder: &log}
	e.Swap(defaultPolicy(t, 10))
	tr := typical(t, 10)
	tr.Stage, tr.Message = engine.StageRcpt, nil
	to := tr.Envelope.To
	for i := range to {
		tr.Envelope.To, tr.Recipient = to[:i], &to[i]
		if d := e.Decide(context.Background(), tr); d.Verdict != engine.Accept {
			t.Fatal(d)
		}
		if line := string(log.last); strings.Contains(line, `"to":`) || !strings.Contains(line, fmt.Sprintf(`"recipient_count":%d`, i)) {
			t.Fatalf("recipient %d: %s", i, line)
		}
	}
}

// inputs keeps the last input that was recorded.
type inputs struct{ last []byte }

func (l *inputs) Record(_ context.Context, r engine.Record) error {
	l.last = r.Input.AppendJSON(l.last[:0])
	return nil
}

// typical is a message of one of n users: 25 header fields, 10 recipients.
func typical(t testing.TB, user int) *engine.Transaction {
	t.Helper()
	var h strings.Builder
	login := fmt.Sprintf("user%d", user)
	fmt.Fprintf(&h, "From: User Name <%s@example.com>\r\n", login)
	h.WriteString("Subject: Minutes of the meeting on Thursday\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\nMIME-Version: 1.0\r\n")
	fmt.Fprintf(&h, "Message-ID: <%d@example.com>\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n", rand.Int())
	h.WriteString("User-Agent: Mozilla Thunderbird\r\nContent-Language: en-US\r\nX-Mailer: example\r\nAutocrypt: addr=a@example.com; keydata=mDMEZabc\r\n")
	h.WriteString("In-Reply-To: <abc@example.net>\r\nReferences: <abc@example.net>\r\n <def@example.net>\r\n")
	var to []engine.Recipient
	for i := range 10 {
		address := fmt.Sprintf("recipient%d", i)
		to = append(to, engine.Recipient{Path: message.Path{Mailbox: message.Mailbox{Local: address, Domain: "example.net"}}})
	}
	h.WriteString("To: recipient0@example.net, Recipient One <recipient1@example.net>,\r\n recipient2@example.net, recipient3@example.net\r\n")
	h.WriteString("Cc: recipient4@example.net, recipient5@example.net, recipient6@example.net\r\n")
	for i := range 10 {
		fmt.Fprintf(&h, "X-Header-%d: value of the header field number %d\r\n", i, i)
	}
	h.WriteString("\r\n")
	header, err := message.ParseHeader([]byte(h.String()), message.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if header.Len() != 25 {
		t.Fatalf("%d header fields", header.Len())
	}
	return &engine.Transaction{
		ID: "transaction-1", Stage: engine.StageMessage, Now: time.Unix(1767225600, 0),
		Server:   engine.Server{Hostname: "mail.example.com", Listener: ":587", Door: "submission"},
		Client:   engine.Client{IP: netip.MustParseAddr("192.0.2.7"), Port: 4711, EHLO: "laptop"},
		TLS:      &engine.TLS{Version: "1.3", Cipher: "TLS_AES_128_GCM_SHA256"},
		Auth:     &engine.Auth{Login: login, Mechanism: "PLAIN", Backend: "file"},
		Envelope: &engine.Envelope{From: message.Path{Mailbox: message.Mailbox{Local: login, Domain: "example.com"}}, To: to},
		Message: &engine.Message{Header: header, Size: 4096,
			Generated: engine.Generated{MessageID: "<1@mail.example.com>", Date: "Thu, 01 Jan 2026 00:00:00 +0000"}},
	}
}

func TestDefaultBundle(t *testing.T) {
	for _, f := range engine.Check(context.Background(), defaultBundle(t, 10), engine.Options{Timeout: 10 * time.Second}) {
		t.Errorf("%v", f)
	}
	var e engine.Engine
	e.Swap(defaultPolicy(t, 10))
	tr := typical(t, 3)
	if d := e.Decide(context.Background(), tr); d.Verdict != engine.Accept || d.Err != nil || d.Edits.Len() != 0 {
		t.Errorf("own message: %v %v %v", d.Verdict, d.Reasons, d.Err)
	}
	tr.Auth.Login = "user4"
	if d := e.Decide(context.Background(), tr); d.Verdict != engine.Reject || d.Err != nil {
		t.Errorf("message of another: %v %v %v", d.Verdict, d.Reasons, d.Err)
	}
}

// BenchmarkDecideMessage: the number of users does not matter. B/user is what the data of one takes.
func BenchmarkDecideMessage(b *testing.B) {
	for _, n := range []int{1_000, users, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("senders=%d", n), func(b *testing.B) {
			before := heap()
			p := defaultPolicy(b, n)
			bytes := float64(heap() - before)
			var e engine.Engine
			e.Swap(p)
			tr := typical(b, n/2)
			ctx := context.Background()
			if d := e.Decide(ctx, tr); d.Verdict != engine.Accept {
				b.Fatalf("%v %v %v", d.Verdict, d.Reasons, d.Err)
			}
			b.ReportAllocs()
			for b.Loop() {
				e.Decide(ctx, tr)
			}
			b.ReportMetric(bytes/float64(n), "B/user")
		})
	}
}

// heap that is in use.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what the first one has freed, pools among it
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestSendersMemory holds the default bundle to what is promised: 300 B a user, the code apart.
func TestSendersMemory(t *testing.T) {
	const n = 20_000
	before := heap()
	few := defaultPolicy(t, 10)
	code := heap() - before
	before = heap()
	many := defaultPolicy(t, n)
	per := float64(heap()-before-code) / n
	runtime.KeepAlive(few)
	runtime.KeepAlive(many)
	if t.Logf("%.0f B a user", per); per > 300 {
		t.Errorf("%.0f B a user", per)
	}
}

func BenchmarkDecideMessageParallel(b *testing.B) {
	var e engine.Engine
	e.Swap(defaultPolicy(b, users))
	tr := typical(b, 5000)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			e.Decide(context.Background(), tr)
		}
	})
}
