package engine

import (
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/internal/message"
)

// operations of the edit set and which keys each takes beside op; those with true are required.
func editKeys(op string) (message.Op, map[ast.String]bool) {
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

// editNames are all operations, in the order in which they are applied.
func editNames() []string {
	return []string{"remove_header", "replace_header", "insert_header", "add_header", "change_sender", "remove_recipient", "add_recipient"}
}

// EditName is an operation as policies and logs spell it; "" for none.
func EditName(op message.Op) string {
	for _, name := range editNames() {
		if o, _ := editKeys(name); o == op {
			return name
		}
	}
	return ""
}

// decodeEdits reads the edit set and plans it.
func decodeEdits(set ast.Set, utf8 bool) (message.Edits, *EvalError) {
	if set.Len() == 0 {
		return message.Edits{}, nil
	}
	if set.Len() > maxEdits {
		return message.Edits{}, failf(kindAnswer, "edit has %d elements, at most %d are allowed", set.Len(), maxEdits)
	}
	list := make([]message.Edit, 0, set.Len())
	for _, term := range set.Slice() {
		obj, ok := term.Value.(ast.Object)
		if !ok {
			return message.Edits{}, failf(kindAnswer, "edit element %s is %s, want an object", brief(term), ast.ValueName(term.Value))
		}
		e, fail := decodeEdit(term, obj, utf8)
		if fail != nil {
			return message.Edits{}, fail
		}
		list = append(list, e)
	}
	plan, err := message.Plan(list)
	if err != nil {
		return message.Edits{}, &EvalError{Kind: kindEdits, Err: fmt.Errorf("edit: %w", err)}
	}
	return plan, nil
}

// decodeEdit reads one element.
func decodeEdit(term *ast.Term, obj ast.Object, utf8 bool) (e message.Edit, fail *EvalError) {
	var op string
	if v := obj.Get(ast.InternedTerm("op")); v != nil {
		if op, fail = str("edit", "op", term, v, 32); fail != nil {
			return e, fail
		}
	}
	code, takes := editKeys(op)
	if takes == nil {
		return e, failf(kindAnswer, "edit element %s: unknown op %q (%s)", brief(term), op, suggest(op, editNames()))
	}
	var name, value, address string
	var index int
	missing := 0
	for _, required := range takes {
		if required {
			missing++
		}
	}
	obj.Until(func(k, v *ast.Term) bool {
		key, _ := k.Value.(ast.String)
		required, known := takes[key]
		if key == "op" {
			return false
		}
		if !known {
			fail = failf(kindAnswer, "edit element %s: %s takes no %s", brief(term), op, k)
			return true
		}
		if required {
			missing--
		}
		switch key {
		case "name":
			name, fail = str("edit", key, term, v, 998)
		case "value":
			value, fail = str("edit", key, term, v, maxValue)
		case "address":
			address, fail = str("edit", key, term, v, maxValue)
		case "index":
			index, fail = number("edit", key, term, v)
		}
		return fail != nil
	})
	if fail != nil {
		return e, fail
	}
	if missing > 0 {
		return e, failf(kindAnswer, "edit element %s: %s needs %s", brief(term), op, needed(takes))
	}
	var err error
	if takes["address"] {
		e, err = message.NewEnvelopeEdit(code, address, utf8)
	} else {
		e, err = message.NewEdit(code, name, index, value, utf8)
	}
	if err != nil {
		return e, &EvalError{Kind: kindAnswer, Err: fmt.Errorf("edit element %s: %w", brief(term), err)}
	}
	return e, nil
}

// needed lists required keys for a message.
func needed(takes map[ast.String]bool) string {
	if takes["address"] {
		return "address"
	}
	if takes["value"] {
		return "name and value"
	}
	return "name"
}

// decodeNotes reads the note set: any JSON, bounded in all.
func decodeNotes(set ast.Set) ([]any, *EvalError) {
	if set.Len() > maxNotes {
		return nil, failf(kindAnswer, "note has %d elements, at most %d are allowed", set.Len(), maxNotes)
	}
	var out []any
	size := 0
	for _, term := range set.Slice() {
		size += len(appendBrief(nil, term.Value, maxNoteJSON))
		if size > maxNoteJSON {
			return nil, failf(kindAnswer, "note: all elements together exceed %d octets of JSON", maxNoteJSON)
		}
		v, err := ast.JSON(term.Value)
		if err != nil {
			return nil, failf(kindAnswer, "note element %s: %w", brief(term), err)
		}
		out = append(out, v)
	}
	return out, nil
}
