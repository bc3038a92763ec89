package lint

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/message"
)

// lintElement checks the elements that a rule puts into its set, as far as the source says them. A wrong element would be the failure
// verdict later, and only for the messages on which the rule fires.
func (sc *scope) lintElement(set string, r *ast.Rule) (out []contract.Finding) {
	if r.Head.Key == nil || set == "note" {
		return nil
	}
	for _, t := range sc.elements(r, r.Head.Key) {
		switch v := t.Value.(type) {
		case ast.Object:
			switch set {
			case "edit":
				out = append(out, sc.lintEdit(t, v)...)
			case "reject", "defer":
				out = append(out, sc.lintReason(set, t, v)...)
			default:
				out = append(out, sc.src.at(contract.CodeElementType, t.Loc(), "write only the reason, such as \"known network\"",
					"an element of %s is a string, not an object", set))
			}
		case ast.String:
			if set == "edit" {
				out = append(out, sc.wrongType(set, t))
			} else if n := len(v); n > contract.MaxRule || strings.TrimSpace(string(v)) == "" {
				out = append(out, sc.src.at(contract.CodeBadValue, t.Loc(), "write the reason, in 1 to 256 octets", "an element of %s has %d octets", set, n))
			}
		default:
			if literal(t) {
				out = append(out, sc.wrongType(set, t))
			}
		}
	}
	return out
}

func (sc *scope) wrongType(set string, t *ast.Term) contract.Finding {
	want, hint := "a string", ""
	switch set {
	case "edit":
		want, hint = "an object", `such as {"op": "add_header", "name": "X-Seen", "value": "yes"}`
	case "reject", "defer":
		want, hint = "a string or an object", `such as {"rule": "mail.example", "message": "What to do"}`
	}
	return sc.src.at(contract.CodeElementType, t.Loc(), hint, "an element of %s is %s, not %s", set, want, article(t))
}

// article returns the type of a value with its article.
func article(t *ast.Term) string {
	name := ast.ValueName(t.Value)
	if strings.ContainsRune("aeiou", rune(name[0])) {
		return "an " + name
	}
	return "a " + name
}

// literal reports whether a term is a value whose type can be seen, strings and objects excepted.
func literal(t *ast.Term) bool {
	switch t.Value.(type) {
	case ast.Number, ast.Boolean, ast.Null, *ast.Array, ast.Set, *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
		return true
	}
	return false
}

// elements returns the terms that a rule can put into its set: the one in the head, the one that is assigned to the variable in the
// head, or those that the helper rule or function in the head returns. It follows one such step of each kind.
func (sc *scope) elements(r *ast.Rule, t *ast.Term) []*ast.Term {
	if v, ok := t.Value.(ast.Var); ok {
		if assigned := assignedTo(r, v); assigned != nil {
			t = assigned
		}
	}
	named := t
	if call, ok := t.Value.(ast.Call); ok {
		named = call[0]
	}
	rules, _, rest := sc.rulesOf(named)
	if len(rules) == 0 || len(rest) > 0 {
		return []*ast.Term{t}
	}
	var out []*ast.Term
	for _, helper := range rules {
		for ; helper != nil; helper = helper.Else {
			value := helper.Head.Value
			if value == nil || helper.Head.RuleKind() == ast.MultiValue || len(helper.Head.Ref()) > 1 {
				continue
			}
			if v, ok := value.Value.(ast.Var); ok {
				if assigned := assignedTo(helper, v); assigned != nil {
					value = assigned
				}
			}
			out = append(out, value)
		}
	}
	return out
}

// assignedTo returns the term that the body of a rule assigns to a variable, or nil.
func assignedTo(r *ast.Rule, v ast.Var) *ast.Term {
	for _, expr := range r.Body {
		if expr.Negated || len(expr.Operands()) != 2 || !expr.IsAssignment() && !expr.IsEquality() {
			continue
		}
		if lhs, ok := expr.Operand(0).Value.(ast.Var); ok && lhs == v {
			return expr.Operand(1)
		}
	}
	return nil
}

// headObject returns the object literal that a rule puts into its set, from the head or assigned to the variable in the head.
func headObject(r *ast.Rule) (ast.Object, bool) {
	if r.Head.Key == nil {
		return nil, false
	}
	t := r.Head.Key
	if v, ok := t.Value.(ast.Var); ok {
		if t = assignedTo(r, v); t == nil {
			return nil, false
		}
	}
	obj, ok := t.Value.(ast.Object)
	return obj, ok
}

// constantKey returns the string under a key of an object literal; false if there is none.
func constantKey(obj ast.Object, key string) (string, bool) {
	if t := obj.Get(ast.StringTerm(key)); t != nil {
		s, ok := t.Value.(ast.String)
		return string(s), ok
	}
	return "", false
}

