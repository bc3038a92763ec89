package engine

import (
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/message"
)

// decodeEdits reads the edit set and plans it.
func decodeEdits(set ast.Set, utf8 bool) (message.Edits, *EvalError) {
	if set.Len() == 0 {
		return message.Edits{}, nil
	}
	if set.Len() > contract.MaxEdits {
		return message.Edits{}, failf(kindAnswer, "edit has %d elements, at most %d are allowed", set.Len(), contract.MaxEdits)
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
	code, takes := contract.EditKeys(op)
	if takes == nil {
		return e, failf(kindAnswer, "edit element %s: unknown op %q (%s)", brief(term), op, contract.Suggest(op, contract.EditNames()))
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
			value, fail = str("edit", key, term, v, contract.MaxValue)
		case "address":
			address, fail = str("edit", key, term, v, contract.MaxValue)
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
	if set.Len() > contract.MaxNotes {
		return nil, failf(kindAnswer, "note has %d elements, at most %d are allowed", set.Len(), contract.MaxNotes)
	}
	var out []any
	size := 0
	for _, term := range set.Slice() {
		size += len(appendBrief(nil, term.Value, contract.MaxNoteJSON))
		if size > contract.MaxNoteJSON {
			return nil, failf(kindAnswer, "note: all elements together exceed %d octets of JSON", contract.MaxNoteJSON)
		}
		v, err := ast.JSON(term.Value)
		if err != nil {
			return nil, failf(kindAnswer, "note element %s: %w", brief(term), err)
		}
		out = append(out, v)
	}
	return out, nil
}
