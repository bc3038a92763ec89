package bundles

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

// rules is a bundle of n rules, so many a file.
func rules(n, perFile int) map[string]string {
	files := map[string]string{".manifest": `{"revision": "r"}`}
	for i := range n {
		name := fmt.Sprintf("postern/mail/d%02d/r%05d.rego", (i/perFile)%50, i/perFile)
		if files[name] == "" {
			files[name] = "package postern.mail\n"
		}
		files[name] += fmt.Sprintf(`
reject contains {"rule": "r%[1]d", "message": "Not from here"} if {
	input.client.name == "host%[1]d.example.com"
	input.envelope.from.domain == "d%[1]d.example"
}
`, i)
	}
	return files
}

func BenchmarkLoad(b *testing.B) {
	sizes := []int{100, 1000, 10000}
	if testing.Short() {
		sizes = sizes[:2]
	}
	for _, n := range sizes {
		dir := tempDir(b, rules(n, 1))
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				mustLoad(b, Dir(dir))
			}
		})
	}
}

// BenchmarkOneChangedFile loads 1,000 rules after one file changed; with compile, OPA's compiler runs too.
func BenchmarkOneChangedFile(b *testing.B) {
	for _, perFile := range []int{1, 50} {
		for _, compile := range []bool{false, true} {
			b.Run(fmt.Sprintf("files=%d/compile=%v", 1000/perFile, compile), func(b *testing.B) {
				dir := tempDir(b, rules(1000, perFile))
				l := &Loader{Source: Dir(dir)}
				for i := 0; b.Loop(); i++ {
					write(b, dir, map[string]string{"postern/mail/d00/r00000.rego": fmt.Sprintf("package postern.mail\n\nnote contains %d if true\n", i)})
					c, err := l.Load(context.Background())
					if err != nil {
						b.Fatal(err)
					}
					if compile {
						compileModules(b, c)
					}
				}
			})
		}
	}
}

func compileModules(b *testing.B, c *Candidate) {
	modules := map[string]*ast.Module{}
	for _, m := range c.Bundle.Modules {
		modules[m.Path] = m.Parsed
	}
	compiler := ast.NewCompiler().WithStrict(true)
	if compiler.Compile(modules); compiler.Failed() {
		b.Fatal(compiler.Errors)
	}
}

// BenchmarkDataOnly loads after the extra data of 1,000 rules changed: 10,000 users in JSON and in YAML.
func BenchmarkDataOnly(b *testing.B) {
	for _, kind := range []string{"json", "yaml"} {
		b.Run("kind="+kind, func(b *testing.B) {
			dir := tempDir(b, nil)
			write(b, filepath.Join(dir, "p"), rules(1000, 1))
			l := &Loader{Source: Dir(filepath.Join(dir, "p")), Data: []string{filepath.Join(dir, "senders."+kind)}}
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				var text strings.Builder
				text.WriteString("{\"senders\": {\n")
				for u := range 10_000 {
					fmt.Fprintf(&text, "\"user%d\": [\"user%d@example.com\", \"u%d.%d@example.com\"],\n", u, u, u, i)
				}
				text.WriteString("\"last\": []}}\n")
				out := text.String()
				if kind == "yaml" {
					out = "# YAML\n" + out
				}
				write(b, dir, map[string]string{"senders." + kind: out})
				b.StartTimer()
				if _, err := l.Load(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
