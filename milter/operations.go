package milter

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
	"github.com/postern-mail/postern/milter/wire"
)

// envelopeOperations change the envelope before into after. paths are the recipients of before as the mail server wrote them:
// it compares them byte by byte.
func envelopeOperations(before *engine.Envelope, paths []string, after *engine.Envelope) []wire.Operation {
	var ops []wire.Operation
	if before.From != after.From {
		op := wire.Operation{Op: wire.ChangeFrom, Text: []string{after.From.String()}}
		if p := senderParameters(after.FromParams); p != "" {
			op.Text = append(op.Text, p)
		}
		ops = append(ops, op)
	}
	has := func(list []engine.Recipient, key string) bool {
		return slices.ContainsFunc(list, func(r engine.Recipient) bool { return r.Key() == key })
	}
	for i, r := range before.To {
		if !has(after.To, r.Key()) {
			ops = append(ops, wire.Operation{Op: wire.DeleteRcpt, Text: []string{paths[i]}})
		}
	}
	for _, r := range after.To {
		if !has(before.To, r.Key()) {
			ops = append(ops, wire.Operation{Op: wire.AddRcpt, Text: []string{r.String()}})
		}
	}
	return ops
}

// senderParameters are the parameters of MAIL that a new sender keeps: those about delivery reports (RFC 3461 §4.3, §4.4).
// Others, such as SIZE and AUTH, belong to the client's connection, and mail servers refuse them here.
func senderParameters(p message.Params) string {
	var kept []string
	for _, k := range []string{"RET", "ENVID"} {
		if v := p[k]; v != "" && strings.IndexFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) < 0 {
			kept = append(kept, k+"="+v)
		}
	}
	return strings.Join(kept, " ")
}

// headerOperations change the header before into after. They are found by comparing the two, so the mail server ends up with
// exactly what message.Header.Apply gives. They go from the bottom to the top: each index then refers to a header in which
// nothing above has changed, and none is past the end. Fields behind the last one are added.
//
// Positions count from 1, because INSHEADER 0 is above Postfix's own Received.
func headerOperations(before, after *message.Header, d dialect) []wire.Operation {
	steps := compare(before, after)
	occurrence := occurrences(before)
	from := len(steps) // from here on, all fields are removed and added again
	if d.sendmail {
		from = firstInexact(steps, before, after)
	}
	var ops []wire.Operation
	var adds []message.Field
	seen := namesOf(before)
	atEnd := true // all fields behind this one are removed or added
	for i, st := range slices.Backward(steps) {
		var f message.Field
		if st.after >= 0 {
			f = after.Field(st.after)
		}
		switch {
		case i >= from:
			if st.kind != stepInsert {
				ops = append(ops, d.remove(before.Field(st.before), occurrence[st.before]))
			}
			if st.kind != stepRemove {
				adds = append(adds, f)
			}
		case st.kind == stepKeep:
			atEnd = false
		case st.kind == stepRemove:
			ops = append(ops, d.remove(before.Field(st.before), occurrence[st.before]))
		case st.kind == stepReplace:
			atEnd = false
			ops = append(ops, d.replace(before.Field(st.before), f, occurrence[st.before], st.before+1)...)
		case atEnd:
			adds = append(adds, f)
		case d.sendmail && !seen[f.Key()] && sendmailDefaults[f.Key()]:
			ops = append(ops, d.add(f, false))
			seen[f.Key()] = true
		default:
			ops = append(ops, d.insert(f, st.before+1))
			seen[f.Key()] = true
		}
	}
	// Each addition goes to the end, so they come in reading order, and after all operations with an index.
	for _, f := range slices.Backward(adds) {
		ops = append(ops, d.add(f, seen[f.Key()]))
		seen[f.Key()] = true
	}
	return ops
}

// namesOf are the keys of all fields, and "received", because the mail server has put its own on top.
func namesOf(h *message.Header) map[string]bool {
	names := map[string]bool{"received": true}
	for i := range h.Len() {
		names[h.Field(i).Key()] = true
	}
	return names
}

