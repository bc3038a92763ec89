package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/postern-mail/postern/engine/contract"
)

// BenchmarkDecode makes a Decision of what policy answered: nothing, a refusal, edits, many reasons.
func BenchmarkDecode(b *testing.B) {
	many := make([]any, 100)
	for i := range many {
		many[i] = map[string]any{"rule": fmt.Sprint("rule", i), "code": 550, "status": "5.7.1", "message": "Not from here"}
	}
	for name, sets := range map[string]map[string][]any{
		"empty":  {},
		"reject": {"reject": {map[string]any{"rule": "r", "code": 550, "status": "5.7.1", "message": "Not from here"}}},
		"edits": {"edit": {
			map[string]any{"op": "add_header", "name": "Sender", "value": "alice@example.com"}, map[string]any{"op": "remove_header", "name": "Bcc"},
			map[string]any{"op": "add_header", "name": "Message-ID", "value": "<1@example.com>"}, map[string]any{"op": "add_recipient", "address": "bob@example.net"},
		}},
		"many": {"reject": many},
	} {
		b.Run("answer="+name, func(b *testing.B) {
			st := &stage{name: "message", sets: contract.SetNames(StageMessage)}
			out := answer{}
			for _, set := range st.sets {
				s := ast.NewSet()
				for _, v := range sets[set] {
					s.Add(ast.NewTerm(ast.MustInterfaceToValue(v)))
				}
				out[ast.Var(set)] = ast.NewTerm(s)
			}
			tr := &Transaction{Stage: StageMessage, Envelope: &Envelope{}}
			b.ReportAllocs()
			for b.Loop() {
				if _, fail := decode(tr, st, out); fail != nil {
					b.Fatal(fail)
				}
			}
		})
	}
}

// BenchmarkInputFields is the input as the header grows.
func BenchmarkInputFields(b *testing.B) {
	k := newKeys()
	for _, n := range []int{5, 50, 500} {
		b.Run(fmt.Sprintf("fields=%d", n), func(b *testing.B) {
			var h strings.Builder
			for i := range n {
				fmt.Fprintf(&h, "X-Header-%d: value of header field number %d\r\n", i, i)
			}
			tr := transactionOf(b, h.String()+"\r\n")
			b.ReportAllocs()
			for b.Loop() {
				in := builder{k: k}
				if _, err := in.build(tr, contract.PartsAll&^contract.PartMessageBody); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCompile is a bundle of nothing but its rules, from text to a policy that may be swapped in.
func BenchmarkCompile(b *testing.B) {
	sizes := []int{1, 100, 1000, 10_000}
	if testing.Short() {
		sizes = sizes[:3]
	}
	for _, n := range sizes {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			var rego strings.Builder
			rego.WriteString("package postern.message\n")
			for i := range n {
				fmt.Fprintf(&rego, "reject contains \"r%d\" if input.auth.login == \"user%d\"\n", i, i)
			}
			from := &bundle.Bundle{Manifest: bundle.Manifest{Revision: "r"}, Data: map[string]any{},
				Modules: []bundle.ModuleFile{{URL: "r.rego", Path: "r.rego", Raw: []byte(rego.String())}}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Compile(context.Background(), from, Options{Timeout: time.Minute}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
