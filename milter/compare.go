package milter

import (
	"slices"

	"github.com/postern-mail/postern/internal/message"
)

type stepKind uint8

const (
	stepKeep stepKind = iota
	stepReplace
	stepRemove
	stepInsert
)

// step is one line of the way from one header to another. before and after index their fields; an insertion comes ahead
// of field before, a removal leaves after unused.
type step struct {
	kind          stepKind
	before, after int
}

// compare finds the shortest way from before to after in which fields are kept, replaced by others of their name, removed
// and inserted, top to bottom.
func compare(before, after *message.Header) []step {
	a, b := idsOf(before, after)
	var steps []step
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		steps = append(steps, step{stepKeep, head, head})
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	steps = append(steps, align(a[head:len(a)-tail], b[head:len(b)-tail], head)...)
	for i := tail; i > 0; i-- {
		steps = append(steps, step{stepKeep, len(a) - i, len(b) - i})
	}
	return steps
}

// fieldID tells fields apart: raw octets and name, as small numbers.
type fieldID struct{ raw, key int }

func idsOf(before, after *message.Header) (a, b []fieldID) {
	raws, keys := map[string]int{}, map[string]int{}
	number := func(m map[string]int, s string) int {
		n, ok := m[s]
		if !ok {
			n = len(m)
			m[s] = n
		}
		return n
	}
	ids := func(h *message.Header) []fieldID {
		list := make([]fieldID, h.Len())
		for i := range list {
			f := h.Field(i)
			list[i] = fieldID{number(raws, string(f.Raw())), number(keys, f.Key())}
		}
		return list
	}
	return ids(before), ids(after)
}

// align is the edit distance between a and b; offset is added to the indexes. Its table is at most the square of
// Limits.HeaderFields.
func align(a, b []fieldID, offset int) []step {
	width := len(b) + 1
	cost := make([]int32, (len(a)+1)*width) // cost[i*width+j]: from a[i:] to b[j:]
	for i := len(a); i >= 0; i-- {
		for j := len(b); j >= 0; j-- {
			switch {
			case i == len(a):
				cost[i*width+j] = int32(len(b) - j)
			case j == len(b):
				cost[i*width+j] = int32(len(a) - i)
			default:
				best := 1 + min(cost[(i+1)*width+j], cost[i*width+j+1])
				if a[i].key == b[j].key {
					best = min(best, cost[(i+1)*width+j+1]+differ(a[i], b[j]))
				}
				cost[i*width+j] = best
			}
		}
	}
	var steps []step
	for i, j := 0, 0; i < len(a) || j < len(b); {
		here := cost[i*width+j]
		switch {
		case i < len(a) && j < len(b) && a[i].key == b[j].key && here == cost[(i+1)*width+j+1]+differ(a[i], b[j]):
			kind := stepReplace
			if a[i] == b[j] {
				kind = stepKeep
			}
			steps = append(steps, step{kind, offset + i, offset + j})
			i, j = i+1, j+1
		case i < len(a) && here == 1+cost[(i+1)*width+j]:
			steps = append(steps, step{stepRemove, offset + i, -1})
			i++
		default:
			steps = append(steps, step{stepInsert, offset + i, offset + j})
			j++
		}
	}
	return slices.Clip(steps)
}

// differ is what it costs to make b of a: nothing where they are the same.
func differ(a, b fieldID) int32 {
	if a == b {
		return 0
	}
	return 1
}
