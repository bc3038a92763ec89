package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/internal/table"
)

// large is a message with 25 header fields and 10 recipients.
func large(t testing.TB) *Transaction {
	var h strings.Builder
	h.WriteString("From: Alice <alice@example.com>\r\nTo: r0@example.net, r1@example.net, r2@example.net\r\nCc: r4@example.net, r5@example.net\r\nSubject: minutes\r\n")
	for i := range 21 {
		fmt.Fprintf(&h, "X-Header-%d: value of header field number %d\r\n", i, i)
	}
	tr := transactionOf(t, h.String()+"\r\n")
	tr.Envelope.To = nil
	for i := range 10 {
		tr.Envelope.To = append(tr.Envelope.To, Recipient{Path: path(fmt.Sprintf("r%d@example.net", i))})
	}
	return tr
}

// BenchmarkInput is the whole input but the body; BenchmarkReadFacts is the share of the address parser in it.
func BenchmarkInput(b *testing.B) {
	tr := large(b)
	k := newKeys()
	b.ReportAllocs()
	for b.Loop() {
		in := builder{k: k}
		if _, err := in.build(tr, contract.PartsAll&^contract.PartMessageBody); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadFacts(b *testing.B) {
	tr := large(b)
	b.ReportAllocs()
	for b.Loop() {
		message.ReadFacts(tr.Message.Header)
	}
}

// BenchmarkInputJSON is the encoding of the same for the decision log.
func BenchmarkInputJSON(b *testing.B) {
	in := builder{k: newKeys()}
	v, err := in.build(large(b), contract.PartsAll&^contract.PartMessageBody)
	if err != nil {
		b.Fatal(err)
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendValue(buf[:0], v)
	}
	b.SetBytes(int64(len(buf)))
}

// BenchmarkLeast is the least policy: what the machinery costs without rules. way=inline leaves out the goroutine.
func BenchmarkLeast(b *testing.B) {
	p := compile(b, nil, "package postern.message\nreject contains \"x\" if input.id == \"\"")
	tr := large(b)
	b.Run("way=decide", func(b *testing.B) {
		var e Engine
		e.Swap(p)
		b.ReportAllocs()
		for b.Loop() {
			e.Decide(context.Background(), tr)
		}
	})
	b.Run("way=inline", func(b *testing.B) {
		st := p.stages[StageMessage]
		c := newCaches(p.workers.seed)
		b.ReportAllocs()
		for b.Loop() {
			in, _ := p.input(tr, st.reads, st.fields)
			if _, fail := p.run(context.Background(), evaluation{stage: st, input: in.value}, topdown.NewCancel(), c); fail != nil {
				b.Fatal(fail)
			}
		}
	})
}

// BenchmarkIndexedRules: the number of rules that the index can tell apart does not matter.
func BenchmarkIndexedRules(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			var rego strings.Builder
			rego.WriteString("package postern.message\n")
			for i := range n {
				fmt.Fprintf(&rego, "reject contains \"r%d\" if input.auth.login == \"user%d\"\n", i, i)
			}
			p := compile(b, nil, rego.String())
			tr := large(b)
			var e Engine
			e.Swap(p)
			b.ReportAllocs()
			for b.Loop() {
				e.Decide(context.Background(), tr)
			}
		})
	}
}

// BenchmarkWithData is a change of data alone, of 100,000 users.
func BenchmarkWithData(b *testing.B) {
	p := compile(b, nil, "package postern.message\nreject contains \"x\" if data.senders[input.auth.login][_] == \"none\"")
	data := packedData(b, map[string]any{"senders": senders(100_000)}, table.Large) // as package bundles yields it
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.WithData(context.Background(), data, "r"); err != nil {
			b.Fatal(err)
		}
	}
}
