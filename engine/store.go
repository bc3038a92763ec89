package engine

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"

	"github.com/postern-mail/postern/internal/table"
)

// store is the data of a Policy: immutable, so that it needs no locks and no transactions. Topdown asks it for one path
// at a time. Large objects, such as the senders of a million users, are packed (internal/table): the entry that is asked for
// becomes a value, and nothing reads the whole (unread.go). Everything else is a value from the start.
type store struct {
	storage.WritesNotSupported
	storage.PolicyNotSupported
	storage.TriggersNotSupported
	root   tree
	packed [][]string // paths of the packed objects, sorted
}

// transaction is what topdown hands back to Read; there is nothing to remember.
type transaction struct{}

func (transaction) ID() uint64 { return 0 }

// tree is an object that holds a packed one somewhere below: its children are trees, *table.Table, values, and what cannot
// be made a value.
type tree map[string]any

// newStore packs what is large and has not been packed by those who read it. It does not change data.
func newStore(data map[string]any) *store {
	s := &store{root: tree{}}
	for key, v := range table.Pack(data) {
		s.root[key] = s.freeze(v, []string{key})
	}
	slices.SortFunc(s.packed, slices.Compare)
	return s
}

// freeze makes values of all that is not packed.
func (s *store) freeze(v any, at []string) any {
	if t, ok := v.(*table.Table); ok {
		s.packed = append(s.packed, slices.Clone(at))
		return t
	}
	if object, ok := v.(map[string]any); ok && table.Holds(object) {
		below := make(tree, len(object))
		for key, child := range object {
			below[key] = s.freeze(child, append(at, key))
		}
		return below
	}
	value, err := ast.InterfaceToValue(v)
	if err != nil {
		return v // topdown says what is wrong with it when it is read, and the decision fails
	}
	return value
}

// NewTransaction, Commit, Abort: nothing can change.
func (s *store) NewTransaction(context.Context, ...storage.TransactionParams) (storage.Transaction, error) {
	return transaction{}, nil
}
func (s *store) Commit(context.Context, storage.Transaction) error { return nil }
func (s *store) Abort(context.Context, storage.Transaction)        {}

// Truncate is for downloads of bundles, which never come here.
func (s *store) Truncate(context.Context, storage.Transaction, storage.TransactionParams, storage.Iterator) error {
	return &storage.Error{Code: storage.WritesNotSupportedErr, Message: "the data of a policy snapshot does not change"}
}

// notFound is what topdown takes for undefined.
func notFound() error { return &storage.Error{Code: storage.NotFoundErr} }

// Read returns the document at path: an ast.Value, which is an unread where that is, or holds, a packed object.
func (s *store) Read(_ context.Context, _ storage.Transaction, path storage.Path) (any, error) {
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

// all of data, where nothing is packed.
func (s *store) all() (ast.Value, error) {
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

// valueAt follows rest from a node of the tree, which is at path.
func valueAt(node any, path, rest []string) (ast.Value, error) {
	switch node := node.(type) {
	case tree:
		if len(rest) == 0 {
			return &unread{path: path, node: node}, nil
		}
		child, ok := node[rest[0]]
		if !ok {
			return nil, notFound()
		}
		return valueAt(child, append(path[:len(path):len(path)], rest[0]), rest[1:])
	case *table.Table:
		if len(rest) == 0 {
			return &unread{path: path, node: node}, nil
		}
		packed, ok := node.Get(rest[0])
		if !ok {
			return nil, notFound()
		}
		return find(value(packed.Cursor()), rest[1:])
	case ast.Value:
		return find(node, rest)
	}
	return ast.InterfaceToValue(node) // fails
}

// descend follows a path through trees, as far as they go. nil: there is nothing at the path.
func (s *store) descend(path []string) (node any, rest []string) {
	node = s.root
	for i, key := range path {
		below, ok := node.(tree)
		if !ok {
			return node, path[i:]
		}
		if node, ok = below[key]; !ok {
			return nil, nil
		}
	}
	return node, nil
}

// size of a packed object.
func (s *store) size(at []string) int {
	node, _ := s.descend(at)
	return table.Size(node)
}

// dataName is a path as rules write it.
func dataName(path []string) string {
	ref := ast.Ref{ast.DefaultRootDocument}
	for _, key := range path {
		ref = append(ref, ast.StringTerm(key))
	}
	return ref.String()
}

// find follows the rest of a path through a value.
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

// value makes one of what is packed.
func value(c *table.Cursor) ast.Value {
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
			terms[i].Value = value(c)
			all[i] = &terms[i]
		}
		return ast.NewArray(all...)
	case table.Object:
		members := ast.NewObjectWithCapacity(n)
		for range n {
			_, key, _ := c.Next()
			members.Insert(ast.StringTerm(key), ast.NewTerm(value(c)))
		}
		return members
	}
	return ast.NullValue
}

// has says whether there is anything at a path, without making it.
func (s *store) has(path []string) bool {
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

// names are the keys of an object, but for those of a large one.
func (s *store) names(path []string) []string {
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

// NonEmpty tells OPA's compiler whether a rule at a path would lie over data, without reading any.
func (s *store) NonEmpty(context.Context, storage.Transaction) func([]string) (bool, error) {
	return func(path []string) (bool, error) {
		if s.has(path) {
			return true, nil
		}
		for i := len(path) - 1; i > 0; i-- {
			if s.has(path[:i]) {
				return !s.object(path[:i]), nil
			}
		}
		return false, nil
	}
}

// object says whether there is an object at a path.
func (s *store) object(path []string) bool {
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
