package engine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
)

// checkTests finds calls in the test modules of a bundle (_test.rego) that would reach out of the process: to the network or
// into its environment. Stock `opa test` lets tests do so on a developer's machine; a server that runs the tests of what it is
// sent must not. Builtins that the operator allows are allowed to tests, too, and replacing one (`with http.send as ...`) is no
// call.
func checkTests(b *bundle.Bundle, o Options) []Finding {
	var out []Finding
	outside := reachOut()
	for _, m := range b.Modules {
		if m.Parsed == nil || !isTest(m.Path) {
			continue
		}
		lines := strings.Split(string(m.Raw), "\n")
		check := func(operator ast.Ref, at *ast.Location) {
			name := operator.String()
			if !outside[name] || slices.Contains(o.AllowBuiltins, name) {
				return
			}
			f := Finding{Severity: Fault, Code: codeReachesOut, File: strings.TrimPrefix(m.Path, "/"), Message: name + " is not available to tests that the server runs",
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
					check(ref, n.Location) // a builtin can stand in for another
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

// reachOut names the builtins that touch more than their arguments. Some of json's and graphql's fetch what a schema refers to.
func reachOut() map[string]bool {
	out := map[string]bool{"http.send": true, "net.lookup_ip_addr": true, "opa.runtime": true}
	all := denied()
	for name, why := range all {
		out[name] = out[name] || why == all["json.match_schema"]
	}
	return out
}
