package engine

import (
	"context"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
)

// store is the data of a Policy: immutable, so that it needs no locks and no transactions. Topdown asks it for one path
// at a time. Large collections, such as the senders of ten thousand users, stay as Go maps, which take a third of the
// memory, and only the entry that is asked for becomes a value; everything else is a value from the start.
type store struct {
	storage.WritesNotSupported
	storage.PolicyNotSupported
	storage.TriggersNotSupported
	root tree
}

// bulk is the number of entries from which an object stays a Go map.
const bulk = 256

// transaction is what topdown hands back to Read; there is nothing to remember.
type transaction struct{}

func (transaction) ID() uint64 { return 0 }

// tree is an object that holds a large collection somewhere below, and is itself not large.
type tree map[string]any

// newStore takes ownership of data.
func newStore(data map[string]any) *store {
	root := make(tree, len(data))
	for k, v := range data {
		root[k] = freeze(v)
	}
	return &store{root: root}
}

// freeze makes values of what is small: it returns an ast.Value, a tree, or the large map itself.
func freeze(v any) any {
	m, ok := v.(map[string]any)
	if ok && len(m) >= bulk {
		return m
	}
	if ok {
		out := make(tree, len(m))
		large := false
		for k, child := range m {
			out[k] = freeze(child)
			_, value := out[k].(ast.Value)
			large = large || !value
		}
		if large {
			return out
		}
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

// Read returns the document at path: an ast.Value, or the Go map of a large collection.
func (s *store) Read(_ context.Context, _ storage.Transaction, path storage.Path) (any, error) {
	var doc any = s.root
	for i, key := range path {
		var ok bool
		switch node := doc.(type) {
		case tree:
			if doc, ok = node[key]; !ok {
				return nil, notFound()
			}
		case map[string]any:
			if doc, ok = node[key]; !ok {
				return nil, notFound()
			}
		case ast.Value:
			return find(node, path[i:])
		case []any:
			n, err := strconv.Atoi(key)
			if err != nil || n < 0 || n >= len(node) {
				return nil, notFound()
			}
			doc = node[n]
		default:
			return nil, notFound()
		}
	}
	if node, ok := doc.(tree); ok {
		return node.value()
	}
	return doc, nil
}

// value of a whole tree, made anew: it is for the rare policy that reads all of data.
func (t tree) value() (ast.Value, error) {
	obj := ast.NewObjectWithCapacity(len(t))
	for k, child := range t {
		var v ast.Value
		var err error
		if node, ok := child.(tree); ok {
			v, err = node.value()
		} else {
			v, err = ast.InterfaceToValue(child)
		}
		if err != nil {
			return nil, err
		}
		obj.Insert(ast.StringTerm(k), ast.NewTerm(v))
	}
	return obj, nil
}

// find follows the rest of a path through a value.
func find(v ast.Value, path storage.Path) (any, error) {
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
