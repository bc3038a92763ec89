package lint

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/engine/data"
	"github.com/postern-mail/postern/internal/table"
)

// TableReads holds the places where rules iterate over an object of data or use the whole of it, and the objects that rules use as
// tables: those that they look up by a computed key, or iterate over.
type TableReads struct {
	whole  []wholeRead
	tables map[string]bool // by joinPath of the path
}

// wholeRead is one such place.
type wholeRead struct {
	path  []pathKey
	below bool             // it reads the values, not only the keys
	place contract.Finding // without code and message
}

// pathKey is an element of a path. any is true if it is computed.
type pathKey struct {
	name string
	any  bool
}

// tableWalk looks for whole reads in compiled rules.
type tableWalk struct {
	src *sources
	c   *ast.Compiler
	TableReads
}

// known holds the variables that have a value at some expression of a body, and for those that hold a part of data, which part.
type known struct {
	bound map[ast.Var]bool
	data  map[ast.Var]wholeRead
}

func (k known) clone() known { return known{maps.Clone(k.bound), maps.Clone(k.data)} }

// tableReads checks all rules. It follows the order in which a body is evaluated.
func (s *sources) tableReads(c *ast.Compiler) TableReads {
	r := &tableWalk{src: s, c: c, TableReads: TableReads{tables: map[string]bool{}}}
	for _, name := range slices.Sorted(maps.Keys(c.Modules)) {
		for _, rule := range c.Modules[name].Rules {
			for ; rule != nil; rule = rule.Else {
				k := known{map[ast.Var]bool{}, map[ast.Var]wholeRead{}}
				for _, arg := range rule.Head.Args {
					k.bind(arg)
				}
				r.body(rule.Body, k)
				for _, t := range append(slices.Clone(rule.Head.Ref()), rule.Head.Key, rule.Head.Value) {
					if t != nil {
						r.term(t, k)
					}
				}
			}
		}
	}
	return r.TableReads
}

// bind marks the variables of an expression or term as known, except those of closures in it.
func (k known) bind(x any) {
	v := ast.NewVarVisitor().WithParams(ast.VarVisitorParams{SkipClosures: true})
	v.Walk(x)
	for name := range v.Vars() {
		k.bound[name] = true
	}
}

func (r *tableWalk) body(body ast.Body, k known) {
	for _, e := range body {
		r.expr(e, k)
		if !e.Negated {
			k.bind(e)
		}
	}
}

func (r *tableWalk) expr(e *ast.Expr, k known) {
	for _, w := range e.With {
		r.term(w.Value, k)
	}
	switch terms := e.Terms.(type) {
	case *ast.Term:
		if !r.given(terms, k, nil) { // a test for existence reads nothing
			r.term(terms, k)
		}
	case *ast.Every:
		r.term(terms.Domain, k)
		inner := k.clone()
		inner.bind(terms.Value)
		if terms.Key != nil {
			inner.bind(terms.Key)
		}
		r.body(terms.Body, inner)
	case []*ast.Term:
		a, b := e.Operand(0), e.Operand(1)
		if !e.IsEquality() || !r.given(b, k, a) && !r.given(a, k, b) {
			r.call(terms, k)
		}
	}
}

// given handles a reference to data that stands alone or is assigned to a variable. It returns false for any other term.
func (r *tableWalk) given(t *ast.Term, k known, variable *ast.Term) bool {
	ref, ok := t.Value.(ast.Ref)
	if !ok {
		return false
	}
	if variable != nil {
		v, ok := variable.Value.(ast.Var)
		if !ok || k.bound[v] {
			return false
		}
		if w, ok := r.ref(ref, k); ok {
			k.data[v] = w
		}
		return true
	}
	r.ref(ref, k)
	return true
}

// call checks the arguments of a call. object.get, count and the type tests do not read the whole of their first argument.
func (r *tableWalk) call(terms []*ast.Term, k known) {
	args := terms[1:]
	switch name := terms[0].String(); name {
	case ast.ObjectGet.Name, ast.Count.Name, ast.IsObject.Name, ast.IsArray.Name, ast.IsString.Name:
		v, _ := args[0].Value.(ast.Var)
		w, ok := k.data[v]
		if ref, isRef := args[0].Value.(ast.Ref); isRef {
			w, ok = r.ref(ref, k)
		}
		if !ok {
			break
		}
		if args = args[1:]; name == ast.ObjectGet.Name && !constant(args[0]) {
			r.tables[joinPath(w.path)] = true
		}
	}
	for _, t := range args {
		r.term(t, k)
	}
}

func constant(t *ast.Term) bool { return ast.IsScalar(t.Value) }

