package engine

import (
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
)

// TestTraced: a traced snapshot reports the rules that fire and decides as before; the snapshot that it was made of, and
// others with other data, stay as they were.
func TestTraced(t *testing.T) {
	const rego = "package postern.message\n\nreject contains \"one\" if input.id == \"t1\"\n\nreject contains \"two\" if input.id == \"t2\"\n"
	plain := compile(t, nil, rego)
	tracer := cover.New()
	traced := plain.Traced(tracer)
	if a, b := decide(plain, submission(t)), decide(traced, submission(t)); a.Verdict != Reject || b.Verdict != Reject || len(b.Reasons) != 1 {
		t.Errorf("%v %v", a, b)
	}
	if plain.tracer != nil {
		t.Error("the plain snapshot is traced too")
	}
	module := ast.MustParseModule(rego)
	report := tracer.Report(map[string]*ast.Module{"policy.rego": module})
	f := report.Files["policy.rego"]
	if !f.IsCovered(3) || f.IsCovered(5) {
		t.Errorf("covered: %+v", f.Covered)
	}
}