// lintKeys checks the keys of an element and the types of their values. known has all keys; those that are required map to true.
func (sc *scope) lintKeys(what string, t *ast.Term, obj ast.Object, known map[string]bool) (out []contract.Finding) {
	open := false // a computed key may be any key
	have := map[string]bool{}
	obj.Foreach(func(k, v *ast.Term) {
		key, ok := k.Value.(ast.String)
		if !ok {
			open = open || !literal(k)
			return
		}
		have[string(key)] = true
		if _, ok := known[string(key)]; !ok {
			out = append(out, sc.src.at(contract.CodeUnknownKey, k.Loc(), contract.OneOf(string(key), "", slices.Collect(maps.Keys(known))), "%s has no key %q", what, string(key)))
			return
		}
		number := key == "code" || key == "index"
		_, isNumber := v.Value.(ast.Number)
		_, isString := v.Value.(ast.String)
		_, isObject := v.Value.(ast.Object)
		switch {
		case number && (isString || isObject || literal(v) && !isNumber):
			out = append(out, sc.src.at(contract.CodeElementType, v.Loc(), "write it without quotes", "%s is a number, not %s", string(key), article(v)))
		case !number && (isObject || literal(v)):
			out = append(out, sc.src.at(contract.CodeElementType, v.Loc(), "write it in quotes, or make it with sprintf", "%s is a string, not %s", string(key), article(v)))
		}
	})
	for _, key := range slices.Sorted(maps.Keys(known)) {
		if known[key] && !have[key] && !open {
			out = append(out, sc.src.at(contract.CodeMissingKey, t.Loc(), fmt.Sprintf("add %q: \"...\"", key), "%s needs the key %q", what, key))
		}
	}
	return out
}

// lintReason checks {rule, code, status, message}.
func (sc *scope) lintReason(set string, t *ast.Term, obj ast.Object) []contract.Finding {
	out := sc.lintKeys("an element of "+set, t, obj, map[string]bool{"rule": true, "code": false, "status": false, "message": false})
	first := 5
	if set == "defer" {
		first = 4
	}
	bad := func(key, hint, format string, args ...any) {
		out = append(out, sc.src.at(contract.CodeBadValue, obj.Get(ast.StringTerm(key)).Loc(), hint, format, args...))
	}
	if v := obj.Get(ast.StringTerm("code")); v != nil {
		if n, ok := v.Value.(ast.Number); ok {
			if i, ok := n.Int(); !ok || i/100 != first {
				bad("code", fmt.Sprintf("write a code from %d00 to %d99", first, first), "%s cannot answer with code %s", set, n)
			}
		}
	}
	if status, ok := constantKey(obj, "status"); ok && !contract.ValidStatus(status, first) {
		bad("status", fmt.Sprintf("write %d.x.y, as in %d.7.1 (RFC 3463)", first, first), "%s cannot answer with status %q", set, status)
	}
	for key, limit := range map[string]int{"rule": contract.MaxRule, "message": contract.MaxMessage} {
		if text, ok := constantKey(obj, key); ok && (strings.TrimSpace(text) == "" || len(text) > limit) {
			bad(key, fmt.Sprintf("write 1 to %d octets", limit), "%s has %d octets", key, len(text))
		}
	}
	return out
}

// lintEdit checks {op, ...}. It checks each value in the source by making an edit of it, with placeholders for the other values.
func (sc *scope) lintEdit(t *ast.Term, obj ast.Object) []contract.Finding {
	op, constant := constantKey(obj, "op")
	if !constant {
		if v := obj.Get(ast.StringTerm("op")); v == nil || literal(v) {
			return sc.lintKeys("an edit", t, obj, map[string]bool{"op": true, "name": false, "value": false, "index": false, "address": false})
		}
		return nil
	}
	code, takes := contract.EditKeys(op)
	if takes == nil {
		return []contract.Finding{sc.src.at(contract.CodeUnknownOp, obj.Get(ast.StringTerm("op")).Loc(), contract.OneOf(op, "", contract.EditNames()), "edit has no operation %q", op)}
	}
	known := map[string]bool{"op": true}
	for k, required := range takes {
		known[string(k)] = required
	}
	out := sc.lintKeys(op, t, obj, known)
	try := func(key string, make func() error) {
		var wrong *message.EditError
		if err := make(); errors.As(err, &wrong) {
			out = append(out, sc.src.at(contract.CodeBadValue, obj.Get(ast.StringTerm(key)).Loc(), "", "%s %s: %s", op, key, wrong.What))
		}
	}
	value := "x"
	if code == message.OpRemoveHeader {
		value = ""
	}
	if address, ok := constantKey(obj, "address"); ok && known["address"] {
		try("address", func() error { _, err := message.NewEnvelopeEdit(code, address, true); return err })
	}
	if name, ok := constantKey(obj, "name"); ok && known["name"] {
		try("name", func() error { _, err := message.NewEdit(code, name, 0, value, true); return err })
	}
	if text, ok := constantKey(obj, "value"); ok && known["value"] {
		try("value", func() error { _, err := message.NewEdit(code, "X", 0, text, true); return err })
	}
	if v := obj.Get(ast.StringTerm("index")); v != nil {
		if n, ok := v.Value.(ast.Number); ok {
			i, whole := n.Int()
			if !whole {
				i = -1
			}
			try("index", func() error { _, err := message.NewEdit(code, "X", i, value, true); return err })
		}
	}
	return out
}

