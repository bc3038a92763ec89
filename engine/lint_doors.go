package engine

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Door is a front end that a bundle is checked for.
type Door struct {
	Name    string   // as in input.server.door
	Unknown []string // dotted paths of facts that it never knows
}

// lintDoors warns of facts that a front end in use never knows, unless the rule is for another one only, or looks into
// input.unknown.
func (sc *scope) lintDoors(r *ast.Rule, doors []Door) (out []Finding) {
	if len(doors) == 0 {
		return nil
	}
	only, looks := "", false
	ast.WalkExprs(r.Body, func(e *ast.Expr) bool {
		if !e.Negated && e.IsCall() && len(e.Operands()) == 2 && (e.IsEquality() || e.Operator().Equal(ast.Equal.Ref())) {
			for i, t := range e.Operands() {
				name, ok := e.Operand(1 - i).Value.(ast.String)
				if ok && slices.Equal(sc.inputPath(t), []string{"server", "door"}) {
					only = string(name)
				}
			}
		}
		return false
	})
	ast.NewGenericVisitor(func(x any) bool {
		if t, ok := x.(*ast.Term); ok {
			path := sc.inputPath(t)
			looks = looks || len(path) > 0 && path[0] == "unknown"
			for _, d := range doors {
				if only != "" && only != d.Name {
					continue
				}
				if what := d.unknown(path); what != "" {
					out = append(out, sc.src.at(codeDoorFact, t.Loc(), "say what happens without it, and then why that is right: "+
						"`# postern:ignore "+codeDoorFact+" -- reason`; or ask for input.server.door first",
						"input.%s is never known at the door %q", what, d.Name))
				}
			}
		}
		return false
	}).Walk(r)
	if looks {
		return nil
	}
	return out
}

// unknown is the path at or above one that the door never knows; "" where there is none.
func (d *Door) unknown(path []string) string {
	at := strings.Join(path, ".")
	for _, u := range d.Unknown {
		if at == u || strings.HasPrefix(at, u+".") {
			return u
		}
	}
	return ""
}

// inputPath is the constant path of a reference into input; nil where it is none.
func (sc *scope) inputPath(t *ast.Term) []string {
	if _, ok := t.Value.(ast.Ref); !ok {
		if v, ok := t.Value.(ast.Var); !ok || len(sc.roots[v]) < 2 {
			return nil
		}
	}
	rest, o, ok := sc.resolve(t)
	if !ok || o.fact == nil {
		return nil
	}
	return slices.Concat(o.path, constantPath(rest))
}
