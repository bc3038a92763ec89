package lint

import (
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
)

// A `not` over a call whose arguments refer to input or data fails open. The compiler moves the reference out of the negation, so
// that, if the fact is absent, the whole expression is undefined instead of true, and the rule does not fire.
//
//	reject contains "not yours" if not input.envelope.from.key in data.senders[input.auth.login]
//
// rejects nothing from a login without an entry. The same is true of a reference within the brackets of another one, of calls within
// calls, of array, object and set literals, and of the values of `with`. It is not true of a term that is alone on one side of == or
// =, of comprehensions, which are never undefined, or of template strings. A test compares this with OPA's own evaluation.
// lintNegations finds such negations in rules as they were written.
func (sc *scope) lintNegations(r *ast.Rule) (out []contract.Finding) {
	ast.WalkExprs(r, func(e *ast.Expr) bool {
		if !e.Negated {
			return false
		}
		if t := sc.negated(e); t != nil {
			out = append(out, sc.src.at(contract.CodeNegatedCall, e.Loc(),
				"put it into a helper rule and negate that: `_ok if <expression>`, then `not _ok`",
				"`not` over an expression with %s in it is undefined, not true, where that does not exist: the rule fails open", t))
		}
		return false
	})
	return out
}

// negated returns the first term of a negated expression that the compiler moves out of it and that may be undefined, or nil.
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

// operand is hoisted for a term that the compiler leaves in its expression: it moves out only what is in the brackets of a
// reference.
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

// hoisted returns the first term within t that the compiler moves out of the expression and that may be undefined, or nil.
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

// certain reports whether a variable or reference always has a value if the variables in it have one. The answer is yes if it cannot be
// told, because a finding must be right.
func (sc *scope) certain(t *ast.Term) bool {
	if rules, _, rest := sc.rulesOf(t); rules != nil {
		return sc.always(rules) && (len(rest) == 0 || writtenOut(rules, rest))
	}
	rest, o, ok := sc.resolve(t)
	switch {
	case !ok:
		return true
	case o.data:
		// A variable has a value. The document, or a value in it, may be missing.
		_, local := sc.locals[headVar(t)]
		return local && len(rest) == 0
	}
	path := contract.ConstantPath(rest)
	if len(path) < len(rest) {
		return false
	}
	if _, local := sc.locals[headVar(t)]; local { // a variable has a value; what is below may be missing
		return len(path) == 0 || o.fact.CertainBelow(path, sc.stage, sc.inStage)
	}
	return o.fact.Certain(path, sc.stage, sc.inStage)
}

// writtenOut reports whether all values of rules are object literals that have the path.
func writtenOut(rules []*ast.Rule, path ast.Ref) bool {
	for _, r := range rules {
		t := r.Head.Value
		for _, key := range path {
			obj, ok := t.Value.(ast.Object)
			if !ok || r.Else != nil || r.Head.RuleKind() == ast.MultiValue || len(r.Head.Ref()) > 1 {
				return false
			}
			if t = obj.Get(key); t == nil {
				return false
			}
		}
	}
	return true
}

// always reports whether rules of one name have a value for every input: a set, a rule with a default, or one without conditions.
func (sc *scope) always(rules []*ast.Rule) bool {
	for _, r := range rules {
		if r.Default || r.Head.RuleKind() == ast.MultiValue || len(r.Head.Ref()) > 1 || sc.unconditional(r) {
			return true
		}
	}
	return false
}

// unconditional reports whether a rule has no conditions and a value that is never undefined.
func (sc *scope) unconditional(r *ast.Rule) bool {
	if memo := sc.src.total[r]; memo.known {
		return memo.value
	}
	sc.src.total[r] = truth{known: true} // against recursion
	value := len(r.Body) == 1 && r.Body[0].Equal(ast.NewExpr(ast.BooleanTerm(true)))
	args := map[ast.Value]bool{}
	for _, arg := range r.Head.Args {
		v, ok := arg.Value.(ast.Var)
		value = value && ok && !args[v]
		args[v] = true
	}
	if value && r.Head.Value != nil {
		inner := r.Module
		if inner == nil {
			value = r.Head.Value.IsGround()
		} else {
			other := sc.src.moduleScope(inner)
			other.enter(r)
			value = other.hoisted(r.Head.Value) == nil
		}
	}
	sc.src.total[r] = truth{known: true, value: value}
	return value
}