// term records the whole reads in a term whose value is used.
func (r *tableWalk) term(t *ast.Term, k known) {
	closure := func(body ast.Body, head ...*ast.Term) bool {
		inner := k.clone()
		r.body(body, inner)
		for _, t := range head {
			r.term(t, inner)
		}
		return true
	}
	ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension:
			return closure(x.Body, x.Term)
		case *ast.SetComprehension:
			return closure(x.Body, x.Term)
		case *ast.ObjectComprehension:
			return closure(x.Body, x.Key, x.Value)
		case *ast.Expr: // of a template string
			r.expr(x, k)
			return true
		case ast.Call:
			r.call(x, k)
			return true
		case ast.Var:
			if w, ok := k.data[x]; ok {
				r.whole = append(r.whole, w)
			}
		case ast.Ref:
			if w, ok := r.ref(x, k); ok {
				r.whole = append(r.whole, w)
			}
			return true
		}
		return false
	}).Walk(t)
}

// ref follows a reference to data and records the objects that it iterates over. leads is the part of data that it refers to, which is
// read whole if its value is used; ok is false if a rule defines it.
func (r *tableWalk) ref(ref ast.Ref, k known) (leads wholeRead, ok bool) {
	for _, t := range ref[1:] {
		if _, v := t.Value.(ast.Var); !v {
			r.term(t, k)
		}
	}
	if v, isVar := ref[0].Value.(ast.Var); !ref[0].Equal(ast.DefaultRootDocument) {
		if leads, ok = k.data[v]; !isVar || !ok {
			return leads, false
		}
		leads.path = slices.Clone(leads.path)
	} else {
		leads = wholeRead{below: true, place: r.src.at(contract.CodeTable, ref[0].Loc(), "", "")}
	}
	for _, t := range ref[1:] {
		if s, ok := t.Value.(ast.String); ok {
			leads.path = append(leads.path, pathKey{name: string(s)})
			continue
		}
		r.tables[joinPath(leads.path)] = true
		if v, ok := t.Value.(ast.Var); ok && !k.bound[v] {
			through := leads
			through.path, through.below = slices.Clone(leads.path), false
			if !r.virtual(through.path) {
				r.whole = append(r.whole, through)
			}
		}
		leads.path = append(leads.path, pathKey{any: true})
	}
	return leads, !r.virtual(leads.path)
}

// virtual reports whether a rule defines a path or part of it.
func (r *tableWalk) virtual(path []pathKey) bool {
	node := r.c.RuleTree.Child(ast.DefaultRootDocument.Value)
	for _, key := range path {
		if node == nil || key.any {
			return false
		}
		if node = node.Child(ast.String(key.name)); node != nil && len(node.Values) > 0 {
			return true
		}
	}
	return false
}

// Findings returns the findings for a document: Faults where a packed object is read whole, and warnings where one may be read whole,
// or where an object that is used as a table is read whole and will be packed when it has grown.
func (r *TableReads) Findings(store *data.Store) (out []contract.Finding) {
	for _, w := range r.whole {
		f, exact := w.place, !slices.ContainsFunc(w.path, func(k pathKey) bool { return k.any })
		at := packedAt(store, w)
		switch {
		case at != nil && exact:
			f.Severity, f.Code = contract.Fault, contract.CodeLargeTable
			f.Message = fmt.Sprintf("%s has %d entries and is not read whole", data.Name(at), store.Size(at))
		case at != nil:
			f.Message = fmt.Sprintf("this may read the whole of %s, which has %d entries: the decision would fail", data.Name(at), store.Size(at))
		case exact && r.tables[joinPath(w.path)] && store.IsObject(names(w.path)):
			at = names(w.path)
			f.Message = fmt.Sprintf("%s is read whole, which is refused once it has %d entries", data.Name(at), table.Large)
		default:
			continue
		}
		f.Hint = "look up one entry, " + data.Name(at) + "[key], or make it a list if rules have to iterate over it"
		out = append(out, f)
	}
	return out
}

// packedAt returns the path of the first packed object that a whole read meets, as far as that can be told; nil if there is none.
func packedAt(store *data.Store, w wholeRead) []string {
	for _, at := range store.Packed() {
		if (len(at) == len(w.path) || w.below && len(at) > len(w.path)) && begins(w.path, at) {
			return at
		}
	}
	return nil
}

// begins reports whether path can be the beginning of at.
func begins(path []pathKey, at []string) bool {
	for i, key := range path {
		if !key.any && key.name != at[i] {
			return false
		}
	}
	return true
}

func names(path []pathKey) []string {
	out := make([]string, len(path))
	for i, key := range path {
		out[i] = key.name
	}
	return out
}

// joinPath returns a path as one string.
func joinPath(path []pathKey) string { return strings.Join(names(path), "\x00") }
