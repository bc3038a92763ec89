package engine

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/postern-mail/postern/engine/lint"
)

// manyRules is a bundle of n rules, refusals and their helpers, so many a file.
func manyRules(n, perFile int) *bundle.Bundle {
	b := &bundle.Bundle{Data: map[string]any{"senders": map[string]any{"alice": []any{"alice@example.com"}}}}
	for first := 0; first < n; first += perFile {
		var rego strings.Builder
		rego.WriteString("package postern.mail\n\nimport data.senders\n")
		for i := first; i < min(first+perFile, n); i += 2 {
			fmt.Fprintf(&rego, `
reject contains {"rule": "r%[1]d", "code": 550, "status": "5.7.1", "message": sprintf("Not from %%s", [input.envelope.from.domain])} if {
	input.envelope.from.domain == "d%[1]d.example"
	not _ok%[1]d
}

_ok%[1]d if {
	some address in senders[input.auth.login]
	address == input.envelope.from.key
}
`, i)
		}
		b.Modules = append(b.Modules, bundle.ModuleFile{Path: fmt.Sprintf("postern/mail/r%05d.rego", first), Raw: []byte(rego.String())})
	}
	return b
}

// BenchmarkCheck is parsing, compiling, lint, read analysis and smoke transactions of a bundle with a hundred rules a file,
// the share of lint in it, and the same with ten rules a file: OPA's compiler looks at all rules of a package for every
// file of it. live is the heap that the policy holds.
func BenchmarkCheck(b *testing.B) {
	ctx := context.Background()
	sizes := []int{100, 1_000, 10_000}
	if testing.Short() {
		sizes = sizes[:1]
	}
	for _, n := range sizes {
		bundle := manyRules(n, 100)
		b.Run(fmt.Sprintf("rules=%d/do=all", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if found := Check(ctx, bundle, Options{Timeout: time.Minute, Tests: true}); len(found) > 0 {
					b.Fatal(found[0])
				}
			}
		})
		b.Run(fmt.Sprintf("rules=%d/do=check", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, found := lint.Check(bundle, lint.Options{}); len(found) > 0 {
					b.Fatal(found[0])
				}
			}
		})
		if n < 10_000 { // minutes of OPA's compiler otherwise
			b.Run(fmt.Sprintf("rules=%d/do=ten-a-file", n), func(b *testing.B) {
				scattered := manyRules(n, 10)
				b.ReportAllocs()
				for b.Loop() {
					if found := Check(ctx, scattered, Options{Timeout: time.Minute, Tests: true}); len(found) > 0 {
						b.Fatal(found[0])
					}
				}
			})
		}
		b.Run(fmt.Sprintf("rules=%d/do=live", n), func(b *testing.B) {
			var p *Policy
			before := heap()
			for b.Loop() {
				var err error
				if p, err = Compile(ctx, bundle, Options{Timeout: time.Minute}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(heap()-before)/(1<<20), "MiB-live")
			runtime.KeepAlive(p)
		})
	}
}

// heap that is in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
