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

// TableReads are the places where rules go through an object of data or do something else with all of it, and the objects
// that they use as tables: that they look up by a key which is computed, or go through.
type TableReads struct {
	whole  []wholeRead
	tables map[string]bool // by path, joined
}

// wholeRead is one such place.
type wholeRead struct {
	path  []pathKey
	below bool             // it reads what lies below, too, and not the keys alone
	place contract.Finding // without code and message
}

// pathKey is an element of a path; any: it is computed.
type pathKey struct {
	name string
	any  bool
}

// tableWalk looks for them in compiled rules.
type tableWalk struct {
	src *sources
	c   *ast.Compiler
	TableReads
}

// known are the variables that have a value where a body has come to, and what those that stand for a part of data stand for.
type known struct {
	bound map[ast.Var]bool
	data  map[ast.Var]wholeRead
}

func (k known) clone() known { return known{maps.Clone(k.bound), maps.Clone(k.data)} }

// TableReads looks at all rules, in the order in which evaluation goes through their bodies.
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

// bind gives a value to the variables of an expression or term, but for those of closures in it.
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
		if !r.given(terms, k, nil) { // whether it is there is no whole read
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

// given deals with a reference into data that gives a variable its value, or with one that stands alone; false: it is none.
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

// call looks at the arguments. object.get and what counts entries or tells types do not go through their first.
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
			r.tables[join(w.path)] = true
		}
	}
	for _, t := range args {
		r.term(t, k)
	}
}

func constant(t *ast.Term) bool { return ast.IsScalar(t.Value) }

// term looks at all references in one, whose values go somewhere: they are read whole.
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

// ref follows a reference into data and notes what it goes through. What it leads to is read whole only if its value goes
// somewhere; false where that is no part of a document, but a rule's.
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
		r.tables[join(leads.path)] = true
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

// virtual says whether the way to a path leads over a rule.
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

// findings for some data: faults where what is packed is read whole, and warnings where that may be, or where an object that
// is a table will be packed once it has grown.
func (r *TableReads) Findings(store *data.Store) (out []contract.Finding) {
	for _, w := range r.whole {
		f, exact := w.place, !slices.ContainsFunc(w.path, func(k pathKey) bool { return k.any })
		at := packedAt(store, w)
		switch {
		case at != nil && exact:
			f.Severity, f.Code = contract.Fault, contract.CodeLargeTable
			f.Message = fmt.Sprintf("%s has %d entries and is not read whole", data.Name(at), store.Size(at))
		case at != nil:
			f.Message = fmt.Sprintf("what is read whole here may be %s, which has %d entries: the decision would fail", data.Name(at), store.Size(at))
		case exact && r.tables[join(w.path)] && store.IsObject(names(w.path)):
			at = names(w.path)
			f.Message = fmt.Sprintf("%s is read whole, which is refused once it has %d entries", data.Name(at), table.Large)
		default:
			continue
		}
		f.Hint = "look up one entry, " + data.Name(at) + "[key]; what rules have to go through is better a list"
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

// begins says whether a path can be the beginning of another.
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

// join makes one string of a path.
func join(path []pathKey) string { return strings.Join(names(path), "\x00") }
