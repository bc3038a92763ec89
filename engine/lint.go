package engine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// lint holds modules as they were written against the contract: what is allowed in a stage package.
//
//   - rules of a stage package are the decision sets of that stage, all partial sets, or private: named with a leading "_";
//   - functions may have any name that is not a set's;
//   - what several packages share lives in another package, such as postern.lib.<name>.
func (s *sources) lint() []Finding {
	var out []Finding
	defined := map[Stage]bool{}
	present := map[Stage]*ast.Package{}
	for _, name := range s.names {
		m := s.modules[name]
		stage, ok := stageOf(m.Package)
		out = append(out, s.lintPackage(m.Package, stage)...)
		for _, r := range m.Rules {
			out = append(out, s.lintNegations(m, r)...)
			if !ok {
				continue
			}
			fs, set := s.lintRule(stage, r)
			out = append(out, fs...)
			defined[stage] = defined[stage] || set
		}
		if ok {
			present[stage] = m.Package
		}
	}
	for stage, pkg := range present {
		if !defined[stage] {
			out = append(out, s.at(Fault, "empty-stage", pkg.Location, "sets: "+strings.Join(setNames(stage), ", "),
				"package postern.%s defines no decision set", stage))
		}
	}
	if len(present) == 0 {
		out = append(out, Finding{Severity: Fault, Code: "no-stage", Message: "the bundle defines no stage: no package postern.connect, " +
			"postern.mail, postern.rcpt or postern.message", Hint: "write for example: package postern.mail"})
	}
	return out
}

// stageOf the package, if it is one of the contract's.
func stageOf(pkg *ast.Package) (Stage, bool) {
	for _, s := range allStages() {
		if pkg.Path.Equal(stagePackage(s)) {
			return s, true
		}
	}
	return 0, false
}

// lintPackage finds packages that look like a misspelt stage.
func (s *sources) lintPackage(pkg *ast.Package, stage Stage) []Finding {
	path := constantPath(pkg.Path[1:])
	if stage != 0 || len(path) < 2 || path[0] != "postern" {
		return nil
	}
	var names []string
	for _, st := range allStages() {
		if path[1] == st.String() {
			return nil // postern.mail.helpers is no stage and does not look like another one
		}
		names = append(names, st.String())
	}
	if near := nearest(path[1], names); near != "" && len(path) == 2 {
		return []Finding{s.at(Fault, "unknown-stage", pkg.Location, "did you mean package postern."+near+"?",
			"package postern.%s is no stage and would never be asked", path[1])}
	}
	return nil
}

// lintRule checks one rule of a stage package; set says whether it is one of the decision sets.
func (s *sources) lintRule(stage Stage, r *ast.Rule) (out []Finding, set bool) {
	name := headName(r.Head)
	known := setNames(stage)
	isSet := slices.Contains(known, name)
	function := len(r.Head.Args) > 0
	switch {
	case isSet && !partialSet(r.Head):
		return []Finding{s.at(Fault, "not-a-set", r.Loc(), fmt.Sprintf("write: %s contains ... if { ... }", name),
			"%s must be a partial set, so that files and teams add up", name)}, true
	case isSet:
		if name == "edit" || name == "reject" || name == "defer" {
			out = s.lintElement(name, r)
		}
		return out, true
	case strings.HasPrefix(name, "_") || function:
		return nil, false
	case slices.Contains(setNames(StageMessage), name):
		return []Finding{s.at(Fault, "set-of-other-stage", r.Loc(), "put the rule into package postern.message",
			"%s has no meaning at stage %s", name, stage)}, false
	}
	hint := "decision sets are " + strings.Join(known, ", ") + "; a helper is named with a leading _ or lives in package postern.lib.*"
	if near := nearest(name, known); near != "" {
		hint = "did you mean " + near + "? A helper is named with a leading _ or lives in package postern.lib.*"
	}
	return []Finding{s.at(Fault, "unknown-set", r.Loc(), hint, "package postern.%s has no set %s: the rule would never be asked", stage, name)}, false
}

// headName is the first name of a rule: reject of "reject contains x", a of "a.b := c".
func headName(h *ast.Head) string {
	if ref := h.Ref(); len(ref) > 0 {
		if v, ok := ref[0].Value.(ast.Var); ok {
			return string(v)
		}
	}
	return string(h.Name)
}

// partialSet is `name contains element`.
func partialSet(h *ast.Head) bool {
	return h.RuleKind() == ast.MultiValue && len(h.Ref()) == 1 && len(h.Args) == 0
}

// lintElement finds misspelt keys in an element that is written as an object: they would be the failure verdict later.
func (s *sources) lintElement(set string, r *ast.Rule) (out []Finding) {
	obj, ok := headObject(r)
	if !ok {
		return nil
	}
	known := []string{"rule", "code", "status", "message"}
	if set == "edit" {
		op, constant := constantKey(obj, "op")
		if !constant {
			return nil
		}
		_, takes := editKeys(op)
		if takes == nil {
			return []Finding{s.at(Fault, "unknown-op", r.Loc(), suggest(op, editNames()), "edit has no operation %q", op)}
		}
		known = []string{"op"}
		for k := range takes {
			known = append(known, string(k))
		}
		slices.Sort(known)
	}
	have := map[string]bool{}
	obj.Foreach(func(k, _ *ast.Term) {
		key, ok := k.Value.(ast.String)
		if !ok {
			return
		}
		have[string(key)] = true
		if !slices.Contains(known, string(key)) {
			hint := suggest(string(key), known)
			if hint == "" {
				hint = "there are: " + strings.Join(known, ", ")
			}
			out = append(out, s.at(Fault, "unknown-key", k.Loc(), hint, "an element of %s has no key %q", set, string(key)))
		}
	})
	if set != "edit" && !have["rule"] {
		out = append(out, s.at(Fault, "no-rule-name", r.Loc(), `add "rule": "<name>"`, "an element of %s needs the name of its rule", set))
	}
	return out
}

// headObject is the object literal that a rule puts into its set: in the head, or assigned to the head's variable.
func headObject(r *ast.Rule) (ast.Object, bool) {
	if r.Head.Key == nil {
		return nil, false
	}
	if obj, ok := r.Head.Key.Value.(ast.Object); ok {
		return obj, true
	}
	v, ok := r.Head.Key.Value.(ast.Var)
	if !ok {
		return nil, false
	}
	for _, expr := range r.Body {
		if expr.IsAssignment() || expr.IsEquality() {
			if lhs, ok := expr.Operand(0).Value.(ast.Var); ok && lhs == v {
				obj, ok := expr.Operand(1).Value.(ast.Object)
				return obj, ok
			}
		}
	}
	return nil, false
}

// constantKey is the string under a key of an object literal, if it is one.
func constantKey(obj ast.Object, key string) (string, bool) {
	if t := obj.Get(ast.StringTerm(key)); t != nil {
		s, ok := t.Value.(ast.String)
		return string(s), ok
	}
	return "", false
}

// editOps are the operations that the edit rules can produce; all of them where a rule does not say it literally.
func (s *sources) editOps() []string {
	used := map[string]bool{}
	for _, name := range s.names {
		m := s.modules[name]
		if stage, _ := stageOf(m.Package); stage != StageMessage {
			continue
		}
		for _, r := range m.Rules {
			if headName(r.Head) != "edit" {
				continue
			}
			obj, ok := headObject(r)
			if !ok {
				return editNames()
			}
			op, ok := constantKey(obj, "op")
			if !ok {
				return editNames()
			}
			used[op] = true
		}
	}
	return slices.DeleteFunc(editNames(), func(op string) bool { return !used[op] })
}
