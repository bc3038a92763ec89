package contract

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/internal/message"
)

// Bounds on what a policy may answer. An answer beyond them is an error, and the decision is the failure verdict.
const (
	MaxReasons  = 1000    // elements of one set
	MaxEdits    = 1000    // elements of edit
	MaxNotes    = 100     // elements of note
	MaxRule     = 256     // bytes of a rule name or a string element
	MaxMessage  = 4096    // bytes of a message for the client
	MaxValue    = 1 << 16 // bytes of an edit's value or address
	MaxNoteJSON = 1 << 16 // bytes of all notes together, as JSON
)

// EditKeys returns the operation of that name and the keys that its elements take beside op; required keys map to true.
// The map is nil for a name that is no operation.
func EditKeys(op string) (message.Op, map[ast.String]bool) {
	switch op {
	case "add_header":
		return message.OpAddHeader, map[ast.String]bool{"name": true, "value": true}
	case "insert_header":
		return message.OpInsertHeader, map[ast.String]bool{"name": true, "value": true, "index": false}
	case "replace_header":
		return message.OpReplaceHeader, map[ast.String]bool{"name": true, "value": true, "index": false}
	case "remove_header":
		return message.OpRemoveHeader, map[ast.String]bool{"name": true, "index": false}
	case "change_sender":
		return message.OpChangeSender, map[ast.String]bool{"address": true}
	case "add_recipient":
		return message.OpAddRecipient, map[ast.String]bool{"address": true}
	case "remove_recipient":
		return message.OpRemoveRecipient, map[ast.String]bool{"address": true}
	}
	return 0, nil
}

// EditNames returns the names of all operations, in the order in which edits are applied.
func EditNames() []string {
	return []string{"remove_header", "replace_header", "insert_header", "add_header", "change_sender", "remove_recipient", "add_recipient"}
}

// EditName returns the name of an operation in policies and logs; "" for a value that is no operation.
func EditName(op message.Op) string {
	for _, name := range EditNames() {
		if o, _ := EditKeys(name); o == op {
			return name
		}
	}
	return ""
}

// ValidStatus reports whether status is an enhanced status code of a class: class "." subject "." detail, one to three
// digits each (RFC 3463 section 2).
func ValidStatus(status string, class int) bool {
	parts := strings.Split(status, ".")
	if len(parts) != 3 || parts[0] != string(rune('0'+class)) {
		return false
	}
	for _, p := range parts[1:] {
		if len(p) < 1 || len(p) > 3 || strings.Trim(p, "0123456789") != "" || len(p) > 1 && p[0] == '0' {
			return false
		}
	}
	return true
}
