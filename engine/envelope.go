package engine

import (
	"slices"

	"github.com/postern-mail/postern/internal/message"
)

// Apply returns the envelope with the envelope edits done, and whether any of them changed it; header edits are passed
// over and e itself is not changed. An added recipient that is there already stays as it is, and one that is not there
// cannot be removed: both are harmless, so that policies stay idempotent. A recipient added by an edit has no parameters.
func (e *Envelope) Apply(edits message.Edits) (*Envelope, bool) {
	out := &Envelope{From: e.From, FromParams: e.FromParams, To: slices.Clone(e.To)}
	changed := false
	for i := range edits.Len() {
		edit := edits.At(i)
		at := func() int {
			key := edit.Path().Key()
			return slices.IndexFunc(out.To, func(r Recipient) bool { return r.Key() == key })
		}
		switch edit.Op() {
		case message.OpChangeSender:
			changed = changed || out.From != edit.Path()
			out.From = edit.Path()
		case message.OpRemoveRecipient:
			for at() >= 0 {
				i := at()
				out.To, changed = slices.Delete(out.To, i, i+1), true
			}
		case message.OpAddRecipient:
			if at() < 0 {
				out.To, changed = append(out.To, Recipient{Path: edit.Path()}), true
			}
		}
	}
	return out, changed
}
