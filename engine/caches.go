package engine

import (
	"hash/maphash"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// maxKept is the number of entries beyond which a worker frees the memory of a cache after an evaluation.
const maxKept = 4096

// caches hold what one evaluation remembers: the values of rules and functions, and the data that it has read. A worker uses them
// again for its next evaluation. OPA's own caches are made for each evaluation, with a map for every step of every path: with them
// a decision of the default bundle makes 85 allocations more, and all decisions of a transaction take 13 % more CPU time.
type caches struct {
	rules ruleCache
	data  dataCache
}

// newCaches returns the caches of one worker. seed must be that of the constants, whose hashes are compared.
func newCaches(seed maphash.Seed) *caches {
	return &caches{rules: ruleCache{table: refTable[ruleValue]{seed: seed}}, data: dataCache{table: refTable[ast.Value]{seed: seed}}}
}

// reset forgets everything, so that nothing of one message is left for the next. constants are the rule values that the next
// evaluation starts with.
func (c *caches) reset(constants *refTable[ruleValue]) {
	c.rules.constants = constants
	c.rules.table.reset()
	c.rules.frames, c.rules.last = append(c.rules.frames[:0], 0), 0
	c.data.table.reset()
}

// ruleValue is the value of a rule or of a function call.
type ruleValue struct {
	value     *ast.Term
	undefined bool
}

// ruleCache is a topdown.VirtualCache. Every `with` opens a frame: a value that was found in one frame is valid in no other.
type ruleCache struct {
	table  refTable[ruleValue]
	frames []uint32 // numbers, the innermost last
	last   uint32   // the number given last

	constants *refTable[ruleValue] // values in the outermost frame, read only; nil: none
}

var _ topdown.VirtualCache = (*ruleCache)(nil)

// Push opens an empty frame.
func (c *ruleCache) Push() {
	c.last++
	c.frames = append(c.frames, c.last)
}

// Pop closes the innermost frame.
func (c *ruleCache) Pop() { c.frames = c.frames[:len(c.frames)-1] }

// frame returns the number of the innermost frame.
func (c *ruleCache) frame() uint32 { return c.frames[len(c.frames)-1] }

// Get returns the value of a rule; nil and true if it is known to be undefined; nil and false if it is not known.
func (c *ruleCache) Get(ref ast.Ref) (*ast.Term, bool) {
	frame := c.frame()
	hash := c.table.hash(ref, frame)
	e := c.table.find(ref, frame, hash)
	if e == nil && frame == 0 && c.constants != nil {
		e = c.constants.find(ref, frame, hash)
	}
	switch {
	case e == nil:
		return nil, false
	case e.value.undefined:
		return nil, true
	}
	return e.value.value, false
}

// Put stores the value of a rule; nil if it is undefined.
func (c *ruleCache) Put(ref ast.Ref, value *ast.Term) {
	e := c.table.at(ref, c.frame())
	if value == nil {
		e.value.undefined = true
	} else {
		e.value.value = value
	}
}

// Keys returns the references in the innermost frame that have a value.
func (c *ruleCache) Keys() []ast.Ref {
	var out []ast.Ref
	frame := c.frame()
	for i := range c.table.entries {
		if e := &c.table.entries[i]; e.frame == frame && e.value.value != nil {
			out = append(out, slices.Clone(ast.Ref(c.table.key(e))))
		}
	}
	return out
}

// dataCache is a topdown.BaseCache. It finds a value only by the path at which it was read; longer paths are read again.
type dataCache struct{ table refTable[ast.Value] }

var _ topdown.BaseCache = (*dataCache)(nil)

// Get returns the value at a path, or nil if it is not known.
func (c *dataCache) Get(ref ast.Ref) ast.Value {
	if e := c.table.find(ref, 0, c.table.hash(ref, 0)); e != nil {
		return e.value
	}
	return nil
}

// Put stores the value at a path.
func (c *dataCache) Put(ref ast.Ref, value ast.Value) { c.table.at(ref, 0).value = value }

// refTable is a hash table by reference and frame. It is emptied by starting a new generation, without clearing its slots.
type refTable[V any] struct {
	seed    maphash.Seed
	slots   []slot // their number is a power of two; at most half are in use
	now     uint32 // the generation; slots of another one are empty
	entries []entry[V]
	terms   []*ast.Term // of the keys, copied because topdown reuses the memory of a reference
}

type slot struct{ generation, entry uint32 }

type entry[V any] struct {
	hash     uint64
	from, to int // in terms
	frame    uint32
	value    V
}

// reset empties the table, and frees its memory after an unusually large evaluation.
func (t *refTable[V]) reset() {
	if len(t.entries) > maxKept || t.now == 1<<32-1 {
		t.slots, t.entries, t.terms, t.now = nil, nil, nil, 0
	}
	clear(t.entries)
	clear(t.terms)
	t.entries, t.terms = t.entries[:0], t.terms[:0]
	t.now++
}

// key returns the terms of an entry's reference.
func (t *refTable[V]) key(e *entry[V]) []*ast.Term { return t.terms[e.from:e.to] }

// hash returns the hash of a reference by its last three terms, in which references differ.
func (t *refTable[V]) hash(ref ast.Ref, frame uint32) uint64 {
	const odd = 0x9e3779b97f4a7c15
	h := uint64(len(ref))<<32 | uint64(frame)
	for _, term := range ref[max(0, len(ref)-3):] {
		switch v := term.Value.(type) {
		case ast.String:
			h ^= maphash.String(t.seed, string(v))
		case ast.Ref: // the name of a function; most references of this length have the same one
			h ^= uint64(len(v))
		default:
			h ^= uint64(v.Hash())
		}
		h *= odd
		h ^= h >> 29
	}
	return h
}

// find returns an entry, or nil.
func (t *refTable[V]) find(ref ast.Ref, frame uint32, hash uint64) *entry[V] {
	if len(t.slots) == 0 {
		return nil
	}
	mask := uint64(len(t.slots) - 1)
	for i := hash & mask; t.slots[i].generation == t.now; i = (i + 1) & mask {
		e := &t.entries[t.slots[i].entry]
		if e.hash == hash && e.frame == frame && slices.EqualFunc(t.key(e), ref, sameTerm) {
			return e
		}
	}
	return nil
}

// sameTerm reports whether two terms are equal. Most often they are the same pointer.
func sameTerm(a, b *ast.Term) bool { return a == b || a.Equal(b) }

// at returns the entry of a reference, and makes it if necessary. The pointer is valid until the next call.
func (t *refTable[V]) at(ref ast.Ref, frame uint32) *entry[V] {
	hash := t.hash(ref, frame)
	if e := t.find(ref, frame, hash); e != nil {
		return e
	}
	if 2*(len(t.entries)+1) > len(t.slots) {
		t.grow()
	}
	from := len(t.terms)
	t.terms = append(t.terms, ref...)
	t.entries = append(t.entries, entry[V]{hash: hash, from: from, to: len(t.terms), frame: frame})
	t.place(len(t.entries) - 1)
	return &t.entries[len(t.entries)-1]
}

// grow doubles the slots.
func (t *refTable[V]) grow() {
	t.slots = make([]slot, max(64, 2*len(t.slots)))
	t.now = max(t.now, 1)
	for i := range t.entries {
		t.place(i)
	}
}

// place puts an entry into a free slot.
func (t *refTable[V]) place(entry int) {
	mask := uint64(len(t.slots) - 1)
	i := t.entries[entry].hash & mask
	for t.slots[i].generation == t.now {
		i = (i + 1) & mask
	}
	t.slots[i] = slot{t.now, uint32(entry)}
}
