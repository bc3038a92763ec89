package lint

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/storage"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/engine/data"
)

// Options of Check. The zero value is the strict default.
type Options struct {
	// AllowBuiltins names builtins that policies may call although the default capabilities withhold them.
	AllowBuiltins []string
	// Doors are the front ends that the bundle is for, named as in input.server.door. Check warns of facts that one of them never knows.
	Doors []string
	// Tests has Check look at the modules whose file name ends in _test.rego too.
	Tests bool
}

// Bundle is a bundle that Check has compiled.
type Bundle struct {
	Compiler *ast.Compiler
	Data     *data.Store
	Hash     string     // of the modules' names and contents
	EditOps  []string   // edit operations that the rules can produce; all of them if that cannot be told
	Reads    TableReads // what the rules read of data as a whole

	src *sources
}

// Check compiles a bundle strictly, against the input schema and the allowed capabilities, and finds everything that is wrong
// with it. Findings are not sorted (contract.Sort). The Bundle is nil if OPA refuses a module; it must not be used if one of
// the findings is a Fault. Tests are no part of it. It takes ownership of b.Data, which must not change afterwards.
func Check(b *bundle.Bundle, o Options) (*Bundle, []contract.Finding) {
	unknown := unknownBuiltins(o.AllowBuiltins)
	caps := contract.Capabilities(o.AllowBuiltins)
	src, findings := parse(b, caps)
	if len(findings) > 0 {
		return nil, append(unknown, findings...)
	}
	store := data.New(b.Data)
	c := src.compile(func() *ast.Compiler {
		return ast.NewCompiler().
			WithCapabilities(caps).
			WithStrict(true).
			WithEnablePrintStatements(false).
			WithUseTypeCheckAnnotations(true).
			WithSchemas(schemas()).
			WithPathConflictsCheck(storage.NonEmpty(context.Background(), store, nil)).
			WithSkipStages(ast.StageBuildRequiredCapabilities)
	}, nil)
	findings = append(unknown, src.lintModules(doorsOf(o.Doors))...)
	if c.Failed() {
		return nil, src.silence(append(findings, src.compilerFindings(c.Errors)...), false)
	}
	reads := src.tableReads(c)
	findings = append(append(findings, src.lintCompiled(c, store)...), reads.Findings(store)...)
	findings = src.silence(findings, true)
	if o.Tests {
		findings = append(append(findings, lintTests(b, src, store)...), checkTests(b, o.AllowBuiltins)...)
	}
	return &Bundle{Compiler: c, Data: store, Hash: src.hash, EditOps: src.editOps(), Reads: reads, src: src}, findings
}

// Quote puts the source line into findings that have a line number and no text.
func (b *Bundle) Quote(findings []contract.Finding) []contract.Finding { return b.src.quote(findings) }

// PathConflicts returns the findings about rules at whose path there is data.
func PathConflicts(ctx context.Context, c *ast.Compiler, store *data.Store) []contract.Finding {
	return (&sources{}).compilerFindings(ast.CheckPathConflicts(c, storage.NonEmpty(ctx, store, nil)))
}

// unknownBuiltins finds names that the operator allows and OPA does not have, such as misspelt ones.
func unknownBuiltins(allow []string) []contract.Finding {
	var out []contract.Finding
	for _, name := range allow {
		if _, ok := ast.BuiltinMap[name]; !ok {
			out = append(out, contract.Finding{Severity: contract.Fault, Code: contract.CodeUnknownBuiltin, Message: fmt.Sprintf("allowed builtin %q does not exist", name),
				Hint: contract.Suggest(name, slices.Collect(maps.Keys(ast.BuiltinMap)))})
		}
	}
	return out
}

// lintModules checks the modules as they were written. In a stage's package,
//
//   - every rule is a decision set of that stage, written with contains, or private: its name begins with "_";
//   - a function may have any name that is not a set's.
//
// Rules that several packages share belong into another package, such as postern.lib.<name>.
func (s *sources) lintModules(doors []door) []contract.Finding {
	var out []contract.Finding
	refusals := map[contract.Stage]*stageRefusals{}
	defined := map[contract.Stage]bool{}
	present := map[contract.Stage]*ast.Package{}
	for _, name := range s.names {
		m := s.modules[name]
		stage, ok := contract.StageOf(m.Package)
		out = append(out, s.lintPackage(m.Package, stage)...)
		sc := s.moduleScope(m)
		for _, r := range m.Rules {
			sc.enter(r)
			out = append(out, sc.lintNegations(r)...)
			out = append(out, sc.lintEmpty(r)...)
			out = append(out, sc.lintWith(r)...)
			out = append(out, sc.lintLocals(r)...)
			out = append(out, sc.lintDoors(r, doors)...)
			if !ok {
				continue
			}
			if refusals[stage] == nil {
				refusals[stage] = &stageRefusals{}
			}
			refusals[stage].collect(sc, r)
			fs, set := sc.lintRule(r)
			out = append(out, fs...)
			defined[stage] = defined[stage] || set || len(fs) > 0 // there is a finding about a misspelt set
		}
		if ok {
			present[stage] = m.Package
		}
	}
	for stage, pkg := range present {
		if !defined[stage] {
			out = append(out, s.at(contract.CodeEmptyStage, pkg.Location, "sets: "+strings.Join(contract.SetNames(stage), ", "),
				"package postern.%s defines no decision set", stage))
		}
	}
	if len(present) == 0 {
		var first *ast.Location
		if len(s.names) > 0 {
			first = s.modules[s.names[0]].Package.Location
		}
		out = append(out, s.at(contract.CodeNoStage, first, "write for example: package postern.mail",
			"the bundle defines no stage: no package postern.connect, postern.mail, postern.rcpt or postern.message"))
	}
	return append(out, s.lintNeeds(refusals)...)
}
