package data

import (
	"context"
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"github.com/postern-mail/postern/internal/table"
)

// Store is the data of a policy, a storage.Store that never changes and so needs no locks and no transactions.
type Store struct {
	storage.WritesNotSupported
	storage.PolicyNotSupported
	storage.TriggersNotSupported
	root   tree
	packed [][]string // paths of the packed objects, sorted
}

// Transaction is the storage.Transaction of every read. It holds nothing because the data does not change.
type Transaction struct{}

// ID returns 0.
func (Transaction) ID() uint64 { return 0 }

// New makes a Store of a document. It packs large objects that are not packed yet; doc itself is not changed.
func New(doc map[string]any) *Store {
	s := &Store{root: tree{}}
	for key, v := range table.Pack(doc) {
		s.root[key] = s.freeze(v, []string{key})
	}
	slices.SortFunc(s.packed, slices.Compare)
	return s
}

// freeze turns everything that is not packed into OPA values.
func (s *Store) freeze(v any, path []string) any {
	if t, ok := v.(*table.Table); ok {
		s.packed = append(s.packed, slices.Clone(path))
		return t
	}
	if object, ok := v.(map[string]any); ok && table.Holds(object) {
		children := make(tree, len(object))
		for key, child := range object {
			children[key] = s.freeze(child, append(path, key))
		}
		return children
	}
	value, err := ast.InterfaceToValue(v)
	if err != nil {
		return v // a decision that reads it fails with this error
	}
	return value
}

// NewTransaction returns a Transaction.
func (s *Store) NewTransaction(context.Context, ...storage.TransactionParams) (storage.Transaction, error) {
	return Transaction{}, nil
}

// Commit does nothing.
func (s *Store) Commit(context.Context, storage.Transaction) error { return nil }

// Abort does nothing.
func (s *Store) Abort(context.Context, storage.Transaction) {}

// Truncate fails: only OPA's own bundle downloads need it.
func (s *Store) Truncate(context.Context, storage.Transaction, storage.TransactionParams, storage.Iterator) error {
	return &storage.Error{Code: storage.WritesNotSupportedErr, Message: "the data of a policy does not change"}
}

// Read returns the ast.Value at path; a *LazyObject if it is a packed object or holds one. The error is storage's "not found" if
// there is nothing at path.
func (s *Store) Read(_ context.Context, _ storage.Transaction, path storage.Path) (any, error) {
	node, rest := s.descend(path)
	if node == nil {
		return nil, notFound()
	}
	switch node.(type) {
	case tree, *table.Table, ast.Value:
		if len(path) == 0 && len(s.packed) == 0 {
			return s.all()
		}
		return valueAt(node, path[:len(path)-len(rest)], rest)
	}
	if len(rest) > 0 {
		return nil, notFound()
	}
	return node, nil
}

// all returns the whole data, where nothing is packed.
func (s *Store) all() (ast.Value, error) {
	out := ast.NewObjectWithCapacity(len(s.root))
	for key := range s.root {
		v, err := valueAt(s.root, nil, []string{key})
		if err != nil {
			return nil, err
		}
		out.Insert(ast.StringTerm(key), ast.NewTerm(v))
	}
	return out, nil
}

// descend follows path through trees. node is nil if there is nothing at path; otherwise rest is the part of path below node.
func (s *Store) descend(path []string) (node any, rest []string) {
	node = s.root
	for i, key := range path {
		children, ok := node.(tree)
		if !ok {
			return node, path[i:]
		}
		if node, ok = children[key]; !ok {
			return nil, nil
		}
	}
	return node, nil
}

// Packed returns the paths of the packed objects, sorted. The caller must not change them.
func (s *Store) Packed() [][]string { return s.packed }

// Size returns the number of entries of the packed object at path.
func (s *Store) Size(path []string) int {
	node, _ := s.descend(path)
	return table.Size(node)
}

// Has reports whether there is anything at path. It does not read an entry of a packed object to tell.
func (s *Store) Has(path []string) bool {
	node, rest := s.descend(path)
	switch node := node.(type) {
	case nil:
		return false
	case *table.Table:
		if len(rest) == 0 {
			return true
		}
		if len(rest) == 1 {
			_, ok := node.Get(rest[0])
			return ok
		}
	case tree:
		return true
	}
	_, err := s.Read(context.Background(), nil, path)
	return err == nil
}

// IsObject reports whether there is an object at path.
func (s *Store) IsObject(path []string) bool {
	node, rest := s.descend(path)
	switch node.(type) {
	case tree:
		return true
	case *table.Table:
		if len(rest) == 0 {
			return true
		}
	case nil:
		return false
	}
	v, err := s.Read(context.Background(), nil, path)
	_, ok := v.(ast.Object)
	return ok && err == nil
}

// Keys returns the keys of the object at path, or nil for a packed object and for anything else.
func (s *Store) Keys(path []string) []string {
	node, rest := s.descend(path)
	switch node := node.(type) {
	case tree:
		return slices.Collect(maps.Keys(node))
	case ast.Value:
		var out []string
		if v, err := find(node, rest); err == nil {
			if object, ok := v.(ast.Object); ok {
				object.Foreach(func(k, _ *ast.Term) {
					if name, ok := k.Value.(ast.String); ok {
						out = append(out, string(name))
					}
				})
			}
		}
		return out
	}
	return nil
}

// NonEmpty tells OPA's compiler whether a rule at a path would conflict with data. It reads no entry of a packed object.
func (s *Store) NonEmpty(context.Context, storage.Transaction) func([]string) (bool, error) {
	return func(path []string) (bool, error) {
		if s.Has(path) {
			return true, nil
		}
		for i := len(path) - 1; i > 0; i-- {
			if s.Has(path[:i]) {
				return !s.IsObject(path[:i]), nil
			}
		}
		return false, nil
	}
}
