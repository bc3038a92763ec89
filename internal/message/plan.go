package message

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxEdits bounds a plan. More edits than this are a mistake in the policy.
const maxEdits = 1000

// Edits is a list of edits without duplicates and contradictions, ordered by operation (removals, replacements, insertions,
// additions), then by name, index and value. Only Plan makes one that is not empty.
type Edits struct{ list []Edit }

// Len is the number of edits.
func (e Edits) Len() int { return len(e.list) }

// At returns edit i, from 0.
func (e Edits) At(i int) Edit { return e.list[i] }

// ContradictionError names two edits that cannot both be done.
type ContradictionError struct{ A, B Edit }

func (e *ContradictionError) Error() string {
	return fmt.Sprintf("edits contradict each other: %q and %q; let one rule decide", e.A, e.B)
}

// Plan orders edits, drops duplicates and refuses contradictions with a *ContradictionError that names both: two values for
// one field, a removal and a replacement of one field, two senders, a recipient both added and removed.
func Plan(edits []Edit) (Edits, error) {
	if len(edits) > maxEdits {
		return Edits{}, fmt.Errorf("%d edits; at most %d are allowed for one message", len(edits), maxEdits)
	}
	if len(edits) == 0 {
		return Edits{}, nil
	}
	list := slices.Clone(edits)
	slices.SortStableFunc(list, compareEdits)
	list = slices.CompactFunc(list, func(a, b Edit) bool { return compareEffects(a, b) == 0 })
	p := planner{seen: map[target]Edit{}, first: map[string]Edit{}}
	for _, e := range list {
		if e.op == 0 {
			return Edits{}, fmt.Errorf("an edit that was not made by NewEdit or NewEnvelopeEdit")
		}
		if err := p.add(e); err != nil {
			return Edits{}, err
		}
	}
	return Edits{list}, nil
}

// compareEdits is the order of a plan. Differences in the case of letters come last, so that of two edits with the same effect
// the same one stays in every order of the input.
func compareEdits(a, b Edit) int {
	return cmp.Or(compareEffects(a, b), strings.Compare(a.name, b.name), strings.Compare(a.path.Address(), b.path.Address()))
}

// compareEffects returns 0 for two edits with the same effect.
func compareEffects(a, b Edit) int {
	return cmp.Or(cmp.Compare(a.op, b.op), strings.Compare(lower(a.name), lower(b.name)), cmp.Compare(a.index, b.index),
		strings.Compare(a.value, b.value), strings.Compare(a.path.Key(), b.path.Key()))
}

// target is what at most one edit may change.
type target struct {
	kind  string // a field's key, "\x00sender", "\x00rcpt" and the address
	index int    // occurrence; 0: all
}

type planner struct {
	seen  map[target]Edit
	first map[string]Edit // the first edit of each target.kind
}

// add records what e changes. Within one field, Plan's order has index 0 before other indexes of the same operation, and
// removals before replacements. An edit of all fields is compared with edits of one in both directions.
func (p *planner) add(e Edit) error {
	var t target
	switch e.op {
	case OpRemoveHeader, OpReplaceHeader:
		t = target{lower(e.name), e.index}
	case OpChangeSender:
		t = target{kind: "\x00sender"}
	case OpAddRecipient, OpRemoveRecipient:
		t = target{kind: "\x00rcpt" + e.path.Key()}
	default:
		return nil // insertions and additions change no existing field
	}
	if other, ok := p.seen[t]; ok && !p.compatible(other, e) {
		return &ContradictionError{other, e}
	}
	if all, ok := p.seen[target{t.kind, 0}]; ok && t.index != 0 && !p.compatible(all, e) {
		return &ContradictionError{all, e}
	}
	if t.index == 0 {
		// Only the first of each field is compared: Plan's order makes it the one to name.
		if first, ok := p.first[t.kind]; ok && !p.compatible(first, e) {
			return &ContradictionError{first, e}
		}
	}
	if _, ok := p.first[t.kind]; !ok {
		p.first[t.kind] = e
	}
	p.seen[t] = e
	return nil
}

// compatible reports whether two edits of one target can both be applied: only removals can.
func (p *planner) compatible(a, b Edit) bool { return a.op == OpRemoveHeader && b.op == OpRemoveHeader }

// lower returns s with ASCII letters in lower case. It does not allocate where there are no capitals.
func lower(s string) string {
	for i := range len(s) {
		if s[i] >= 'A' && s[i] <= 'Z' {
			return string(appendLower(make([]byte, 0, len(s)), s))
		}
	}
	return s
}

func appendLower(dst []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}
