package engine

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// lintCompiled checks what can only be seen after imports are resolved: references to what does not exist, and facts
// that a stage never has. OPA's compiler finds neither, because data could still appear at run time; our bundles are
// whole.
func (s *sources) lintCompiled(c *ast.Compiler, data *store) (out []Finding) {
	for _, name := range slices.Sorted(maps.Keys(c.Modules)) {
		for _, r := range c.Modules[name].Rules {
			out = append(out, s.lintData(c, data, r, func(Finding) bool { return true })...)
		}
	}
	return append(out, s.lintStageFacts(c)...)
}

// lintData checks all references of a rule into data, and keeps the findings that are wanted.
func (s *sources) lintData(c *ast.Compiler, data *store, r *ast.Rule, wanted func(Finding) bool) (out []Finding) {
	ast.WalkRefs(r, func(ref ast.Ref) bool {
		if !ref.HasPrefix(ast.DefaultRootRef) {
			return false
		}
		for _, f := range s.lintDataRef(c, data, ref) {
			if wanted(f) {
				out = append(out, f)
			}
		}
		return false
	})
	return out
}

// lintDataRef follows a reference through rules and data as far as it is constant.
func (s *sources) lintDataRef(c *ast.Compiler, data *store, ref ast.Ref) []Finding {
	path := constantPath(ref[1:])
	if len(path) == 0 {
		return nil
	}
	node := c.RuleTree.Child(ast.DefaultRootDocument.Value)
	for i, key := range path {
		var next *ast.TreeNode
		if node != nil {
			next = node.Child(ast.String(key))
		}
		if next != nil && len(next.Values) > 0 {
			return nil // a rule: what it holds is for the type checker
		}
		if next == nil {
			return s.missing(c, data, node, ref, path, i)
		}
		node = next
	}
	return nil // a whole package
}

// missing words a reference whose element i is no rule and no package; data may still have it.
func (s *sources) missing(c *ast.Compiler, data *store, node *ast.TreeNode, ref ast.Ref, path []string, i int) []Finding {
	for data.has(path[:i+1]) {
		if i++; i == len(path) {
			return nil
		}
		node = nil // the rules have ended here, the data may go on
	}
	var names []string
	if node != nil {
		for k := range node.Children {
			if str, ok := k.(ast.String); ok {
				names = append(names, string(str))
			}
		}
	}
	names = append(names, data.names(path[:i])...)
	prefix := "data"
	if i > 0 {
		prefix += "." + strings.Join(path[:i], ".")
	}
	hint := suggestIn(path[i], prefix+".", names)
	packages := node != nil && i > 0 // the part before it is all rules and packages
	if path[0] == "postern" && len(path) > 1 || packages && (hint != "" || !data.has(path[:i])) {
		return []Finding{s.at(codeMissingRule, ref[0].Loc(), cmp.Or(hint, oneOf(path[i], prefix+".", names)), "%s.%s does not exist: the expression would always be undefined", prefix, path[i])}
	}
	if i > 0 {
		return nil // below a data document anything may come and go
	}
	return []Finding{s.at(codeMissingData, ref[0].Loc(), hint, "data.%s is in no data document of the bundle", path[0])}
}

// lintStageFacts warns of facts that are never there at the stage whose package reads them.
func (s *sources) lintStageFacts(c *ast.Compiler) (out []Finding) {
	facts := s.facts
	for _, name := range slices.Sorted(maps.Keys(c.Modules)) {
		m := c.Modules[name]
		stage, ok := stageOf(m.Package)
		if !ok {
			continue
		}
		ast.WalkRefs(m, func(ref ast.Ref) bool {
			if !ref.HasPrefix(ast.InputRootRef) {
				return false
			}
			at := facts
			for i, key := range constantPath(ref[1:]) {
				at = at.field(key)
				if at == nil {
					return false
				}
				if !at.at(stage) {
					out = append(out, s.at(codeStageFact, ref[0].Loc(), "", "%s is never known at stage %s", ref[:i+2], stage))
					return false
				}
			}
			return false
		})
	}
	return out
}

// field of a closed object; nil where there is none.
func (f *fact) field(name string) *fact {
	for i := range f.fields {
		if f.fields[i].name == name {
			return &f.fields[i]
		}
	}
	return nil
}
