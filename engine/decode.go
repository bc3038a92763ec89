package engine

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/message"
)

// maxName limits the name of a header field, in bytes: the length of a line (RFC 5322 section 2.1.1).
const maxName = 998

// decode turns an answer into a Decision. It checks every element, so that nothing behind it has to.
func decode(t *Transaction, st *stage, out answer) (Decision, *EvalError) {
	var d Decision
	var fired [5]int // by Verdict
	allowed := false
	for _, name := range st.sets { // in the order of precedence
		term := out[ast.Var(name)]
		if term == nil {
			return d, failf(kindAnswer, "set %s is undefined", name)
		}
		set, ok := term.Value.(ast.Set)
		if !ok {
			return d, failf(kindAnswer, "%s is %s, want a set: write %s contains ... if ...", name, ast.ValueName(term.Value), name)
		}
		var fail *EvalError
		switch name {
		case "edit":
			d.Edits, fail = decodeEdits(set, t.smtputf8())
		case "note":
			d.Notes, fail = decodeNotes(set)
		default:
			var reasons []Reason
			reasons, fail = decodeReasons(name, set)
			d.Reasons = append(d.Reasons, reasons...)
			allowed = allowed || name == "allow" && len(reasons) > 0
			if v, ok := verdictOf(name); ok {
				fired[v] = len(reasons)
			}
		}
		if fail != nil {
			return d, fail
		}
	}
	d.Verdict = Accept
	switch {
	case fired[Reject] > 0:
		d.Verdict = Reject
	case fired[Defer] > 0:
		d.Verdict = Defer
	case slices.Contains(st.sets, "allow") && !allowed:
		d.Verdict = Reject
		d.Reasons = append([]Reason{{Set: "default", Rule: "default.not-allowed", Code: 550, Status: "5.7.1", Text: "Not allowed"}}, d.Reasons...)
	case fired[Quarantine] > 0:
		d.Verdict = Quarantine
	case fired[Discard] > 0:
		d.Verdict = Discard
	}
	if d.Verdict != Accept && d.Verdict != Quarantine {
		d.Edits = message.Edits{}
	}
	if fail := d.reply(); fail != nil {
		return d, fail
	}
	return d, nil
}

// verdictOf returns the verdict that a set asks for; ok is false for allow, edit and note.
func verdictOf(set string) (Verdict, bool) {
	switch set {
	case "reject":
		return Reject, true
	case "defer":
		return Defer, true
	case "quarantine":
		return Quarantine, true
	case "discard":
		return Discard, true
	}
	return Accept, false
}

// reply sets the reply to that of the first reason of the winning set.
func (d *Decision) reply() *EvalError {
	if d.Verdict != Reject && d.Verdict != Defer {
		return nil
	}
	code, status := 550, "5.7.1"
	if d.Verdict == Defer {
		code, status = 451, "4.7.1"
	}
	for _, r := range d.Reasons {
		if v, ok := verdictOf(r.Set); r.Set != "default" && (!ok || v != d.Verdict) {
			continue
		}
		reply, err := message.NewReply(cmp.Or(r.Code, code), cmp.Or(r.Status, status), r.Text)
		if err != nil {
			return failf(kindAnswer, "%s %q: %w", r.Set, r.Rule, err)
		}
		d.Reply = reply
		return nil
	}
	return failf(kindAnswer, "%v without a reason", d.Verdict)
}

// decodeReasons reads a set of reasons. They are sorted by rule, then text, code and status.
func decodeReasons(name string, set ast.Set) ([]Reason, *EvalError) {
	if set.Len() > contract.MaxReasons {
		return nil, failf(kindAnswer, "%s has %d elements, at most %d are allowed", name, set.Len(), contract.MaxReasons)
	}
	out := make([]Reason, 0, set.Len())
	for _, term := range set.Slice() {
		var r Reason
		var fail *EvalError
		switch v := term.Value.(type) {
		case ast.String:
			if len(v) > contract.MaxRule || strings.TrimSpace(string(v)) == "" {
				return nil, failf(kindAnswer, "%s element %s: want 1 to %d octets", name, brief(term), contract.MaxRule)
			}
			r.Rule = clean(string(v), false)
			r.Text = r.Rule
		case ast.Object:
			if name != "reject" && name != "defer" {
				return nil, failf(kindAnswer, "%s element %s: want a string", name, brief(term))
			}
			r, fail = decodeReason(name, term, v)
		default:
			return nil, failf(kindAnswer, "%s element %s is %s, want a string or an object", name, brief(term), ast.ValueName(v))
		}
		if fail != nil {
			return nil, fail
		}
		r.Set = name
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Reason) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Text, b.Text), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Status, b.Status))
	})
	return out, nil
}

