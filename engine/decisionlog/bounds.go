package decisionlog

import (
	"bytes"
	"slices"
	"strconv"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/printable"
)

// Bounds of Options.MaxLine, in octets. Lines of LongestLine octets can be read back (see MaxLine).
const (
	DefaultLine = 64 << 10
	MinLine     = 16 << 10
	LongestLine = 8 << 20
)

// How a shortened line is divided. A share of n is 1/n of the line. The input gets what the others leave, which is a third at least.
const (
	labelShare     = 16 // labels, of the configuration
	headShare      = 64 // each string before the input, such as the login
	partsShare     = 16
	stringShare    = 16 // each other string
	resultShare    = 4
	pointerShare   = 16 // erased and masked together
	reservedShare  = 2  // result, error, pointers and what is said about omissions, together: 1/4 + 1/16 + 1/16 + 1/10
	reservedOctets = 1 << 10

	maxName     = 512  // octets of a name in a note
	maxDepth    = 32   // of a note
	maxNumber   = 64   // octets of a number
	maxPath     = 160  // octets of a path in shortened, encoded
	lineFor     = 2048 // octets of the line for each path in shortened
	elementRoom = 160  // octets that must be free before an element; names and numbers of an element fit
	cutMark     = "[...]"
)

// bounds keeps a line below its limit while it is made. A first attempt writes everything and gives up once the line is too long, so that it
// takes no more memory than a line may have. The second one writes as much as fits, and counts what it leaves out.
type bounds struct {
	short   bool
	over    bool // the first attempt has failed
	end     int  // of the encoder's dst: no element begins beyond it
	mute    int  // more than 0: nothing is written; masks only learn
	pointed int  // octets of pointers
	omitted []omission
}

// omission is what a shortened line lacks at a path or below it.
type omission struct {
	path             string // JSON pointer
	elements, octets int    // of lists and objects; of strings
}

func (b *bounds) begin(short bool, end int) {
	*b = bounds{short: short, end: end, omitted: b.omitted[:0]}
}

// learns reports whether masks must see what is left out.
func (c *encoder) learns() bool {
	m := &c.masker.Mask
	return c.short && (c.hides() || m.EraseSubject || len(c.masker.erase) > 0)
}

// room reports whether an element with a name of that length can begin.
func (c *encoder) room(name int) bool {
	if c.mute > 0 {
		return true
	}
	if !c.short {
		c.over = c.over || len(c.dst) > c.end
		return !c.over
	}
	return len(c.dst)+6*name+elementRoom <= c.end
}

// leaveOut counts the last n elements of the list or object at c.at as left out. muted reports whether the caller goes on with c.mute set,
// because what is left out must not come back in a note or reply.
func (c *encoder) leaveOut(n int) (muted bool) {
	c.omit(n, 0)
	if c.learns() {
		c.mute++
		return true
	}
	return false
}

// state is what back restores.
type state struct {
	kept, erased, masked, pointed int
	omitted                       []omission
}

// state returns the state before an element, or the zero state if the element need not be whole.
func (c *encoder) state(whole bool) state {
	if !whole || !c.short || c.mute > 0 {
		return state{}
	}
	return state{len(c.dst), len(c.erased), len(c.masked), c.pointed, slices.Clone(c.omitted)}
}

// back takes an element back that lacks something in itself. It reports whether it did.
func (c *encoder) back(s state) bool {
	if s.kept == 0 || elementsOf(c.omitted) == elementsOf(s.omitted) {
		return false
	}
	c.dst, c.erased, c.masked, c.pointed, c.omitted = c.dst[:s.kept], c.erased[:s.erased], c.masked[:s.masked], s.pointed, s.omitted
	return true
}

func elementsOf(list []omission) (n int) {
	for _, o := range list {
		n += o.elements
	}
	return n
}

