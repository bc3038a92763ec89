package table

import (
	"iter"
	"maps"
	"slices"
)

// Members collects the members of one object: into a map while there are few, into a Table from Large on. The zero value is
// an empty object.
type Members struct {
	// Plain makes it a map whatever its size, as within lists.
	Plain bool
	// Large in place of the constant, for tests; 0: the constant.
	Large int

	small map[string]any
	large *builder
	buf   []byte
}

// Add takes a member, whose value may be Packed. The error is ErrTwice, or says that the object is too large.
func (m *Members) Add(key string, v any) error {
	if m.large != nil {
		if packed, ok := m.pack(v); ok {
			return m.large.add(key, packed)
		}
		m.spill()
	}
	if _, twice := m.small[key]; twice {
		return ErrTwice
	}
	if m.small == nil {
		m.small = map[string]any{}
	}
	if packed, ok := v.(Packed); ok {
		v = packed.Decode()
	}
	m.small[key] = v
	m.Plain = m.Plain || Holds(v)
	least := m.Large
	if least == 0 {
		least = Large
	}
	if len(m.small) == least && !m.Plain {
		return m.turn()
	}
	return nil
}

// pack a value; false where the object cannot be a Table with it in it.
func (m *Members) pack(v any) (Packed, bool) {
	if packed, ok := v.(Packed); ok {
		return packed, true
	}
	out, err := appendPacked(m.buf[:0], v)
	if err != nil {
		return "", false
	}
	m.buf = out
	return Packed(out), true
}

// turn the map into a table.
func (m *Members) turn() error {
	b := newBuilder()
	for _, key := range slices.Sorted(maps.Keys(m.small)) {
		packed, ok := m.pack(m.small[key])
		if !ok {
			m.Plain = true
			return nil
		}
		if err := b.add(key, packed); err != nil {
			return err
		}
	}
	m.small, m.large = nil, b
	return nil
}

// spill turns the table back into a map, for good.
func (m *Members) spill() {
	m.small, m.large, m.Plain = unpack(m.large.table()), nil, true
}

// Has says whether there is a member.
func (m *Members) Has(key string) bool {
	if m.large != nil {
		at, _ := m.large.t.find(key)
		return at != 0
	}
	_, ok := m.small[key]
	return ok
}

// Object is what was collected: a map[string]any or a *Table. Nothing may be added afterwards.
func (m *Members) Object() any {
	switch {
	case m.large != nil:
		return m.large.table()
	case m.small == nil:
		return map[string]any{}
	}
	return m.small
}

// IsObject says whether a value of a document is an object.
func IsObject(v any) bool {
	switch v.(type) {
	case map[string]any, *Table:
		return true
	}
	return false
}

// Size of an object; 0 of anything else.
func Size(v any) int {
	switch v := v.(type) {
	case map[string]any:
		return len(v)
	case *Table:
		return v.Len()
	}
	return 0
}

// Look up a key in an object. The value may be Packed.
func Look(v any, key string) (any, bool) {
	switch v := v.(type) {
	case map[string]any:
		child, ok := v[key]
		return child, ok
	case *Table:
		return v.Get(key)
	}
	return nil, false
}

// Each member of an object, a map's sorted by key. The values may be Packed.
func Each(v any) iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		switch v := v.(type) {
		case map[string]any:
			for _, key := range slices.Sorted(maps.Keys(v)) {
				if !yield(key, v[key]) {
					return
				}
			}
		case *Table:
			for key, packed := range v.All() {
				if !yield(key, packed) {
					return
				}
			}
		}
	}
}

// Plain is a value that may be Packed, as a document has it.
func Plain(v any) any {
	if packed, ok := v.(Packed); ok {
		return packed.Decode()
	}
	return v
}

// Holds says whether there is a Table in a value.
func Holds(v any) bool {
	switch v := v.(type) {
	case *Table:
		return true
	case map[string]any:
		for _, child := range v {
			if Holds(child) {
				return true
			}
		}
	}
	return false
}

// Pack returns data with a Table in the place of every large object below it. data itself is not changed.
func Pack(data map[string]any) map[string]any {
	out := data
	changed := false
	for key, child := range data {
		object, ok := child.(map[string]any)
		if !ok {
			continue
		}
		packed := any(Pack(object))
		if len(object) >= Large {
			packed = packObject(packed.(map[string]any))
		}
		if now, ok := packed.(map[string]any); ok && !Holds(now) {
			continue
		}
		if !changed {
			out, changed = maps.Clone(data), true
		}
		out[key] = packed
	}
	return out
}

func packObject(object map[string]any) any {
	var m Members
	for key, v := range Each(object) {
		if m.Add(key, v) != nil {
			return object
		}
	}
	return m.Object()
}

// Unpack returns a value with a map in the place of every Table, itself among them. It is not changed.
func Unpack(v any) any {
	switch v := v.(type) {
	case *Table:
		return unpack(v)
	case map[string]any:
		if !Holds(v) {
			return v
		}
		out := maps.Clone(v)
		for key, child := range out {
			out[key] = Unpack(child)
		}
		return out
	}
	return v
}

func unpack(t *Table) map[string]any {
	out := make(map[string]any, t.Len())
	for key, packed := range t.All() {
		out[key] = packed.Decode()
	}
	return out
}
