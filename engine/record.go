package engine

import (
	"context"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/data"
	"github.com/postern-mail/postern/internal/printable"
)

// Recorder receives every decision. Record must not keep the Transaction or the Decision after it returns. It may keep Input and
// the slices of the Decision, which nothing changes. If it returns an error, the decision becomes the failure verdict.
type Recorder interface {
	Record(ctx context.Context, r Record) error
}

// Record is one decision with the facts that it is based on.
type Record struct {
	Transaction *Transaction
	Decision    *Decision
	// Input is the document that was evaluated, an *Input. It is never nil; its JSON is null if nothing was evaluated.
	Input interface{ AppendJSON(dst []byte) []byte }
}

// Input is the input document of one decision. It does not change, so that it may be encoded later and on another goroutine.
type Input struct {
	value  ast.Value
	octets int      // of all strings
	parts  []string // that were built
}

// Octets returns the length of all strings in the document, which is about the memory that it takes.
func (in *Input) Octets() int {
	if in == nil {
		return 0
	}
	return in.octets
}

// Value returns the document as OPA holds it, for an encoder of the caller's own; nil if nothing was evaluated. It must not be
// changed.
func (in *Input) Value() ast.Value {
	if in == nil {
		return nil
	}
	return in.value
}

// Parts returns the parts of the input that were built, as dotted paths. A fact in another part may exist although the document
// does not have it.
func (in *Input) Parts() []string {
	if in == nil {
		return nil
	}
	return in.parts
}

// AppendJSON appends the document with the keys of objects in order.
func (in *Input) AppendJSON(dst []byte) []byte {
	if in == nil || in.value == nil {
		return append(dst, "null"...)
	}
	return AppendValue(dst, in.value)
}

// AppendValue appends a ground value as JSON: the keys of objects in order, sets as arrays. It changes nothing, so that other
// goroutines may read the value meanwhile.
func AppendValue(dst []byte, v ast.Value) []byte { return appendBrief(dst, v, -1) }

// AppendValueWithin is AppendValue that stops once dst is longer than limit bytes. The result is complete JSON unless it is longer than limit.
// Its memory is bounded by limit for every value.
func AppendValueWithin(dst []byte, v ast.Value, limit int) []byte {
	return appendBrief(dst, v, max(limit, 0))
}

// appendBrief is AppendValue with a limit: it adds no more elements once dst is longer than limit bytes, so that a huge value is
// not encoded only to be cut. The result is then longer than limit and not complete. A negative limit is none.
func appendBrief(dst []byte, v ast.Value, limit int) []byte {
	switch v := v.(type) {
	case ast.Null:
		return append(dst, "null"...)
	case ast.Boolean:
		if v {
			return append(dst, "true"...)
		}
		return append(dst, "false"...)
	case ast.Number:
		return append(dst, v...)
	case ast.String:
		if limit >= 0 && len(v) > limit {
			v = v[:limit] + "..."
		}
		return AppendString(dst, string(v))
	case *ast.Array:
		dst = append(dst, '[')
		for i := range v.Len() {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst = appendBrief(dst, v.Elem(i).Value, limit); limit >= 0 && len(dst) > limit {
				return dst
			}
		}
		return append(dst, ']')
	case ast.Set:
		dst = append(dst, '[')
		for i, t := range v.Slice() {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst = appendBrief(dst, t.Value, limit); limit >= 0 && len(dst) > limit {
				return dst
			}
		}
		return append(dst, ']')
	case *data.LazyObject: // in an explanation
		return fmt.Appendf(dst, `{"...": "%d entries"}`, v.Len())
	case ast.Object:
		return appendObject(dst, v, limit)
	}
	return append(dst, "null"...) // nothing else is ground
}

// appendObject is appendBrief for objects. A key that is no string, which only a policy can make, is written as its JSON text.
func appendObject(dst []byte, obj ast.Object, limit int) []byte {
	dst = append(dst, '{')
	first := true
	it := obj.KeysIterator()
	for k, more := it.Next(); more; k, more = it.Next() {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		if s, ok := k.Value.(ast.String); ok {
			dst = AppendString(dst, string(s))
		} else {
			dst = AppendString(dst, string(appendBrief(nil, k.Value, limit)))
		}
		dst = append(dst, ':')
		if dst = appendBrief(dst, obj.Get(k).Value, limit); limit >= 0 && len(dst) > limit {
			return dst
		}
	}
	return append(dst, '}')
}

// AppendString appends s as a JSON string (RFC 8259 section 7). Bytes that are not UTF-8 become U+FFFD, as in encoding/json. Characters that
// could harm a terminal or a reader of logs are escaped (see internal/printable).
func AppendString(dst []byte, s string) []byte { return printable.AppendJSON(dst, s) }