// sendmailDefaults are the fields that an ordinary sendmail.cf adds to a message that lacks them. If such a field is inserted,
// the message has both; if it is added, it replaces the default, wherever that is.
var sendmailDefaults = map[string]bool{"date": true, "from": true, "message-id": true, "full-name": true, "return-path": true,
	"resent-date": true, "resent-from": true, "resent-message-id": true}

// firstInexact is the first step that Sendmail would carry out in another way: an insertion below the top, because Sendmail
// counts hidden fields of its own; a replacement under another spelling of the name, because it keeps the old one; or a
// replacement by an empty value, which needs such an insertion.
func firstInexact(steps []step, before, after *message.Header) int {
	last := len(steps)
	for last > 0 && steps[last-1].kind != stepKeep && steps[last-1].kind != stepReplace {
		last--
	}
	for i, st := range steps {
		switch {
		case st.kind == stepInsert && st.before > 0 && i < last:
			return i
		case st.kind == stepReplace:
			f := after.Field(st.after)
			if f.Name() != before.Field(st.before).Name() || f.Value() == "" {
				return i
			}
		}
	}
	return len(steps)
}

// dialect is how a mail server wants its operations.
type dialect struct {
	leading  bool // values have the space behind the colon
	sendmail bool // see firstInexact
}

func (d dialect) remove(f message.Field, occurrence int) wire.Operation {
	return wire.Operation{Op: wire.ChangeHeader, Index: occurrence, Text: []string{f.Name(), ""}}
}

// lastPosition is an insertion index past every count: the end of the header.
const lastPosition = 1<<31 - 1

// add puts a field at the end. If Sendmail knows a field of that name (seen), even a removed one, it would put an added field
// before it; an insertion with a large index comes last. For names that it does not know, Sendmail may have a default, such
// as Date and Message-Id. Only an addition replaces the default.
func (d dialect) add(f message.Field, seen bool) wire.Operation {
	if d.sendmail && seen {
		return d.insert(f, lastPosition)
	}
	return wire.Operation{Op: wire.AddHeader, Text: []string{f.Name(), fieldValue(f, d.leading)}}
}

func (d dialect) insert(f message.Field, position int) wire.Operation {
	return wire.Operation{Op: wire.InsertHeader, Index: position, Text: []string{f.Name(), fieldValue(f, d.leading)}}
}

// replace changes a field in its place. A change to an empty value would delete the field, so it is deleted and inserted.
func (d dialect) replace(old, f message.Field, occurrence, position int) []wire.Operation {
	if v := fieldValue(f, d.leading); v != "" {
		return []wire.Operation{{Op: wire.ChangeHeader, Index: occurrence, Text: []string{f.Name(), v}}}
	}
	return []wire.Operation{d.remove(old, occurrence), d.insert(f, position)}
}

// fieldValue is what is behind the colon as a milter writes it: lines end in LF, the last one has no end, and the mail server
// adds the space behind the colon unless leading says otherwise.
func fieldValue(f message.Field, leading bool) string {
	_, v, _ := strings.Cut(string(f.Raw()), ":")
	v = strings.ReplaceAll(strings.TrimSuffix(v, "\r\n"), "\r\n", "\n")
	if !leading {
		v = strings.TrimPrefix(v, " ")
	}
	return v
}

// occurrences tells for each field which one of its name it is, from 1.
func occurrences(h *message.Header) []int {
	count := map[string]int{}
	at := make([]int, h.Len())
	for i := range at {
		k := h.Field(i).Key()
		count[k]++
		at[i] = count[k]
	}
	return at
}

type stepKind uint8

const (
	stepKeep stepKind = iota
	stepReplace
	stepRemove
	stepInsert
)

// step is one step from one header to another. before and after are indexes of their fields. An insertion goes ahead of field
// before; a removal has no after.
type step struct {
	kind          stepKind
	before, after int
}

// compare finds the fewest steps from before to after, top to bottom: fields are kept, replaced by others of their name, removed
// and inserted.
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

// fieldID identifies a field by small numbers, one for its bytes and one for its name.
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

// align finds the steps by the edit distance between a and b; offset is added to the indexes. Its table has at most the square
// of Limits.HeaderFields entries.
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

// differ is the cost of replacing a by b: nothing if they are the same.
func differ(a, b fieldID) int32 {
	if a == b {
		return 0
	}
	return 1
}
