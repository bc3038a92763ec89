package data

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"github.com/postern-mail/postern/internal/table"
)

// tree is an object that holds a packed object at some depth. Its children are trees, *table.Table, OPA values, and Go values
// that cannot be converted into one.
type tree map[string]any

// LazyObject is the value of a packed object, or of an object that holds one. It answers for single keys, as OPA's rule index
// and object.get ask; the keys of an object that only holds packed ones can also be iterated. Every other method would read
// the whole object for every message, so it panics with a *storage.Error, and the decision is the failure verdict. Lint
// refuses such a policy where it can tell from the rules.
type LazyObject struct {
	ast.Object // nil: a method that is not defined here panics too
	path       []string
	node       any // a tree or a *table.Table
}

// Len returns the number of entries.
func (o *LazyObject) Len() int {
	if children, ok := o.node.(tree); ok {
		return len(children)
	}
	return table.Size(o.node)
}

// Get returns the entry of a key, or nil if there is none. A stored value that cannot be converted is an error, not a missing
// key, so Get panics, as reading the whole object does.
func (o *LazyObject) Get(key *ast.Term) *ast.Term {
	name, ok := key.Value.(ast.String)
	if !ok {
		return nil
	}
	v, err := valueAt(o.node, o.path, []string{string(name)})
	switch {
	case storage.IsNotFound(err):
		return nil
	case err != nil:
		panic(&storage.Error{Code: storage.InternalErr, Message: fmt.Sprintf("%s: %v", Name(append(slices.Clone(o.path), string(name))), err)})
	}
	return ast.NewTerm(v)
}

var errNoEntry = errors.New("there is no such entry")

// Find returns the value at path.
func (o *LazyObject) Find(path ast.Ref) (ast.Value, error) {
	if len(path) == 0 {
		return o, nil
	}
	entry := o.Get(path[0])
	if entry == nil {
		return nil, errNoEntry
	}
	return entry.Value.Find(path[1:])
}

// IsGround returns true: data has no variables.
func (o *LazyObject) IsGround() bool { return true }

// Copy returns o itself, because it does not change.
func (o *LazyObject) Copy() ast.Object { return o }

// KeysIterator iterates over the keys of an object that is not packed itself.
func (o *LazyObject) KeysIterator() ast.ObjectKeysIterator { return &treeKeys{o.keys()} }

