package engine

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/storage"
)

// DefaultTimeout bounds one evaluation where Options.Timeout is zero.
const DefaultTimeout = 100 * time.Millisecond

// Options of Compile. The zero value is the strict default.
type Options struct {
	// Timeout bounds one evaluation; 0: DefaultTimeout.
	Timeout time.Duration
	// AllowBuiltins names builtins that the default capabilities withhold and the operator allows all the same.
	AllowBuiltins []string
	// Revision where the bundle's manifest names none; "": a hash of its content.
	Revision string
	// FullInput builds every part of the input but the body, read or not, so that a logged input can be asked other policies
	// too. It costs what the parts cost.
	FullInput bool
	// NamedFields builds of message.header only the fields that rules look up by name, where all names are known: for who keeps no
	// input. A logged header is whole otherwise, so that a policy that looks up another field can be asked, too.
	NamedFields bool
	// Doors are the front ends that the bundle is for: lint warns of facts that one of them never knows.
	Doors []Door
	// Tests has lint look at the modules whose file name ends in _test.rego, too.
	Tests bool
}

// Compile builds a Policy: strict compile against the input schema and the allowed capabilities, contract check, read
// analysis, prepared queries, and one smoke transaction a stage. Errors about the bundle are *CompileError with file, line
// and column. Modules whose file name ends in _test.rego do not become part of it: they are for the tester. The Policy takes
// ownership of b.Data, which must not change afterwards.
func Compile(ctx context.Context, b *bundle.Bundle, o Options) (*Policy, error) {
	p, src, findings := build(b, o)
	if err := faults(findings); err != nil {
		return nil, err
	}
	p.warnings = findings // faults has left only those
	p.evaluateConstants(ctx)
	if err := p.smoke(ctx); err != nil {
		return nil, faults(src.quote(asFindings(err)))
	}
	return p, nil
}

// Check says everything that is wrong with a bundle, faults and warnings, in the order of files and lines; nil where
// nothing is. A bundle without faults compiles.
func Check(ctx context.Context, b *bundle.Bundle, o Options) []Finding {
	p, src, findings := build(b, o)
	if faults(findings) == nil {
		p.evaluateConstants(ctx)
		if err := p.smoke(ctx); err != nil {
			findings = append(findings, src.quote(asFindings(err))...)
		}
	}
	return findings
}

// build does all of Compile but the smoke transactions. The Policy is usable only if no finding is a Fault.
func build(b *bundle.Bundle, o Options) (*Policy, *sources, []Finding) {
	unknown := unknownBuiltins(o.AllowBuiltins)
	caps := capabilities(o.AllowBuiltins)
	src, findings := parse(b, caps)
	if len(findings) > 0 {
		return nil, src, sortFindings(append(unknown, findings...))
	}
	data := newStore(b.Data)
	c := src.compileWith(func() *ast.Compiler {
		return ast.NewCompiler().
			WithCapabilities(caps).
			WithStrict(true).
			WithEnablePrintStatements(false).
			WithUseTypeCheckAnnotations(true).
			WithSchemas(schemas()).
			WithPathConflictsCheck(storage.NonEmpty(context.Background(), data, nil)).
			WithSkipStages(ast.StageBuildRequiredCapabilities)
	}, nil)
	lint := append(unknown, src.lint(o.Doors)...)
	if c.Failed() {
		return nil, src, sortFindings(src.silence(append(lint, src.compilerFindings(c.Errors)...), false))
	}
	tables := src.tableReads(c)
	lint = append(append(lint, src.lintCompiled(c, data)...), tables.findings(data)...)
	lint = src.silence(lint, true)
	if o.Tests {
		lint = append(append(lint, lintTests(b, src, data)...), checkTests(b, o)...)
	}
	p := &Policy{
		compiler: c,
		full:     o.FullInput,
		named:    o.NamedFields,
		data:     data,
		timeout:  cmp.Or(max(o.Timeout, 0), DefaultTimeout),
		revision: cmp.Or(b.Manifest.Revision, o.Revision),
		code:     src.hash,
		values:   newValueCache(),
		tables:   tables,
		keys:     newKeys(),
		crew:     &crew{seed: maphash.MakeSeed()},
	}
	if p.revision == "" {
		p.revision = contentHash(src.hash, b.Data)
	}
	if err := p.prepare(src); err != nil {
		lint = append(lint, asFindings(err)...)
	}
	return p, src, sortFindings(lint)
}

// schemas for the type checker: the input contract for every module, and under the name schema.input for those
// whose annotations ask for it.
func schemas() *ast.SchemaSet {
	var doc any = contract().schema() // OPA makes JSON of it
	set := ast.NewSchemaSet()
	set.Put(ast.SchemaRootRef, doc)
	set.Put(ast.SchemaRootRef.Append(ast.StringTerm("input")), doc)
	return set
}

// unknownBuiltins finds names the operator allows that OPA does not have: a misspelling.
func unknownBuiltins(allow []string) []Finding {
	var out []Finding
	for _, name := range allow {
		if _, ok := ast.BuiltinMap[name]; !ok {
			out = append(out, Finding{Severity: Fault, Code: codeUnknownBuiltin, Message: fmt.Sprintf("allowed builtin %q does not exist", name),
				Hint: suggest(name, slices.Collect(maps.Keys(ast.BuiltinMap)))})
		}
	}
	return out
}

// contentHash names a bundle without a revision: the first 16 hex digits of a hash of its modules and data.
func contentHash(code string, data map[string]any) string {
	h := sha256.New()
	h.Write([]byte(code))
	if err := json.NewEncoder(h).Encode(data); err != nil { // map keys come out sorted
		fmt.Fprintf(h, "%v", data)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// asFindings makes findings of any error.
func asFindings(err error) []Finding {
	if c, ok := err.(*CompileError); ok {
		return c.Findings
	}
	return []Finding{{Severity: Fault, Code: codePolicy, Message: err.Error()}}
}