// lintPackage finds packages whose name looks like a misspelt stage.
func (s *sources) lintPackage(pkg *ast.Package, stage contract.Stage) []contract.Finding {
	path := contract.ConstantPath(pkg.Path[1:])
	if stage != 0 || len(path) != 2 {
		return nil
	}
	var names []string
	for _, st := range contract.Stages() {
		names = append(names, st.String())
	}
	near := path[1]
	if !slices.Contains(names, near) {
		near = contract.Nearest(path[1], names)
	}
	if near == "" || path[0] != "postern" && contract.Nearest(path[0], []string{"postern"}) == "" {
		return nil
	}
	return []contract.Finding{s.at(contract.CodeUnknownStage, pkg.Location, "did you mean package postern."+near+"?",
		"package %s.%s is not a stage and would never be evaluated", path[0], path[1])}
}

// lintRule checks one rule of a stage package. set is true if the rule defines a decision set.
func (sc *scope) lintRule(r *ast.Rule) (out []contract.Finding, set bool) {
	s, stage := sc.src, sc.stage
	name := headName(r.Head)
	known := contract.SetNames(stage)
	isSet := slices.Contains(known, name)
	function := len(r.Head.Args) > 0
	switch {
	case isSet && !partialSet(r.Head):
		return []contract.Finding{s.at(contract.CodeNotASet, r.Loc(), fmt.Sprintf("write: %s contains ... if { ... }", name),
			"%s must be a partial set, so that rules in several files can add to it", name)}, true
	case isSet:
		return sc.lintElement(name, r), true
	case strings.HasPrefix(name, "_") || function:
		return nil, false
	case slices.Contains(contract.SetNames(contract.StageMessage), name):
		return []contract.Finding{s.at(contract.CodeOtherStage, r.Loc(), "put the rule into package postern.message",
			"%s has no meaning at stage %s", name, stage)}, false
	}
	hint := "decision sets are " + strings.Join(known, ", ") + "; a helper is named with a leading _ or lives in package postern.lib.*"
	near := contract.Nearest(name, known)
	switch {
	case strings.HasPrefix(name, "test_"):
		hint = "put tests into a file whose name ends in _test.rego"
	case near != "":
		hint = "did you mean " + near + "? A helper is named with a leading _ or lives in package postern.lib.*"
	}
	return []contract.Finding{s.at(contract.CodeUnknownSet, r.Loc(), hint, "package postern.%s has no set %s: the rule would never be evaluated", stage, name)}, false
}

// headName returns the first name of a rule: reject of "reject contains x", a of "a.b := c".
func headName(h *ast.Head) string {
	if ref := h.Ref(); len(ref) > 0 {
		if v, ok := ref[0].Value.(ast.Var); ok {
			return string(v)
		}
	}
	return string(h.Name)
}

// partialSet reports whether a head is `name contains element`.
func partialSet(h *ast.Head) bool {
	return h.RuleKind() == ast.MultiValue && len(h.Ref()) == 1 && len(h.Args) == 0
}

// editOps returns the operations that the edit rules can produce; all of them if a rule computes its operation.
func (s *sources) editOps() []string {
	used := map[string]bool{}
	for _, name := range s.names {
		m := s.modules[name]
		if stage, _ := contract.StageOf(m.Package); stage != contract.StageMessage {
			continue
		}
		for _, r := range m.Rules {
			if headName(r.Head) != "edit" {
				continue
			}
			obj, ok := headObject(r)
			if !ok {
				return contract.EditNames()
			}
			op, ok := constantKey(obj, "op")
			if !ok {
				return contract.EditNames()
			}
			used[op] = true
		}
	}
	return slices.DeleteFunc(contract.EditNames(), func(op string) bool { return !used[op] })
}
