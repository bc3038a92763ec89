package lint

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
)

// scope resolves the names in one rule of one module, which the compiler has not resolved yet.
type scope struct {
	src     *sources
	pkg     string              // of the module, as a reference
	roots   map[ast.Var]ast.Ref // input, data and the imports from them
	locals  map[ast.Var]origin  // variables of the rule
	stage   contract.Stage      // of the module's package
	inStage bool                // the package is a stage's
}

// moduleScope returns the scope of a module, without variables.
func (s *sources) moduleScope(m *ast.Module) *scope {
	sc := &scope{src: s, pkg: m.Package.Path.String(), roots: map[ast.Var]ast.Ref{}}
	sc.stage, sc.inStage = contract.StageOf(m.Package)
	sc.roots["input"], sc.roots["data"] = ast.InputRootRef, ast.DefaultRootRef
	for _, imp := range m.Imports {
		ref, ok := imp.Path.Value.(ast.Ref)
		if ok && len(ref) > 1 && (ref.HasPrefix(ast.InputRootRef) || ref.HasPrefix(ast.DefaultRootRef)) {
			sc.roots[imp.Name()] = ref
		}
	}
	return sc
}

// enter sets the variables of the scope to those of a rule.
func (sc *scope) enter(r *ast.Rule) {
	sc.locals = map[ast.Var]origin{}
	given := sc.src.params[r]
	for i, arg := range r.Head.Args {
		if v, ok := arg.Value.(ast.Var); ok && i < len(given) {
			sc.locals[v] = given[i]
			continue
		}
		sc.bind(arg, origin{})
	}
	ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Expr:
			if x.IsAssignment() && len(x.Operands()) == 2 {
				sc.bind(x.Operand(0), sc.origin(x.Operand(1)))
			}
		case *ast.SomeDecl:
			sc.declare(x)
		case *ast.Every:
			source := sc.origin(x.Domain)
			if x.Key != nil {
				sc.bind(x.Key, origin{})
			}
			sc.bind(x.Value, source.element())
		}
		return false
	}).Walk(r)
}

// declare binds the variables of a `some`.
func (sc *scope) declare(d *ast.SomeDecl) {
	for _, symbol := range d.Symbols {
		call, ok := symbol.Value.(ast.Call)
		if !ok {
			sc.bind(symbol, origin{})
			continue
		}
		if len(call) == 4 { // some key, value in collection
			sc.bind(call[1], origin{})
		}
		sc.bind(call[len(call)-2], sc.origin(call[len(call)-1]).element())
	}
}

// bind gives a variable its origin. The variables of a pattern get no fact. The first binding of a variable counts.
func (sc *scope) bind(t *ast.Term, o origin) {
	if v, ok := t.Value.(ast.Var); ok {
		if _, there := sc.locals[v]; !there {
			sc.locals[v] = o
		}
		return
	}
	ast.WalkTerms(t, func(t *ast.Term) bool {
		if v, ok := t.Value.(ast.Var); ok {
			if _, there := sc.locals[v]; !there {
				sc.locals[v] = origin{data: o.data}
			}
		}
		return false
	})
}

// element returns the origin of an element of a collection.
func (o origin) element() origin {
	if o.fact == nil || o.fact.Item == nil {
		return origin{data: o.data}
	}
	return origin{path: o.path, fact: o.fact.Item}
}

// origin returns the origin of a term: the fact or data that it refers to.
func (sc *scope) origin(t *ast.Term) origin {
	ref, o, ok := sc.resolve(t)
	if !ok || o.fact == nil {
		return o
	}
	f, path := o.fact, slices.Clone(o.path)
	for _, el := range ref {
		key, constant := el.Value.(ast.String)
		switch {
		case f.Kind == contract.Closed && constant:
			path = append(path, string(key))
			if f = f.Field(string(key)); f == nil {
				return origin{}
			}
		case f.Kind == contract.List || f.Kind == contract.Open:
			f = f.Item
		default:
			return origin{}
		}
	}
	return origin{path: path, fact: f}
}

// resolve returns the origin of the head of a variable or reference, and the elements behind it. ok is false if the term is neither, or
// if its origin is not known.
func (sc *scope) resolve(t *ast.Term) (rest ast.Ref, o origin, ok bool) {
	var head ast.Var
	switch v := t.Value.(type) {
	case ast.Var:
		head = v
	case ast.Ref:
		if head, ok = v[0].Value.(ast.Var); !ok {
			return nil, origin{}, false
		}
		rest = v[1:]
	default:
		return nil, origin{}, false
	}
	if o, local := sc.locals[head]; local {
		return rest, o, o.fact != nil || o.data
	}
	root, there := sc.roots[head]
	if !there {
		return nil, origin{}, false
	}
	if len(root) > 1 {
		rest = append(slices.Clone(root[1:]), rest...)
	}
	if root.HasPrefix(ast.InputRootRef) {
		return rest, origin{fact: sc.src.facts}, true
	}
	return rest, origin{data: true}, true
}

// rulesOf returns the rules that a term names, by a name of this package or by the whole path, and the elements behind the name.
func (sc *scope) rulesOf(t *ast.Term) (rules []*ast.Rule, pkg string, rest ast.Ref) {
	switch v := t.Value.(type) {
	case ast.Var:
		if _, local := sc.locals[v]; local {
			return nil, "", nil
		}
		if rules := sc.src.rules[sc.pkg][string(v)]; rules != nil {
			return rules, sc.pkg, nil
		}
	case ast.Ref:
		head, ok := v[0].Value.(ast.Var)
		if _, local := sc.locals[head]; !ok || local {
			return nil, "", nil
		}
		if rules := sc.src.rules[sc.pkg][string(head)]; rules != nil {
			return rules, sc.pkg, v[1:]
		}
	}
	ref, o, ok := sc.resolve(t)
	if !ok || !o.data || o.fact != nil {
		return nil, "", nil
	}
	at := ast.Ref{ast.DefaultRootDocument}
	for i, el := range ref {
		name, constant := el.Value.(ast.String)
		if !constant {
			break
		}
		if rules := sc.src.rules[at.String()][string(name)]; rules != nil {
			return rules, at.String(), ref[i+1:]
		}
		at = append(at, el)
	}
	return nil, "", nil
}

func headVar(t *ast.Term) ast.Var {
	if ref, ok := t.Value.(ast.Ref); ok {
		t = ref[0]
	}
	v, _ := t.Value.(ast.Var)
	return v
}

// learnParams finds the origins of the arguments of functions. An argument has a fact as its origin if every call passes the same fact.
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

// learn adds the arguments of one call.
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