// decodeReason reads {rule, code, status, message}.
func decodeReason(set string, term *ast.Term, obj ast.Object) (r Reason, fail *EvalError) {
	hasText := false
	obj.Until(func(k, v *ast.Term) bool {
		key, _ := k.Value.(ast.String)
		switch key {
		case "rule":
			r.Rule, fail = str(set, key, term, v, contract.MaxRule)
		case "message":
			r.Text, fail = str(set, key, term, v, contract.MaxMessage)
			hasText = true
		case "status":
			r.Status, fail = str(set, key, term, v, 16)
		case "code":
			r.Code, fail = number(set, key, term, v)
		default:
			fail = failf(kindAnswer, "%s element %s: unknown key %s (there are rule, code, status, message)", set, brief(term), k)
		}
		return fail != nil
	})
	if fail != nil {
		return r, fail
	}
	first := 5
	if set == "defer" {
		first = 4
	}
	r.Rule = clean(r.Rule, false)
	r.Text = clean(r.Text, true)
	switch {
	case strings.TrimSpace(r.Rule) == "":
		return r, failf(kindAnswer, "%s element %s: no rule name", set, brief(term))
	case hasText && strings.TrimSpace(r.Text) == "":
		return r, failf(kindAnswer, "%s element %s: empty message", set, brief(term))
	case r.Code != 0 && r.Code/100 != first:
		return r, failf(kindAnswer, "%s element %s: code %d, want %d00 to %d99", set, brief(term), r.Code, first, first)
	case r.Status != "" && !contract.ValidStatus(r.Status, first):
		return r, failf(kindAnswer, "%s element %s: status %q, want %d.x.y (RFC 3463)", set, brief(term), r.Status, first)
	}
	if !hasText {
		r.Text = r.Rule
	}
	return r, nil
}

// str returns the string value of a key, at most limit bytes long.
func str(set string, key ast.String, term, v *ast.Term, limit int) (string, *EvalError) {
	s, ok := v.Value.(ast.String)
	if !ok {
		return "", failf(kindAnswer, "%s element %s: %s is %s, want a string", set, brief(term), string(key), ast.ValueName(v.Value))
	}
	if len(s) > limit {
		return "", failf(kindAnswer, "%s element %s: %s has %d octets, at most %d are allowed", set, brief(term), string(key), len(s), limit)
	}
	return string(s), nil
}

// number returns the integer value of a key.
func number(set string, key ast.String, term, v *ast.Term) (int, *EvalError) {
	n, ok := v.Value.(ast.Number)
	if !ok {
		return 0, failf(kindAnswer, "%s element %s: %s is %s, want a number", set, brief(term), string(key), ast.ValueName(v.Value))
	}
	i, ok := n.Int()
	if !ok || i < 0 || i > 1<<20 {
		return 0, failf(kindAnswer, "%s element %s: %s is %s, want a small whole number", set, brief(term), string(key), contract.Cut(string(n), 32))
	}
	return i, nil
}

// brief returns an element as JSON, cut, for an error message.
func brief(term *ast.Term) string {
	return contract.Cut(string(appendBrief(nil, term.Value, 120)), 120)
}

// clean replaces characters that are not printable by "?". If lines is true, line ends are kept, as \n.
func clean(s string, lines bool) string {
	if lines {
		s = strings.ReplaceAll(s, "\r\n", "\n")
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' && lines:
			return r
		case r == '\t':
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}

// decodeEdits reads the edit set and returns its plan. utf8 allows 8-bit values and addresses.
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
	keys, fail := decodeEditKeys(term, obj, op, takes)
	if fail != nil {
		return e, fail
	}
	var err error
	if takes["address"] {
		e, err = message.NewEnvelopeEdit(code, keys.address, utf8)
	} else {
		e, err = message.NewEdit(code, keys.name, keys.index, keys.value, utf8)
	}
	if err != nil {
		return e, &EvalError{Kind: kindAnswer, Err: fmt.Errorf("edit element %s: %w", brief(term), err)}
	}
	return e, nil
}

// editKeys are the values of an edit element.
type editKeys struct {
	name, value, address string
	index                int
}

// decodeEditKeys reads the keys of an edit element beside op. takes says which keys the operation has, and which are required.
func decodeEditKeys(term *ast.Term, obj ast.Object, op string, takes map[ast.String]bool) (keys editKeys, fail *EvalError) {
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
			keys.name, fail = str("edit", key, term, v, maxName)
		case "value":
			keys.value, fail = str("edit", key, term, v, contract.MaxValue)
		case "address":
			keys.address, fail = str("edit", key, term, v, contract.MaxValue)
		case "index":
			keys.index, fail = number("edit", key, term, v)
		}
		return fail != nil
	})
	if fail == nil && missing > 0 {
		fail = failf(kindAnswer, "edit element %s: %s needs %s", brief(term), op, needed(takes))
	}
	return keys, fail
}

// needed returns the required keys of an operation, for a message.
func needed(takes map[ast.String]bool) string {
	if takes["address"] {
		return "address"
	}
	if takes["value"] {
		return "name and value"
	}
	return "name"
}

// decodeNotes reads the note set. The elements may be any JSON values.
func decodeNotes(set ast.Set) ([]any, *EvalError) {
	if set.Len() > contract.MaxNotes {
		return nil, failf(kindAnswer, "note has %d elements, at most %d are allowed", set.Len(), contract.MaxNotes)
	}
	var out []any
	size := 0
	for _, term := range set.Slice() {
		size += len(appendBrief(nil, term.Value, contract.MaxNoteJSON))
		if size > contract.MaxNoteJSON {
			return nil, failf(kindAnswer, "note: all elements together are longer than %d octets of JSON", contract.MaxNoteJSON)
		}
		v, err := ast.JSON(term.Value)
		if err != nil {
			return nil, failf(kindAnswer, "note element %s: %w", brief(term), err)
		}
		out = append(out, v)
	}
	return out, nil
}
