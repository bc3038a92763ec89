package engine

import (
	"github.com/open-policy-agent/opa/v1/ast"
)

// learnParams finds what the calls of each function give it: an argument that is the same part of the input in all of
// them has that as its origin.
func (s *sources) learnParams() {
	for _, name := range s.names {
		m := s.modules[name]
		sc := s.moduleScope(m)
		for _, r := range m.Rules {
			sc.enter(r)
			ast.NewGenericVisitor(func(x any) bool {
				switch x := x.(type) {
				case *ast.Expr:
					if terms, ok := x.Terms.([]*ast.Term); ok {
						sc.learn(terms)
					}
				case ast.Call:
					sc.learn(x)
				}
				return false
			}).Walk(r)
		}
	}
}

// learn from one call.
func (sc *scope) learn(call []*ast.Term) {
	rules, _, rest := sc.rulesOf(call[0])
	if len(rest) > 0 {
		return
	}
	for _, r := range rules {
		given, called := sc.src.params[r]
		if !called {
			given = make([]origin, len(r.Head.Args))
			sc.src.params[r] = given
		}
		for i, arg := range call[1:] {
			switch o := sc.origin(arg); {
			case i >= len(given):
			case !called:
				given[i] = origin{path: o.path, fact: o.fact}
			case given[i].fact != o.fact:
				given[i] = origin{}
			}
		}
	}
}
