package engine

import (
	"github.com/open-policy-agent/opa/v1/ast"
)

// lintLocals finds misspelt facts of variables that hold a part of input. OPA's type checker sees most of them, but not
// those under every.
func (sc *scope) lintLocals(r *ast.Rule) (out []Finding) {
	ast.WalkTerms(r, func(t *ast.Term) bool {
		ref, ok := t.Value.(ast.Ref)
		if !ok {
			return false
		}
		f := sc.locals[headVar(t)].fact
		for i, el := range ref[1:] {
			key, constant := el.Value.(ast.String)
			switch {
			case f == nil:
				return false
			case f.kind == closed && constant && f.field(string(key)) == nil:
				at := ref[:i+1].String()
				out = append(out, sc.src.at(codeUnknownFact, t.Loc(), oneOf(string(key), at+".", f.names()), "%s has no %q", at, string(key)))
				return false
			case f.kind == closed && constant:
				f = f.field(string(key))
			default:
				f = f.item
			}
		}
		return false
	})
	return out
}

// names of the fields of an object.
func (f *fact) names() []string {
	names := make([]string, len(f.fields))
	for i := range f.fields {
		names[i] = f.fields[i].name
	}
	return names
}

// lintEmpty finds comparisons of a fact with "": what is not known is absent, never empty.
func (sc *scope) lintEmpty(r *ast.Rule) (out []Finding) {
	ast.WalkExprs(r, func(e *ast.Expr) bool {
		if !e.IsCall() || len(e.Operands()) != 2 {
			return false
		}
		switch e.Operator().String() {
		case "eq", "equal", "neq":
		default:
			return false
		}
		for i, t := range e.Operands() {
			if s, ok := e.Operand(1 - i).Value.(ast.String); !ok || s != "" {
				continue
			}
			if f := sc.origin(t).fact; f != nil && f.kind == text && !f.always && f.name != "" {
				out = append(out, sc.src.at(codeNeverEmpty, t.Loc(), "test for absence with `not "+t.String()+"`, for presence with `"+t.String()+"`",
					"%s is never \"\": where it is not known, it is absent", t))
			}
		}
		return false
	})
	return out
}
