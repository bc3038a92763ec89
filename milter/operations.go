package milter

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/internal/message"
)

// operation is one change that the MTA is asked for (SMFIR_ADDHEADER and its kin).
type operation struct {
	code  byte
	index int      // INSHEADER: position; CHGHEADER: which occurrence, from 1
	text  []string // NUL-terminated parts
}

// String is for logs and errors.
func (o operation) String() string {
	name := map[byte]string{opAddHeader: "add_header", opInsertHead: "insert_header", opChangeHead: "change_header",
		opChangeFrom: "change_sender", opAddRcpt: "add_recipient", opDeleteRcpt: "remove_recipient", opQuarantine: "quarantine"}[o.code]
	return fmt.Sprintf("%s %q", name, o.text[0])
}

func (o operation) indexed() bool { return o.code == opInsertHead || o.code == opChangeHead }

// size of the frame.
func (o operation) size() int {
	n := frameHeadSize + 1
	if o.indexed() {
		n += 4
	}
	for _, t := range o.text {
		n += len(t) + 1
	}
	return n
}

func (o operation) appendTo(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(o.size()-frameHeadSize))
	dst = append(dst, o.code)
	if o.indexed() {
		dst = binary.BigEndian.AppendUint32(dst, uint32(o.index))
	}
	for _, t := range o.text {
		dst = append(append(dst, t...), 0)
	}
	return dst
}

// envelopeOperations make after of before. raw are before's recipients as the MTA wrote them: it compares octets.
func envelopeOperations(before *engine.Envelope, raw []string, after *engine.Envelope) []operation {
	var ops []operation
	if before.From != after.From {
		op := operation{code: opChangeFrom, text: []string{after.From.String()}}
		if p := senderParameters(after.FromParams); p != "" {
			op.text = append(op.text, p)
		}
		ops = append(ops, op)
	}
	has := func(list []engine.Recipient, key string) bool {
		return slices.ContainsFunc(list, func(r engine.Recipient) bool { return r.Key() == key })
	}
	for i, r := range before.To {
		if !has(after.To, r.Key()) {
			ops = append(ops, operation{code: opDeleteRcpt, text: []string{raw[i]}})
		}
	}
	for _, r := range after.To {
		if !has(before.To, r.Key()) {
			ops = append(ops, operation{code: opAddRcpt, text: []string{r.String()}})
		}
	}
	return ops
}

// senderParameters are the parameters of MAIL that a new sender keeps: those that say what is to be returned to it
// (RFC 3461 §4.3, §4.4). Others, such as SIZE and AUTH, are of the client's hop, and the MTAs refuse them here.
func senderParameters(p message.Params) string {
	var kept []string
	for _, k := range []string{"RET", "ENVID"} {
		if v := p[k]; v != "" && strings.IndexFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) < 0 {
			kept = append(kept, k+"="+v)
		}
	}
	return strings.Join(kept, " ")
}

// headerOperations make after of before. They are found by comparing the two, so that what the MTA ends up with is by
// construction what message.Header.Apply gives. They come from the bottom to the top, so that each index is that of a
// header in which nothing above has changed yet, and none is past the count; what goes behind the last field is added.
//
// Positions count from 1 here: INSHEADER 0 is above Postfix's own Received.
func headerOperations(before, after *message.Header, d dialect) []operation {
	steps := compare(before, after)
	occurrence := occurrences(before)
	from := len(steps) // from here on, all is taken out and added anew
	if d.sendmail {
		from = firstInexact(steps, before, after)
	}
	var ops []operation
	var adds []message.Field
	seen := namesOf(before)
	behind := true // all that was visited, from the end, is gone or added
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
			behind = false
		case st.kind == stepRemove:
			ops = append(ops, d.remove(before.Field(st.before), occurrence[st.before]))
		case st.kind == stepReplace:
			behind = false
			ops = append(ops, d.replace(before.Field(st.before), f, occurrence[st.before], st.before+1)...)
		case behind:
			adds = append(adds, f)
		case d.sendmail && !seen[f.Key()] && sendmailDefaults[f.Key()]:
			ops = append(ops, d.add(f, false))
			seen[f.Key()] = true
		default:
			ops = append(ops, d.insert(f, st.before+1))
			seen[f.Key()] = true
		}
	}
	// Additions go to the end one after the other, so in reading order, and behind all that needs indexes.
	for _, f := range slices.Backward(adds) {
		ops = append(ops, d.add(f, seen[f.Key()]))
		seen[f.Key()] = true
	}
	return ops
}

// namesOf are the keys of all fields, and of Received: a mail server's own is on top, and stays.
func namesOf(h *message.Header) map[string]bool {
	names := map[string]bool{"received": true}
	for i := range h.Len() {
		names[h.Field(i).Key()] = true
	}
	return names
}

// sendmailDefaults are the fields that an ordinary sendmail.cf adds to a message without them. One that is inserted would
// stand beside the default; one that is added takes its place, wherever that is.
var sendmailDefaults = map[string]bool{"date": true, "from": true, "message-id": true, "full-name": true, "return-path": true,
	"resent-date": true, "resent-from": true, "resent-message-id": true}

// firstInexact is the first step that Sendmail would not take as it is meant: an insertion below the top, for Sendmail
// counts fields of its own that nobody sees; a replacement under another spelling of the name, which it keeps; or by
// nothing, which needs such an insertion.
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

// dialect is how an MTA wants its operations.
type dialect struct {
	leading  bool // leading white space of values was agreed on
	sendmail bool // see firstInexact
}

func (d dialect) remove(f message.Field, occurrence int) operation {
	return operation{code: opChangeHead, index: occurrence, text: []string{f.Name(), ""}}
}

// atEnd is an insertion index past every count: the end of the header.
const atEnd = 1<<31 - 1

// add puts a field at the end. Sendmail puts what it is to add before the first field of that name, if it knows one (seen),
// and that may be one that was taken out; an insertion with a large index comes last. Of the names that it has not seen it
// may have defaults of its own, such as Date and Message-Id: those it must be told by an addition, which takes the
// default's place, or there would be two.
func (d dialect) add(f message.Field, seen bool) operation {
	if d.sendmail && seen {
		return d.insert(f, atEnd)
	}
	return operation{code: opAddHeader, text: []string{f.Name(), fieldValue(f, d.leading)}}
}

func (d dialect) insert(f message.Field, position int) operation {
	return operation{code: opInsertHead, index: position, text: []string{f.Name(), fieldValue(f, d.leading)}}
}

// replace changes a field in its place. An empty value would delete: delete then, and insert.
func (d dialect) replace(old, f message.Field, occurrence, position int) []operation {
	if v := fieldValue(f, d.leading); v != "" {
		return []operation{{code: opChangeHead, index: occurrence, text: []string{f.Name(), v}}}
	}
	return []operation{d.remove(old, occurrence), d.insert(f, position)}
}

// fieldValue is what stands behind the colon as a milter writes it: lines end in LF, the last one does not end, and the
// space after the colon is the MTA's unless leading white space was agreed on.
func fieldValue(f message.Field, leading bool) string {
	_, v, _ := strings.Cut(string(f.Raw()), ":")
	v = strings.ReplaceAll(strings.TrimSuffix(v, "\r\n"), "\r\n", "\n")
	if !leading {
		v = strings.TrimPrefix(v, " ")
	}
	return v
}

// occurrences gives for each field which one of its name it is, from 1.
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
