package engine

import (
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
)

// readBy returns the parts of the input that rules read, with all rules and functions that they can reach, and which fields of
// message.header; nil means all fields.
func readBy(c *ast.Compiler, rules []*ast.Rule) (contract.Parts, *fieldSet) {
	var read contract.Parts
	paths := contract.PartPaths()
	named, all := map[string]bool{}, false
	for _, r := range reachable(c, rules) {
		inputRefs(r, func(path []string) {
			part := contract.PartsOf(paths, path)
			read |= part
			switch {
			case part&contract.PartMessageHeader == 0:
			case len(path) > 2:
				named[path[2]] = true
			default:
				all = true
			}
		})
	}
	if all {
		return read, nil
	}
	return read, newFieldSet(slices.Sorted(maps.Keys(named)))
}

// reachable returns the rules and everything that they depend on by the compiler's graph, in which a computed reference depends on
// all that it could mean.
func reachable(c *ast.Compiler, rules []*ast.Rule) []*ast.Rule {
	seen := map[*ast.Rule]bool{}
	var out []*ast.Rule
	todo := append([]*ast.Rule(nil), rules...)
	for len(todo) > 0 {
		r := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[r] {
			continue
		}
		seen[r] = true
		out = append(out, r)
		for dep := range c.Graph.Dependencies(r) {
			if rule, ok := dep.(*ast.Rule); ok {
				todo = append(todo, rule)
			}
		}
		if r.Else != nil {
			todo = append(todo, r.Else)
		}
	}
	return out
}

// inputRefs calls f with the path of every reference into input, up to the first element that is computed: ["a"] for
// input.a[x].b, and an empty path for input alone.
func inputRefs(r *ast.Rule, f func(path []string)) {
	var visit func(any) bool
	visit = func(x any) bool {
		switch x := x.(type) {
		case ast.Ref:
			if x.HasPrefix(ast.InputRootRef) {
				f(contract.ConstantPath(x[1:]))
			}
			for _, t := range x[1:] {
				ast.NewGenericVisitor(visit).Walk(t)
			}
			return true
		case ast.Var:
			if x == ast.InputRootDocument.Value {
				f(nil)
			}
		}
		return false
	}
	ast.NewGenericVisitor(visit).Walk(r)
}

// fieldSet is a set of fields of message.header. It does not change. A nil *fieldSet is the set of all fields.
type fieldSet struct {
	keys  []string    // lower-case names, sorted, each once
	terms []*ast.Term // of keys
}

// newFieldSet makes a set of keys, which must be sorted and without duplicates.
func newFieldSet(keys []string) *fieldSet {
	f := &fieldSet{keys: keys, terms: make([]*ast.Term, len(keys))}
	for i, key := range keys {
		f.terms[i] = ast.StringTerm(key)
	}
	return f
}

// union returns the fields that are in f or in g.
func (f *fieldSet) union(g *fieldSet) *fieldSet {
	if f == nil || g == nil {
		return nil
	}
	keys := slices.Concat(f.keys, g.keys)
	slices.Sort(keys)
	return newFieldSet(slices.Compact(keys))
}

// without returns the names in f that are not in g. Neither may be nil.
func (f *fieldSet) without(g *fieldSet) []string {
	var out []string
	for _, key := range f.keys {
		if _, has := slices.BinarySearch(g.keys, key); !has {
			out = append(out, key)
		}
	}
	return out
}

// headerPath is the prefix of a single field's path.
const headerPath = "message.header."

// partNames returns the dotted paths of parts in the order of the contract. fields are those of message.header; nil: all.
func partNames(p contract.Parts, fields *fieldSet) []string {
	out := []string{}
	for i, path := range contract.PartPaths() {
		switch part := contract.Parts(1) << i; {
		case p&part == 0:
		case part == contract.PartMessageHeader && fields != nil:
			for _, key := range fields.keys {
				out = append(out, headerPath+key)
			}
		default:
			out = append(out, path)
		}
	}
	return out
}

// namedFields returns the fields of message.header that names of parts name one by one.
func namedFields(names []string) *fieldSet {
	var keys []string
	for _, name := range names {
		if key, ok := strings.CutPrefix(name, headerPath); ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return newFieldSet(slices.Compact(keys))
}
