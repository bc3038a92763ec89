package milter

import (
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/milter/wire"
)

// operationsFor are the mail server's operations that each edit of the policy contract, and quarantine, may take. A replacement
// may have to add and, if its new value is empty, to delete and insert.
var operationsFor = map[string][]wire.Op{
	"add_header":       {wire.AddHeader},
	"insert_header":    {wire.AddHeader},
	"replace_header":   {wire.AddHeader, wire.ChangeHeader},
	"remove_header":    {wire.ChangeHeader},
	"change_sender":    {wire.ChangeFrom},
	"add_recipient":    {wire.AddRcpt},
	"remove_recipient": {wire.DeleteRcpt},
	"quarantine":       {wire.Quarantine},
}

// editsOf lists the edits that a policy may ask for, with "quarantine", sorted.
func editsOf(n engine.Needs) []string {
	edits := slices.Clone(n.Edits)
	if n.Quarantine {
		edits = append(edits, "quarantine")
	}
	slices.Sort(edits)
	return slices.Compact(edits)
}

// needsOf is what a policy needs. While no policy is active everything is needed, because the first one may become active
// before the connection's first message.
func needsOf(p *engine.Policy) engine.Needs {
	if p != nil {
		return p.Needs()
	}
	n := engine.Needs{Connect: true, Mail: true, Rcpt: true, Message: true, Header: true, Size: true, Body: true, Quarantine: true, Discard: true}
	for edit := range operationsFor {
		if edit != "quarantine" {
			n.Edits = append(n.Edits, edit)
		}
	}
	return n
}

// wireNeeds are a policy's needs in the terms of the protocol.
func wireNeeds(n engine.Needs) wire.Needs {
	w := wire.Needs{Connect: n.Connect, Mail: n.Mail, Rcpt: n.Rcpt, Message: n.Message, Body: n.Body, Size: n.Size}
	for _, edit := range editsOf(n) {
		w.Operations = append(w.Operations, operationsFor[edit]...)
	}
	return w
}

// missingEdits are the edits of n for which the mail server does not allow all operations.
func missingEdits(allows func(wire.Op) bool, n engine.Needs) []string {
	var missing []string
	for _, edit := range editsOf(n) {
		if slices.ContainsFunc(operationsFor[edit], func(op wire.Op) bool { return !allows(op) }) {
			missing = append(missing, edit)
		}
	}
	return missing
}

// withheld reports edits that the active policy may use and the mail server does not allow: in the metric each time, and in
// the log once and again when they change. The zero value is ready.
type withheld struct {
	mu     sync.Mutex
	logged string
}

func (w *withheld) report(log *slog.Logger, m *metrics, name, revision string, missing []string) {
	for edit := range operationsFor {
		value := 0.0
		if slices.Contains(missing, edit) {
			value = 1
		}
		m.missing.WithLabelValues(name, edit).Set(value)
	}
	now := strings.Join(missing, " ")
	w.mu.Lock()
	logged := w.logged == now
	w.logged = now
	w.mu.Unlock()
	if now == "" || logged {
		return
	}
	log.Error("the mail server does not allow operations that the active policy may use; a decision that needs one becomes the failure verdict",
		"operations", missing, "revision", revision)
}
