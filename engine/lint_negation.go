package engine

import (
	"github.com/open-policy-agent/opa/v1/ast"
)

// A `not` over a call whose arguments refer to input or data fails open: the compiler takes the reference out of the
// negation, so where the fact is absent the whole expression is undefined instead of true, and the rule does not fire.
//
//	reject contains "not yours" if not input.envelope.from.key in data.senders[input.auth.login]
//
// rejects nothing from a login without an entry. The same goes for a reference within another's brackets, for calls within
// calls, for array, object and set literals, and for the values of `with`. It does not go for what stands alone on
// either side of == or =, for comprehensions, which are never undefined, and for template strings. A test holds this
// against OPA's own evaluation. lintNegations finds them in rules as they were written.
func (sc *scope) lintNegations(r *ast.Rule) (out []Finding) {
	ast.WalkExprs(r, func(e *ast.Expr) bool {
		if !e.Negated {
			return false
		}
		if t := sc.negated(e); t != nil {
			out = append(out, sc.src.at(codeNegatedCall, e.Loc(),
				"put it into a helper rule and negate that: `_ok if <expression>`, then `not _ok`",
				"`not` over an expression with %s in it is undefined, not true, where that does not exist: the rule fails open", t))
		}
		return false
	})
	return out
}

// negated is the first term of a negated expression that the compiler takes out of it and that may be undefined.
func (sc *scope) negated(e *ast.Expr) *ast.Term {
	var found *ast.Term
	look := func(t *ast.Term, f func(*ast.Term) *ast.Term) {
		if found == nil {
			found = f(t)
		}
	}
	switch terms := e.Terms.(type) {
	case *ast.Term:
		look(terms, sc.operand)
	case []*ast.Term:
		f := sc.hoisted
		if e.IsEquality() || e.Operator().Equal(ast.Equal.Ref()) {
			f = sc.operand
		}
		for _, t := range terms[1:] {
			look(t, f)
		}
	}
	for _, w := range e.With {
		look(w.Value, sc.hoisted)
	}
	return found
}

// operand of an expression that is evaluated where it stands: of a reference only what is in its brackets is taken out.
func (sc *scope) operand(t *ast.Term) *ast.Term {
	ref, ok := t.Value.(ast.Ref)
	if !ok {
		if _, variable := t.Value.(ast.Var); variable {
			return nil
		}
		return sc.hoisted(t)
	}
	return sc.brackets(ref)
}

func (sc *scope) brackets(ref ast.Ref) *ast.Term {
	for i, el := range ref {
		if _, variable := el.Value.(ast.Var); i == 0 && variable {
			continue
		}
		if found := sc.hoisted(el); found != nil {
			return found
		}
	}
	return nil
}

// hoisted is the first term within one that is taken out of its expression, and that may be undefined.
func (sc *scope) hoisted(t *ast.Term) (found *ast.Term) {
	var visit func(x any) bool
	visit = func(x any) bool {
		if found != nil {
			return true
		}
		term, ok := x.(*ast.Term)
		if !ok {
			return false
		}
		switch v := term.Value.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.TemplateString:
			return true
		case ast.Var:
			if !sc.certain(term) {
				found = term
			}
			return true
		case ast.Ref:
			if found = sc.brackets(v); found == nil && !sc.certain(term) {
				found = term
			}
			return true
		case ast.Call:
			if rules, _, _ := sc.rulesOf(v[0]); rules != nil && !sc.always(rules) {
				found = term
				return true
			}
			for _, arg := range v[1:] {
				ast.NewGenericVisitor(visit).Walk(arg)
			}
			return true
		}
		return false
	}
	ast.NewGenericVisitor(visit).Walk(t)
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
	return len(path) == 0 || f.below(path, stage, inStage)
}

// below says whether an object that is there has the fact at a path in it.
func (f *fact) below(path []string, stage Stage, inStage bool) bool {
	if f.kind != closed {
		return false
	}
	next := f.field(path[0])
	return next != nil && next.certain(path[1:], stage, inStage)
}