// share runs f, which appends the value at c.at. If more values follow in a shortened line, it gets half of the room, so that they get some, too. The
// message gets most of the input's.
func (c *encoder) share(more bool, f func()) {
	if !more || !c.short || c.mute > 0 {
		f()
		return
	}
	end := c.end
	free := max(end-len(c.dst), 0)
	part := free / 2
	if string(c.at) == "/input/message" {
		part = free - max(free/8, min(free, reservedOctets))
	}
	c.end = len(c.dst) + part
	f()
	c.end = end
}

// name appends the name of a member and its colon.
func (c *encoder) name(s string) {
	if c.mute == 0 {
		c.dst = append(engine.AppendString(c.dst, s), ':')
	}
}

// str appends a string. It cuts the string if the line is shortened, and counts the rest as left out.
func (c *encoder) str(s string) {
	if c.mute > 0 {
		return
	}
	if !c.short {
		if len(s) > c.end-len(c.dst) {
			c.over = true
			return
		}
		c.dst = engine.AppendString(c.dst, s)
		return
	}
	most := c.max / stringShare
	if !bytes.HasPrefix(c.at, []byte("/input")) && !bytes.HasPrefix(c.at, []byte("/result")) && !bytes.HasPrefix(c.at, []byte("/error")) {
		most = c.max / headShare
	}
	var used int
	c.dst, used = printable.AppendJSONWithin(c.dst, s, min(most, max(c.end-len(c.dst), 0)))
	if used < len(s) {
		c.dst = append(c.dst[:len(c.dst)-1], cutMark+`"`...)
		c.omit(0, len(s)-used)
	}
}

// point adds c.at to a list of pointers. Once the lists are too long for a shortened line, one pointer stands for the whole input, another
// for the whole result.
func (c *encoder) point(list []string) []string {
	if c.mute > 0 {
		return list
	}
	at := string(c.at)
	c.pointed += len(engine.AppendString(nil, at)) + 1
	if !c.short {
		c.over = c.over || c.pointed > c.max
	} else if c.pointed > c.max/pointerShare {
		if at = top(at); slices.Contains(list, at) {
			return list
		}
	}
	return append(list, at)
}

// top returns the pointer of the member of the line that a pointer is in.
func top(pointer string) string {
	for i := 1; i < len(pointer); i++ {
		if pointer[i] == '/' {
			return pointer[:i]
		}
	}
	return pointer
}

// omit counts elements or octets that are left out at c.at.
func (c *encoder) omit(elements, octets int) {
	if c.mute > 0 || !c.short {
		return
	}
	at := string(c.at)
	i := slices.IndexFunc(c.omitted, func(o omission) bool { return o.path == at })
	if i < 0 && (len(c.omitted) >= c.max/lineFor || len(engine.AppendString(nil, at)) > maxPath) {
		at = top(at)
		i = slices.IndexFunc(c.omitted, func(o omission) bool { return o.path == at })
	}
	if i < 0 {
		c.omitted = append(c.omitted, omission{path: at})
		i = len(c.omitted) - 1
	}
	c.omitted[i].elements += elements
	c.omitted[i].octets += octets
}

// shortened appends what was left out of the line.
func (c *encoder) shortened() {
	if len(c.omitted) == 0 {
		return
	}
	elements, octets := elementsOf(c.omitted), 0
	for _, o := range c.omitted {
		octets += o.octets
	}
	counts := func(elements, octets int) {
		if elements > 0 {
			c.raw(`"elements":` + strconv.Itoa(elements) + `,`)
		}
		if octets > 0 {
			c.raw(`"octets":` + strconv.Itoa(octets) + `,`)
		}
	}
	c.raw(`,"shortened":{`)
	counts(elements, octets)
	c.raw(`"fields":[`)
	for i, o := range c.omitted {
		if i > 0 {
			c.raw(`,`)
		}
		c.raw(`{`)
		counts(o.elements, o.octets)
		c.raw(`"path":`)
		c.dst = append(engine.AppendString(c.dst, o.path), '}')
	}
	c.raw(`]}`)
}
