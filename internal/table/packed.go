package table

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// Packed is one value as a Table stores it: a Kind and its content. Decode and Cursor read it.
type Packed string

// Kind is the first byte of a packed value.
type Kind byte

// Kinds. After the kind comes the length of the text, or the number of items or members that follow.
const (
	Null   Kind = 'z'
	True   Kind = 't'
	False  Kind = 'f'
	Number Kind = 'n' // the text of a json.Number
	String Kind = 's'
	List   Kind = 'l'
	Object Kind = 'o' // each member is a String and its value; sorted by key
)

// appendPacked packs a value. It fails for a Go type that no document has, and for a Table.
func appendPacked(out []byte, v any) ([]byte, error) {
	var err error
	switch v := v.(type) {
	case nil:
		return append(out, byte(Null)), nil
	case bool:
		if v {
			return append(out, byte(True)), nil
		}
		return append(out, byte(False)), nil
	case string:
		return appendText(out, String, v), nil
	case json.Number:
		return appendText(out, Number, string(v)), nil
	case int:
		return appendText(out, Number, strconv.Itoa(v)), nil
	case float64:
		return appendText(out, Number, strconv.FormatFloat(v, 'g', -1, 64)), nil
	case []any:
		out = binary.AppendUvarint(append(out, byte(List)), uint64(len(v)))
		for _, item := range v {
			if out, err = appendPacked(out, item); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		out = binary.AppendUvarint(append(out, byte(Object)), uint64(len(v)))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if out, err = appendPacked(appendText(out, String, key), v[key]); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("cannot pack a %T", v)
}

func appendText(out []byte, kind Kind, text string) []byte {
	return append(binary.AppendUvarint(append(out, byte(kind)), uint64(len(text))), text...)
}

// Cursor reads a packed value in order. The zero value is at its end.
type Cursor struct{ rest Packed }

// Cursor returns a cursor at the beginning of the value.
func (p Packed) Cursor() *Cursor { return &Cursor{p} }

// Next returns the kind of the next value, with its text or the number of items or members that follow.
func (c *Cursor) Next() (kind Kind, text string, n int) {
	if c.rest == "" {
		return Null, "", 0
	}
	kind, c.rest = Kind(c.rest[0]), c.rest[1:]
	switch kind {
	case Number, String:
		n = c.length()
		text, c.rest = string(c.rest[:n]), c.rest[n:]
	case List, Object:
		n = c.length()
	}
	return kind, text, n
}

// length reads a number as binary.Uvarint does, from a string.
func (c *Cursor) length() int {
	n := 0
	for i := range len(c.rest) {
		octet := c.rest[i]
		n |= int(octet&0x7f) << (7 * i)
		if octet < 0x80 {
			c.rest = c.rest[i+1:]
			break
		}
	}
	return n
}

// Decode returns the value as a document has it.
func (p Packed) Decode() any { return p.Cursor().value() }

func (c *Cursor) value() any {
	kind, text, n := c.Next()
	switch kind {
	case True, False:
		return kind == True
	case Number:
		return json.Number(text)
	case String:
		return text
	case List:
		list := make([]any, n)
		for i := range list {
			list[i] = c.value()
		}
		return list
	case Object:
		object := make(map[string]any, n)
		for range n {
			_, key, _ := c.Next()
			object[key] = c.value()
		}
		return object
	}
	return nil
}
