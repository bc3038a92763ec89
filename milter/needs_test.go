package milter

import (
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/engine"
	"github.com/postern-mail/postern/milter/wire"
)

// TestNeeds: what is asked of a mail server for a policy, and which edits are missing where it does not allow all.
func TestNeeds(t *testing.T) {
	every := []wire.Op{wire.AddHeader, wire.AddRcpt, wire.ChangeFrom, wire.ChangeHeader, wire.DeleteRcpt, wire.InsertHeader, wire.Quarantine}
	edits := engine.Needs{Message: true, Header: true, Edits: []string{"add_header", "remove_header"}}
	for _, c := range []struct {
		name       string
		needs      engine.Needs
		allowed    []wire.Op
		operations []wire.Op
		missing    string
	}{
		{"no edits", engine.Needs{Message: true, Header: true}, nil, nil, ""},
		{"edits", edits, every, []wire.Op{wire.AddHeader, wire.ChangeHeader}, ""},
		{"withheld", edits, []wire.Op{wire.AddHeader}, []wire.Op{wire.AddHeader, wire.ChangeHeader}, "remove_header"},
		{"half of a replacement", engine.Needs{Edits: []string{"replace_header"}}, []wire.Op{wire.ChangeHeader}, []wire.Op{wire.AddHeader, wire.ChangeHeader}, "replace_header"},
		{"quarantine withheld", engine.Needs{Message: true, Quarantine: true}, nil, []wire.Op{wire.Quarantine}, "quarantine"},
		{"no policy", needsOf(nil), nil, nil, "add_header add_recipient change_sender insert_header quarantine remove_header remove_recipient replace_header"},
	} {
		missing := missingEdits(func(op wire.Op) bool { return slices.Contains(c.allowed, op) }, c.needs)
		if got := strings.Join(missing, " "); got != c.missing {
			t.Errorf("%s: missing %q, want %q", c.name, got, c.missing)
		}
		if w := wireNeeds(c.needs); c.operations != nil && !slices.Equal(w.Operations, c.operations) {
			t.Errorf("%s: operations %q, want %q", c.name, w.Operations, c.operations)
		}
	}
}
