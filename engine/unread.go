package engine

import (
	"errors"
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"github.com/postern-mail/postern/internal/table"
)

// unread is the value of a packed object, or of an object that holds one. It answers for its keys one by one, as OPA's rule
// index asks, and object.get; the keys of an object that merely holds packed ones may be gone through, too. All else would
// make every message wait for a million users: it panics with a *storage.Error, and the decision is the failure verdict.
// Lint has refused the policy where it could see that (lint_tables.go).
type unread struct {
	ast.Object // nil: methods that are none of ours panic, too
	path       []string
	node       any // a tree or a *table.Table
}

// Len is the number of entries.
func (u *unread) Len() int {
	if below, ok := u.node.(tree); ok {
		return len(below)
	}
	return table.Size(u.node)
}

// Get returns one entry; nil where there is none. What cannot be made a value is no absence: it panics as the whole does.
func (u *unread) Get(key *ast.Term) *ast.Term {
	name, ok := key.Value.(ast.String)
	if !ok {
		return nil
	}
	v, err := valueAt(u.node, u.path, []string{string(name)})
	switch {
	case storage.IsNotFound(err):
		return nil
	case err != nil:
		panic(&storage.Error{Code: storage.InternalErr, Message: fmt.Sprintf("%s: %v", dataName(append(slices.Clone(u.path), string(name))), err)})
	}
	return ast.NewTerm(v)
}

var errNone = errors.New("there is no such entry")

// Find follows a path.
func (u *unread) Find(path ast.Ref) (ast.Value, error) {
	if len(path) == 0 {
		return u, nil
	}
	entry := u.Get(path[0])
	if entry == nil {
		return nil, errNone
	}
	return entry.Value.Find(path[1:])
}

// IsGround: it is.
func (u *unread) IsGround() bool { return true }

// Copy is the same, because it does not change.
func (u *unread) Copy() ast.Object { return u }

// KeysIterator goes through the keys of an object that is not packed itself.
func (u *unread) KeysIterator() ast.ObjectKeysIterator {
	return &treeKeys{u.keys()}
}

func (u *unread) keys() []string {
	below, ok := u.node.(tree)
	if !ok {
		u.refuse()
	}
	keys := make([]string, 0, len(below))
	for key := range below {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

type treeKeys struct{ left []string }

// Next key; false: there was none.
func (i *treeKeys) Next() (*ast.Term, bool) {
	if len(i.left) == 0 {
		return nil, false
	}
	key := i.left[0]
	i.left = i.left[1:]
	return ast.StringTerm(key), true
}

// Map lets topdown take data.system out of all of data; it changes no value.
func (u *unread) Map(f func(k, v *ast.Term) (*ast.Term, *ast.Term, error)) (ast.Object, error) {
	out := tree{}
	for _, name := range u.keys() {
		key := ast.StringTerm(name)
		v := u.Get(key)
		k, now, err := f(key, v)
		switch {
		case err != nil:
			return nil, err
		case k == nil:
		case k != key || now != v:
			u.refuse()
		default:
			out[name] = u.node.(tree)[name]
		}
	}
	return &unread{path: u.path, node: out}, nil
}

// refuse ends the evaluation.
func (u *unread) refuse() {
	path, n := u.path, u.Len()
	for node := u.node; ; {
		below, ok := node.(tree)
		if !ok {
			n = table.Size(node)
			break
		}
		i := &unread{node: below}
		keys := i.keys()
		at := slices.IndexFunc(keys, func(key string) bool { return holdsPacked(below[key]) })
		if at < 0 {
			break
		}
		path, node = append(slices.Clone(path), keys[at]), below[keys[at]]
	}
	panic(&storage.Error{Code: storage.InternalErr, Message: fmt.Sprintf("%s has %d entries and is not read whole; look up one entry by its key",
		dataName(path), n)})
}

func holdsPacked(node any) bool {
	switch node.(type) {
	case tree, *table.Table:
		return true
	}
	return false
}

// The rest of ast.Object reads everything.

func (u *unread) Compare(ast.Value) int                 { u.refuse(); return 0 }
func (u *unread) Hash() int                             { u.refuse(); return 0 }
func (u *unread) String() string                        { u.refuse(); return "" }
func (u *unread) StringLength() int                     { u.refuse(); return 0 }
func (u *unread) MarshalJSON() ([]byte, error)          { u.refuse(); return nil, nil }
func (u *unread) Insert(_, _ *ast.Term)                 { u.refuse() }
func (u *unread) Iter(func(_, _ *ast.Term) error) error { u.refuse(); return nil }
func (u *unread) Until(func(_, _ *ast.Term) bool) bool  { u.refuse(); return false }
func (u *unread) Foreach(func(_, _ *ast.Term))          { u.refuse() }
func (u *unread) Diff(ast.Object) ast.Object            { u.refuse(); return nil }
func (u *unread) Intersect(ast.Object) [][3]*ast.Term   { u.refuse(); return nil }
func (u *unread) Merge(ast.Object) (ast.Object, bool)   { u.refuse(); return nil, false }
func (u *unread) Filter(ast.Object) (ast.Object, error) { u.refuse(); return nil, nil }
func (u *unread) Keys() []*ast.Term                     { u.refuse(); return nil }
func (u *unread) MergeWith(ast.Object, func(_, _ *ast.Term) (*ast.Term, bool)) (ast.Object, bool) {
	u.refuse()
	return nil, false
}
