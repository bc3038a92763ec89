package engine

import (
	"fmt"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/data"
)

// appendValue appends a ground value as JSON: object keys in order, sets as arrays. It reads only, so that a value may
// be encoded while other goroutines read it.
func appendValue(dst []byte, v ast.Value) []byte { return appendBrief(dst, v, -1) }

// appendBrief is appendValue that stops adding elements some time after dst has grown beyond limit octets, so that a
// huge value is not encoded only to be cut; negative: no limit. What it then gives is longer than limit.
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
	case *data.LazyObject: // only people see it, in an explanation
		return fmt.Appendf(dst, `{"...": "%d entries"}`, v.Len())
	case ast.Object:
		return appendObject(dst, v, limit)
	}
	return append(dst, "null"...) // nothing else is ground
}

// appendObject is appendBrief for objects. A key that is no string, which only a policy can make, becomes its JSON text.
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

// AppendString appends s as a JSON string (RFC 8259 §7). Octets that are not UTF-8 become U+FFFD, as in encoding/json; U+2028
// and U+2029 are escaped too, because some readers of line logs split there.
func AppendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < 0x7f {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			dst = append(dst, s[start:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\n':
				dst = append(dst, `\n`...)
			case '\r':
				dst = append(dst, `\r`...)
			case '\t':
				dst = append(dst, `\t`...)
			default:
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || r == '\u2028' || r == '\u2029' {
			dst = append(dst, s[start:i]...)
			dst = append(dst, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
			start = i + n
		}
		i += n
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}
