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
func (s *sources) lint(doors []Door) []Finding {
	var out []Finding
	refusals := map[Stage]*stageRefusals{}
	defined := map[Stage]bool{}
	present := map[Stage]*ast.Package{}
	for _, name := range s.names {
		m := s.modules[name]
		stage, ok := stageOf(m.Package)
		out = append(out, s.lintPackage(m.Package, stage)...)
		sc := s.moduleScope(m)
		for _, r := range m.Rules {
			sc.enter(r)
			out = append(out, sc.lintNegations(r)...)
			out = append(out, sc.lintEmpty(r)...)
			out = append(out, sc.lintWith(r)...)
			out = append(out, sc.lintLocals(r)...)
			out = append(out, sc.lintDoors(r, doors)...)
			if !ok {
				continue
			}
			if refusals[stage] == nil {
				refusals[stage] = &stageRefusals{}
			}
			refusals[stage].collect(sc, r)
			fs, set := sc.lintRule(r)
			out = append(out, fs...)
			defined[stage] = defined[stage] || set || len(fs) > 0 // a misspelt set has been said
		}
		if ok {
			present[stage] = m.Package
		}
	}
	for stage, pkg := range present {
		if !defined[stage] {
			out = append(out, s.at(codeEmptyStage, pkg.Location, "sets: "+strings.Join(setNames(stage), ", "),
				"package postern.%s defines no decision set", stage))
		}
	}
	if len(present) == 0 {
		var first *ast.Location
		if len(s.names) > 0 {
			first = s.modules[s.names[0]].Package.Location
		}
		out = append(out, s.at(codeNoStage, first, "write for example: package postern.mail",
			"the bundle defines no stage: no package postern.connect, postern.mail, postern.rcpt or postern.message"))
	}
	return append(out, s.lintNeeds(refusals)...)
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
	if stage != 0 || len(path) != 2 {
		return nil
	}
	var names []string
	for _, st := range allStages() {
		names = append(names, st.String())
	}
	near := path[1]
	if !slices.Contains(names, near) {
		near = nearest(path[1], names)
	}
	if near == "" || path[0] != "postern" && nearest(path[0], []string{"postern"}) == "" {
		return nil
	}
	return []Finding{s.at(codeUnknownStage, pkg.Location, "did you mean package postern."+near+"?",
		"package %s.%s is no stage and would never be asked", path[0], path[1])}
}

// lintRule checks one rule of a stage package; set says whether it is one of the decision sets.
func (sc *scope) lintRule(r *ast.Rule) (out []Finding, set bool) {
	s, stage := sc.src, sc.stage
	name := headName(r.Head)
	known := setNames(stage)
	isSet := slices.Contains(known, name)
	function := len(r.Head.Args) > 0
	switch {
	case isSet && !partialSet(r.Head):
		return []Finding{s.at(codeNotASet, r.Loc(), fmt.Sprintf("write: %s contains ... if { ... }", name),
			"%s must be a partial set, so that files and teams add up", name)}, true
	case isSet:
		return sc.lintElement(name, r), true
	case strings.HasPrefix(name, "_") || function:
		return nil, false
	case slices.Contains(setNames(StageMessage), name):
		return []Finding{s.at(codeOtherStage, r.Loc(), "put the rule into package postern.message",
			"%s has no meaning at stage %s", name, stage)}, false
	}
	hint := "decision sets are " + strings.Join(known, ", ") + "; a helper is named with a leading _ or lives in package postern.lib.*"
	near := nearest(name, known)
	switch {
	case strings.HasPrefix(name, "test_"):
		hint = "tests belong into a file whose name ends in _test.rego"
	case near != "":
		hint = "did you mean " + near + "? A helper is named with a leading _ or lives in package postern.lib.*"
	}
	return []Finding{s.at(codeUnknownSet, r.Loc(), hint, "package postern.%s has no set %s: the rule would never be asked", stage, name)}, false
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
