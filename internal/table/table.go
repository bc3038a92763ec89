package table

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/maphash"
	"iter"
)

// Large is the number of entries from which an object is a Table.
const Large = 1000

// Table is an object of many entries. Its zero value is empty.
type Table struct {
	// Each chunk holds whole entries: length and bytes of the key, length and bytes of the packed value.
	chunks [][]byte
	// slots is a hash table with linear probing: 1 + the address of an entry, or 0. Its size is a power of two.
	slots []uint32
	seed  maphash.Seed
	n     int
}

// An address is the number of a chunk and an offset in it. An entry that is larger than a chunk has a chunk of its own.
const (
	chunkBits = 20
	chunkSize = 1 << chunkBits
	maxChunks = 1<<(32-chunkBits) - 1 // so that 1 + an address fits as well
)

// Len returns the number of entries.
func (t *Table) Len() int { return t.n }

// Get returns the value of a key; false if there is none.
func (t *Table) Get(key string) (Packed, bool) {
	at, _ := t.find(key)
	if at == 0 {
		return "", false
	}
	_, value, _ := entry(t.from(at))
	return Packed(value), true
}

// All yields the entries in the order in which they were added.
func (t *Table) All() iter.Seq2[string, Packed] {
	return func(yield func(string, Packed) bool) {
		for _, rest := range t.chunks {
			for len(rest) > 0 {
				key, value, size := entry(rest)
				if !yield(string(key), Packed(value)) {
					return
				}
				rest = rest[size:]
			}
		}
	}
}

// MarshalJSON writes the object with its keys sorted.
func (t *Table) MarshalJSON() ([]byte, error) { return json.Marshal(Unpack(t)) }

// find returns the slot of a key and its content, which is 0 if there is no such key.
func (t *Table) find(key string) (at uint32, slot int) {
	if len(t.slots) == 0 {
		return 0, 0
	}
	mask := len(t.slots) - 1
	for slot = int(maphash.String(t.seed, key)) & mask; t.slots[slot] != 0; slot = (slot + 1) & mask {
		if found, _, _ := entry(t.from(t.slots[slot])); string(found) == key {
			return t.slots[slot], slot
		}
	}
	return 0, slot
}

// from returns the chunk from the entry on to which a slot points.
func (t *Table) from(at uint32) []byte {
	at--
	return t.chunks[at>>chunkBits][at&(chunkSize-1):]
}

// entry reads the entry at the beginning of data.
func entry(data []byte) (key, value []byte, size int) {
	n, used := binary.Uvarint(data)
	size = used + int(n)
	key = data[used:size]
	n, used = binary.Uvarint(data[size:])
	value = data[size+used : size+used+int(n)]
	return key, value, size + used + int(n)
}

// Errors of a builder.
var (
	// ErrTwice says that the object has the key already.
	ErrTwice = errors.New("the key is there twice")
	errFull  = errors.New("the object is larger than 4 GiB")
)

// builder fills a Table.
type builder struct {
	t   Table
	out []byte // the last chunk
}

func newBuilder() *builder {
	b := &builder{t: Table{seed: maphash.MakeSeed()}}
	b.resize(2 * Large)
	return b
}

// add adds an entry.
func (b *builder) add(key string, value Packed) error {
	if b.t.n >= len(b.t.slots)/4*3 {
		b.resize(2 * len(b.t.slots))
	}
	at, slot := b.t.find(key)
	if at != 0 {
		return ErrTwice
	}
	size := len(key) + len(value) + 2*binary.MaxVarintLen64
	if n := len(b.t.chunks); n == 0 || len(b.out)+size > chunkSize {
		if n == maxChunks {
			return errFull
		}
		b.trim()
		b.t.chunks, b.out = append(b.t.chunks, nil), nil
		if n > 0 { // most tables need only the first chunk, which grows
			b.out = make([]byte, 0, chunkSize)
		}
	}
	last := len(b.t.chunks) - 1
	address := uint32(last)<<chunkBits | uint32(len(b.out))
	b.out = binary.AppendUvarint(b.out, uint64(len(key)))
	b.out = append(b.out, key...)
	b.out = binary.AppendUvarint(b.out, uint64(len(value)))
	b.out = append(b.out, value...)
	b.t.chunks[last] = b.out
	b.t.slots[slot] = 1 + address
	b.t.n++
	return nil
}

// trim frees the part of the last chunk that is not used.
func (b *builder) trim() {
	if last := len(b.t.chunks) - 1; last >= 0 && cap(b.out)-len(b.out) > len(b.out)/16 {
		b.t.chunks[last] = append(make([]byte, 0, len(b.out)), b.out...)
	}
}

// resize rebuilds the hash table with at least n slots.
func (b *builder) resize(n int) {
	size := 1
	for size < n {
		size *= 2
	}
	b.t.slots = make([]uint32, size)
	for i, chunk := range b.t.chunks {
		for offset := 0; offset < len(chunk); {
			key, _, used := entry(chunk[offset:])
			slot := int(maphash.Bytes(b.t.seed, key)) & (size - 1)
			for b.t.slots[slot] != 0 {
				slot = (slot + 1) & (size - 1)
			}
			b.t.slots[slot] = 1 + (uint32(i)<<chunkBits | uint32(offset))
			offset += used
		}
	}
}

// table returns the finished table.
func (b *builder) table() *Table {
	b.trim()
	return &b.t
}
