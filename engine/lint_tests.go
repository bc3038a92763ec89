package engine

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
)

// lintTests holds the bundle's tests against the schema and the rules: a test that sets or reads a name that does not
// exist proves nothing. Tests have all of OPA's builtins, as with stock `opa test`, and need not be strict.
func lintTests(b *bundle.Bundle, rules *sources, data *store) []Finding {
	caps := ast.CapabilitiesForThisVersion()
	tests, findings := parseModules(b, caps, isTest)
	if len(tests.names) == 0 {
		return findings
	}
	// Nothing is asked of it, so there is no need for indexes.
	c := rules.compileWith(func() *ast.Compiler {
		return ast.NewCompiler().
			WithCapabilities(caps).
			WithEnablePrintStatements(true).
			WithUseTypeCheckAnnotations(true).
			WithSchemas(schemas()).
			WithSkipStages(ast.StageBuildRuleIndices, ast.StageBuildComprehensionIndices, ast.StageBuildRequiredCapabilities)
	}, tests.modules)
	for _, f := range tests.compilerFindings(c.Errors) {
		if _, ours := tests.raw[f.File]; ours || f.File == "" { // the others have been said
			findings = append(findings, f)
		}
	}
	for _, name := range tests.names {
		m := tests.modules[name]
		sc := tests.moduleScope(m)
		for _, r := range m.Rules {
			sc.enter(r)
			findings = append(findings, sc.lintWith(r)...)
			findings = append(findings, sc.lintLocals(r)...)
		}
		if c.Failed() {
			continue
		}
		for _, r := range c.Modules[name].Rules {
			findings = append(findings, tests.lintData(c, data, r, func(f Finding) bool { return f.Code == codeMissingRule })...)
		}
	}
	return tests.silence(findings, !c.Failed())
}

// lintWith checks what `with` puts into input: the path, and the keys of what is written out.
func (sc *scope) lintWith(r *ast.Rule) (out []Finding) {
	ast.NewGenericVisitor(func(x any) bool {
		w, ok := x.(*ast.With)
		if !ok {
			return false
		}
		rest, o, ok := sc.resolve(w.Target)
		if !ok || o.fact == nil || len(o.path) > 0 {
			return false
		}
		f := o.fact
		for i, el := range rest {
			key, constant := el.Value.(ast.String)
			if !constant || f.kind != closed {
				return false
			}
			next := f.field(string(key))
			if next == nil {
				out = append(out, sc.noFact(el.Loc(), ast.InputRootRef.Concat(termsOf(rest[:i])).String(), string(key), f))
				return false
			}
			f = next
		}
		out = append(out, sc.lintFacts(w.Value, ast.InputRootRef.Concat(termsOf(rest)).String(), f)...)
		return false
	}).Walk(r)
	return out
}

func termsOf(ref ast.Ref) []*ast.Term { return ref }

// lintFacts checks a value that is written out against the fact that it stands for.
func (sc *scope) lintFacts(t *ast.Term, at string, f *fact) (out []Finding) {
	switch v := t.Value.(type) {
	case ast.Object:
		if f.kind != closed {
			return nil
		}
		v.Foreach(func(k, v *ast.Term) {
			key, ok := k.Value.(ast.String)
			if !ok {
				return
			}
			next := f.field(string(key))
			if next == nil {
				out = append(out, sc.noFact(k.Loc(), at, string(key), f))
				return
			}
			out = append(out, sc.lintFacts(v, at+"."+string(key), next)...)
		})
	case *ast.Array:
		if f.kind == list {
			v.Foreach(func(el *ast.Term) { out = append(out, sc.lintFacts(el, at+"[_]", f.item)...) })
		}
	}
	return out
}

// noFact words a fact that does not exist.
func (sc *scope) noFact(loc *ast.Location, at, key string, f *fact) Finding {
	return sc.src.at(codeUnknownFact, loc, oneOf(key, at+".", f.names()), "%s has no %q: `with` sets what no message has", at, key)
}
