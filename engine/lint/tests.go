package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/engine/data"
)

// lintTests checks the bundle's tests against the schema and the rules, because a test that sets or reads a name that does not exist
// proves nothing. Tests may call all of OPA's builtins, as with `opa test`, and are not compiled strictly.
func lintTests(b *bundle.Bundle, rules *sources, store *data.Store) []contract.Finding {
	caps := ast.CapabilitiesForThisVersion()
	tests, findings := parseModules(b, caps, isTest)
	if len(tests.names) == 0 {
		return findings
	}
	// Nothing is evaluated, so no indexes are built.
	c := rules.compile(func() *ast.Compiler {
		return ast.NewCompiler().
			WithCapabilities(caps).
			WithEnablePrintStatements(true).
			WithUseTypeCheckAnnotations(true).
			WithSchemas(schemas()).
			WithSkipStages(ast.StageBuildRuleIndices, ast.StageBuildComprehensionIndices, ast.StageBuildRequiredCapabilities)
	}, tests.modules)
	for _, f := range tests.compilerFindings(c.Errors) {
		if _, ours := tests.raw[f.File]; ours || f.File == "" { // findings about rules are reported elsewhere
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
			findings = append(findings, tests.lintData(c, store, r, func(f contract.Finding) bool { return f.Code == contract.CodeMissingRule })...)
		}
	}
	return tests.silence(findings, !c.Failed())
}

// checkTests finds calls in the test modules of a bundle (_test.rego) that would use the network or read the environment. On a
// developer's machine `opa test` allows them; a server that runs the tests of a bundle must not. Builtins in allow are allowed to
// tests too, and replacing a builtin (`with http.send as ...`) is not a call.
func checkTests(b *bundle.Bundle, allow []string) []contract.Finding {
	var out []contract.Finding
	outside := contract.Unsafe()
	for _, m := range b.Modules {
		if m.Parsed == nil || !isTest(m.Path) {
			continue
		}
		lines := strings.Split(string(m.Raw), "\n")
		check := func(operator ast.Ref, at *ast.Location) {
			name := operator.String()
			if !outside[name] || slices.Contains(allow, name) {
				return
			}
			f := contract.Finding{Severity: contract.Fault, Code: contract.CodeReachesOut, File: strings.TrimPrefix(m.Path, "/"), Message: name + " is not available to tests that the server runs",
				Hint: fmt.Sprintf("replace it in the test: with %s as ...", name)}
			if at != nil {
				f.Line, f.Column = at.Row, at.Col
				if at.Row >= 1 && at.Row <= len(lines) {
					f.Text = strings.TrimRight(lines[at.Row-1], " \t\r")
				}
			}
			out = append(out, f)
		}
		ast.WalkNodes(m.Parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.With:
				if ref, ok := n.Value.Value.(ast.Ref); ok {
					check(ref, n.Location) // a builtin can replace another one
				}
			case *ast.Expr:
				if n.IsCall() {
					check(n.Operator(), n.Location)
				}
			case *ast.Term:
				if call, ok := n.Value.(ast.Call); ok && len(call) > 0 {
					if ref, ok := call[0].Value.(ast.Ref); ok {
						check(ref, n.Location)
					}
				}
			}
			return false
		})
	}
	return out
}
