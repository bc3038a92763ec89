package engine

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// A `not` over a call whose arguments refer to input or data fails open: the compiler takes the reference out of the
// negation, so where the fact is absent the whole expression is undefined instead of true, and the rule does not fire.
//
//	reject contains "not yours" if not input.envelope.from.key in data.senders[input.auth.login]
//
// rejects nothing from a login without an entry. lintNegations finds them in rules as they were written. References to facts
// that every transaction carries are fine, and so are comprehensions, which are never undefined.
func (s *sources) lintNegations(m *ast.Module, r *ast.Rule) (out []Finding) {
	roots := refRoots(m)
	facts := contract()
	stage, inStage := stageOf(m.Package)
	ast.WalkExprs(r, func(e *ast.Expr) bool {
		if !e.Negated || !e.IsCall() {
			return false
		}
		for _, operand := range e.Operands() {
			ref := mayBeAbsent(operand, roots, func(path []string, whole bool) bool {
				return whole && facts.certain(path, stage, inStage)
			})
			if ref == nil {
				continue
			}
			out = append(out, s.at(Fault, "negated-call", e.Loc(),
				"put the call into a helper rule and negate that: `_ok if <call>`, then `not _ok`",
				"`not` over a call with %s in it is undefined, not true, where that does not exist: the rule fails open", ref))
			return false
		}
		return false
	})
	return out
}

// refRoots are the names in a module that stand for documents: input and data themselves, and what it imports from them.
// The value is the reference the name stands for.
func refRoots(m *ast.Module) map[ast.Var]ast.Ref {
	roots := map[ast.Var]ast.Ref{"input": ast.InputRootRef, "data": ast.DefaultRootRef}
	for _, imp := range m.Imports {
		ref, ok := imp.Path.Value.(ast.Ref)
		if !ok || len(ref) < 2 {
			continue
		}
		if ref.HasPrefix(ast.InputRootRef) || ref.HasPrefix(ast.DefaultRootRef) {
			roots[imp.Name()] = ref
		}
	}
	return roots
}

// mayBeAbsent is the first reference in a term, outside comprehensions and nested calls' names, that may be undefined.
func mayBeAbsent(term *ast.Term, roots map[ast.Var]ast.Ref, certain func(path []string, whole bool) bool) (found ast.Ref) {
	var visit func(any) bool
	visit = func(x any) bool {
		if found != nil {
			return true
		}
		switch x := x.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
			return true
		case ast.Call:
			for _, t := range x[1:] {
				ast.NewGenericVisitor(visit).Walk(t)
			}
			return true
		case ast.Var:
			if root, ok := roots[x]; ok && len(root) > 1 {
				ref := root
				if !ref.HasPrefix(ast.InputRootRef) || !certain(constantPath(ref[1:]), true) {
					found = ref
				}
			}
			return true
		case ast.Ref:
			head, _ := x[0].Value.(ast.Var)
			if root, ok := roots[head]; ok {
				ref := append(slices.Clone(root), x[1:]...)
				path := constantPath(ref[1:])
				if !ref.HasPrefix(ast.InputRootRef) || !certain(path, len(path) == len(ref)-1) {
					found = ref
					return true
				}
			}
			for _, t := range x[1:] {
				ast.NewGenericVisitor(visit).Walk(t)
			}
			return true
		}
		return false
	}
	ast.NewGenericVisitor(visit).Walk(term)
	return found
}

// certain says whether every transaction has the fact at a path. In a stage's package that stage counts; elsewhere all.
func (f *fact) certain(path []string, stage Stage, inStage bool) bool {
	if !f.always {
		return false
	}
	if inStage && !f.at(stage) || !inStage && (f.from != 0 || f.only != 0) {
		return false
	}
	if len(path) == 0 {
		return true
	}
	if f.kind != closed {
		return false
	}
	for i := range f.fields {
		if f.fields[i].name == path[0] {
			return f.fields[i].certain(path[1:], stage, inStage)
		}
	}
	return false
}
