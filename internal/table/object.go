package table

import (
	"iter"
	"maps"
	"slices"
)

// Members collects the members of one object, in a map while there are few and in a Table from Large on. The zero value is an empty
// object.
type Members struct {
	// Plain makes the object a map of any size, as within lists.
	Plain bool
	// Large replaces the constant in tests; 0: the constant.
	Large int

	small map[string]any
	large *builder
	buf   []byte
}

// Add adds a member, whose value may be Packed. The error is ErrTwice, or says that the object is too large.
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

// pack packs a value; false if a Table cannot hold it.
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

// turn converts the map into a table.
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

// spill converts the table back into a map, which it stays.
func (m *Members) spill() {
	m.small, m.large, m.Plain = unpack(m.large.table()), nil, true
}

// Has reports whether there is a member with that key.
func (m *Members) Has(key string) bool {
	if m.large != nil {
		at, _ := m.large.t.find(key)
		return at != 0
	}
	_, ok := m.small[key]
	return ok
}

// Object returns the object, a map[string]any or a *Table. Nothing may be added afterwards.
func (m *Members) Object() any {
	switch {
	case m.large != nil:
		return m.large.table()
	case m.small == nil:
		return map[string]any{}
	}
	return m.small
}

// IsObject reports whether a value of a document is an object.
func IsObject(v any) bool {
	switch v.(type) {
	case map[string]any, *Table:
		return true
	}
	return false
}

// Size returns the number of entries of an object; 0 for any other value.
func Size(v any) int {
	switch v := v.(type) {
	case map[string]any:
		return len(v)
	case *Table:
		return v.Len()
	}
	return 0
}

// Look returns the value of a key in an object. It may be Packed.
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

// Each yields the members of an object; those of a map are sorted by key. The values may be Packed.
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

// Plain returns a value as a document has it. v may be Packed.
func Plain(v any) any {
	if packed, ok := v.(Packed); ok {
		return packed.Decode()
	}
	return v
}

// Holds reports whether a value is or holds a Table.
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

// Pack returns a copy of data in which every large object below it is a Table. data itself does not change.
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

// Unpack returns a copy of a value in which every Table is a map. The value itself does not change.
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
