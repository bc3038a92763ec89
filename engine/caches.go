package engine

import (
	"hash/maphash"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// maxKept is the number of results up to which a worker keeps the memory of its caches for the next evaluation.
const maxKept = 4096

// caches are what one evaluation remembers: values of rules and functions, and data it has read. OPA's own are made anew for
// each evaluation, with a map for every step of every path: a tenth of an evaluation. These belong to a worker, which uses them
// again.
type caches struct {
	rules ruleCache
	data  dataCache
}

// newCaches makes those of one worker. seed is that of the tables of constants.
func newCaches(seed maphash.Seed) *caches {
	return &caches{rules: ruleCache{table: refTable[ruled]{seed: seed}}, data: dataCache{table: refTable[ast.Value]{seed: seed}}}
}

// reset forgets everything: nothing of one message is there for the next. constants are what the rules of the next have ready.
func (c *caches) reset(constants *refTable[ruled]) {
	c.rules.constants = constants
	c.rules.table.reset()
	c.rules.frames, c.rules.last = append(c.rules.frames[:0], 0), 0
	c.data.table.reset()
}

// ruled is the value of a rule or of a function's call.
type ruled struct {
	value     *ast.Term
	undefined bool
}

// ruleCache is a topdown.VirtualCache. The frames are those of `with`: what was found in one holds in no other.
type ruleCache struct {
	table  refTable[ruled]
	frames []uint32 // numbers, the innermost last
	last   uint32   // number given

	constants *refTable[ruled] // of the outermost frame; nil: none. Read only
}

var _ topdown.VirtualCache = (*ruleCache)(nil)

// Push opens an empty frame.
func (c *ruleCache) Push() {
	c.last++
	c.frames = append(c.frames, c.last)
}

// Pop leaves the innermost frame for good.
func (c *ruleCache) Pop() { c.frames = c.frames[:len(c.frames)-1] }

// frame is the number of the innermost.
func (c *ruleCache) frame() uint32 { return c.frames[len(c.frames)-1] }

// Get gives nil, true of what is known to be undefined, and nil, false of what is not known.
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

// Put remembers a value; nil: there is none.
func (c *ruleCache) Put(ref ast.Ref, value *ast.Term) {
	e := c.table.at(ref, c.frame())
	if value == nil {
		e.value.undefined = true
	} else {
		e.value.value = value
	}
}

// Keys of the innermost frame that have a value.
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

// dataCache is a topdown.BaseCache. Data does not change, so that what was read at a path needs not be found by longer paths
// as well: those are read again.
type dataCache struct{ table refTable[ast.Value] }

var _ topdown.BaseCache = (*dataCache)(nil)

// Get is the value at a path, nil where it is not known.
func (c *dataCache) Get(ref ast.Ref) ast.Value {
	if e := c.table.find(ref, 0, c.table.hash(ref, 0)); e != nil {
		return e.value
	}
	return nil
}

// Put remembers the value at a path.
func (c *dataCache) Put(ref ast.Ref, value ast.Value) { c.table.at(ref, 0).value = value }

// refTable is a hash table by reference and frame that is emptied without being cleared.
type refTable[V any] struct {
	seed    maphash.Seed
	slots   []slot // a power of two of them, at most half of them in use
	now     uint32 // generation; slots of another are empty
	entries []entry[V]
	terms   []*ast.Term // of the keys: topdown uses the memory of a reference again
}

type slot struct{ generation, entry uint32 }

type entry[V any] struct {
	hash     uint64
	from, to int // in terms
	frame    uint32
	value    V
}

// reset empties the table, and lets go of memory that an unusual evaluation has taken.
func (t *refTable[V]) reset() {
	if len(t.entries) > maxKept || t.now == 1<<32-1 {
		t.slots, t.entries, t.terms, t.now = nil, nil, nil, 0
	}
	clear(t.entries)
	clear(t.terms)
	t.entries, t.terms = t.entries[:0], t.terms[:0]
	t.now++
}

// key of an entry.
func (t *refTable[V]) key(e *entry[V]) []*ast.Term { return t.terms[e.from:e.to] }

// hash of a reference. The last steps are those in which references differ.
func (t *refTable[V]) hash(ref ast.Ref, frame uint32) uint64 {
	const odd = 0x9e3779b97f4a7c15
	h := uint64(len(ref))<<32 | uint64(frame)
	for _, term := range ref[max(0, len(ref)-3):] {
		switch v := term.Value.(type) {
		case ast.String:
			h ^= maphash.String(t.seed, string(v))
		case ast.Ref: // the name of a function, the same in most keys of its length
			h ^= uint64(len(v))
		default:
			h ^= uint64(v.Hash())
		}
		h *= odd
		h ^= h >> 29
	}
	return h
}

// find an entry; nil: there is none.
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

// sameTerm is Equal, which most often is the same term.
func sameTerm(a, b *ast.Term) bool { return a == b || a.Equal(b) }

// at is the entry of a reference, made where there is none. It is good until the next.
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
