package engine

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/internal/message"
)

// fieldSet are the fields of message.header that rules look up by name, where all names are known: no others are built. A nil
// fieldSet is all fields. It does not change.
type fieldSet struct {
	keys  []string    // lower-case names, sorted, each once
	terms []*ast.Term // of keys
}

// newFieldSet of keys that are sorted, each once.
func newFieldSet(keys []string) *fieldSet {
	f := &fieldSet{keys: keys, terms: make([]*ast.Term, len(keys))}
	for i, key := range keys {
		f.terms[i] = ast.StringTerm(key)
	}
	return f
}

// or is what is in either.
func (f *fieldSet) or(g *fieldSet) *fieldSet {
	if f == nil || g == nil {
		return nil
	}
	keys := slices.Concat(f.keys, g.keys)
	slices.Sort(keys)
	return newFieldSet(slices.Compact(keys))
}

// without is f but for what g has, as names.
func (f *fieldSet) without(g *fieldSet) []string {
	var out []string
	for _, key := range f.keys {
		if _, has := slices.BinarySearch(g.keys, key); !has {
			out = append(out, key)
		}
	}
	return out
}

// headerPath is the path of message.header with the dot before a name.
const headerPath = "message.header."

// partNames are the dotted paths of parts, in the order of the contract; fields are those of message.header, nil: all.
func partNames(p parts, fields *fieldSet) []string {
	out := []string{}
	paths := partPaths()
	for part := parts(1); part&partsAll != 0; part <<= 1 {
		switch {
		case p&part == 0:
		case part == partHeader && fields != nil:
			for _, key := range fields.keys {
				out = append(out, headerPath+key)
			}
		default:
			out = append(out, paths[part])
		}
	}
	return out
}

// namedFields are those that names of parts name one by one.
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

// some makes message.header of the fields in b.fields.
func (b *builder) some(h *message.Header) *ast.Term {
	found := make([][]*ast.Term, len(b.fields.keys))
	for i := range h.Len() {
		f := h.Field(i)
		if at, ok := slices.BinarySearch(b.fields.keys, f.Key()); ok {
			found[at] = append(found[at], b.str(f.Value()))
		}
	}
	header := make([]pair, 0, len(found))
	for i, values := range found {
		if values != nil {
			header = append(header, pair{b.fields.terms[i], b.term(ast.NewArray(values...))})
		}
	}
	return b.object(header)
}