// keys returns the sorted keys of an object that is not packed itself.
func (o *LazyObject) keys() []string {
	children, ok := o.node.(tree)
	if !ok {
		o.refuse()
	}
	keys := make([]string, 0, len(children))
	for key := range children {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// treeKeys is an ast.ObjectKeysIterator.
type treeKeys struct{ rest []string }

// Next returns the next key; false if there is none.
func (i *treeKeys) Next() (*ast.Term, bool) {
	if len(i.rest) == 0 {
		return nil, false
	}
	key := i.rest[0]
	i.rest = i.rest[1:]
	return ast.StringTerm(key), true
}

// Map supports what topdown does to leave data.system out of the whole of data: f may drop entries but not change them.
func (o *LazyObject) Map(f func(k, v *ast.Term) (*ast.Term, *ast.Term, error)) (ast.Object, error) {
	out := tree{}
	for _, name := range o.keys() {
		key := ast.StringTerm(name)
		v := o.Get(key)
		newKey, newValue, err := f(key, v)
		switch {
		case err != nil:
			return nil, err
		case newKey == nil:
		case newKey != key || newValue != v:
			o.refuse()
		default:
			out[name] = o.node.(tree)[name]
		}
	}
	return &LazyObject{path: o.path, node: out}, nil
}

// refuse panics with an error that names the packed object.
func (o *LazyObject) refuse() {
	path, n := o.path, o.Len()
	for node := o.node; ; {
		children, ok := node.(tree)
		if !ok {
			n = table.Size(node)
			break
		}
		keys := (&LazyObject{node: children}).keys()
		at := slices.IndexFunc(keys, func(key string) bool { return holdsPacked(children[key]) })
		if at < 0 {
			break
		}
		path, node = append(slices.Clone(path), keys[at]), children[keys[at]]
	}
	panic(&storage.Error{Code: storage.InternalErr, Message: fmt.Sprintf("%s has %d entries and is not read whole; look up one entry by its key",
		Name(path), n)})
}

func holdsPacked(node any) bool {
	switch node.(type) {
	case tree, *table.Table:
		return true
	}
	return false
}

// The other methods of ast.Object read the whole object.

func (o *LazyObject) Compare(ast.Value) int                 { o.refuse(); return 0 }
func (o *LazyObject) Hash() int                             { o.refuse(); return 0 }
func (o *LazyObject) String() string                        { o.refuse(); return "" }
func (o *LazyObject) StringLength() int                     { o.refuse(); return 0 }
func (o *LazyObject) MarshalJSON() ([]byte, error)          { o.refuse(); return nil, nil }
func (o *LazyObject) Insert(_, _ *ast.Term)                 { o.refuse() }
func (o *LazyObject) Iter(func(_, _ *ast.Term) error) error { o.refuse(); return nil }
func (o *LazyObject) Until(func(_, _ *ast.Term) bool) bool  { o.refuse(); return false }
func (o *LazyObject) Foreach(func(_, _ *ast.Term))          { o.refuse() }
func (o *LazyObject) Diff(ast.Object) ast.Object            { o.refuse(); return nil }
func (o *LazyObject) Intersect(ast.Object) [][3]*ast.Term   { o.refuse(); return nil }
func (o *LazyObject) Merge(ast.Object) (ast.Object, bool)   { o.refuse(); return nil, false }
func (o *LazyObject) Filter(ast.Object) (ast.Object, error) { o.refuse(); return nil, nil }
func (o *LazyObject) Keys() []*ast.Term                     { o.refuse(); return nil }
func (o *LazyObject) MergeWith(ast.Object, func(_, _ *ast.Term) (*ast.Term, bool)) (ast.Object, bool) {
	o.refuse()
	return nil, false
}

// valueAt returns the value at rest below node; path is that of node.
func valueAt(node any, path, rest []string) (ast.Value, error) {
	switch node := node.(type) {
	case tree:
		if len(rest) == 0 {
			return &LazyObject{path: path, node: node}, nil
		}
		child, ok := node[rest[0]]
		if !ok {
			return nil, notFound()
		}
		return valueAt(child, append(path[:len(path):len(path)], rest[0]), rest[1:])
	case *table.Table:
		if len(rest) == 0 {
			return &LazyObject{path: path, node: node}, nil
		}
		packed, ok := node.Get(rest[0])
		if !ok {
			return nil, notFound()
		}
		return find(unpack(packed.Cursor()), rest[1:])
	case ast.Value:
		return find(node, rest)
	}
	return ast.InterfaceToValue(node) // returns the error of New's conversion
}

// find follows path through a value.
func find(v ast.Value, path []string) (ast.Value, error) {
	for _, key := range path {
		var term *ast.Term
		switch node := v.(type) {
		case ast.Object:
			term = node.Get(ast.StringTerm(key))
		case *ast.Array:
			if n, err := strconv.Atoi(key); err == nil && n >= 0 && n < node.Len() {
				term = node.Elem(n)
			}
		}
		if term == nil {
			return nil, notFound()
		}
		v = term.Value
	}
	return v, nil
}

// unpack converts the packed value at a cursor.
func unpack(c *table.Cursor) ast.Value {
	kind, text, n := c.Next()
	switch kind {
	case table.True, table.False:
		return ast.InternedTerm(kind == table.True).Value
	case table.Number:
		return ast.Number(text)
	case table.String:
		return ast.String(text)
	case table.List:
		terms, all := make([]ast.Term, n), make([]*ast.Term, n)
		for i := range terms {
			terms[i].Value = unpack(c)
			all[i] = &terms[i]
		}
		return ast.NewArray(all...)
	case table.Object:
		members := ast.NewObjectWithCapacity(n)
		for range n {
			_, key, _ := c.Next()
			members.Insert(ast.StringTerm(key), ast.NewTerm(unpack(c)))
		}
		return members
	}
	return ast.NullValue
}

// notFound is the error that topdown takes for undefined.
func notFound() error { return &storage.Error{Code: storage.NotFoundErr} }

// Name returns a path in data as rules write it: data.senders["a.b"].
func Name(path []string) string {
	ref := ast.Ref{ast.DefaultRootDocument}
	for _, key := range path {
		ref = append(ref, ast.StringTerm(key))
	}
	return ref.String()
}
