package lint

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/engine/data"
)

// lintCompiled checks what can be seen only after imports are resolved: references to what does not exist, and facts that a stage never
// has. OPA's compiler finds neither, because data may appear at run time; here the bundle is complete.
func (s *sources) lintCompiled(c *ast.Compiler, store *data.Store) (out []contract.Finding) {
	for _, name := range slices.Sorted(maps.Keys(c.Modules)) {
		for _, r := range c.Modules[name].Rules {
			out = append(out, s.lintData(c, store, r, func(contract.Finding) bool { return true })...)
		}
	}
	return append(out, s.lintStageFacts(c)...)
}

// lintData checks all references of a rule to data, and keeps the findings for which wanted is true.
func (s *sources) lintData(c *ast.Compiler, store *data.Store, r *ast.Rule, wanted func(contract.Finding) bool) (out []contract.Finding) {
	ast.WalkRefs(r, func(ref ast.Ref) bool {
		if !ref.HasPrefix(ast.DefaultRootRef) {
			return false
		}
		for _, f := range s.lintDataRef(c, store, ref) {
			if wanted(f) {
				out = append(out, f)
			}
		}
		return false
	})
	return out
}

// lintDataRef follows a reference through rules and data, up to its first computed element.
func (s *sources) lintDataRef(c *ast.Compiler, store *data.Store, ref ast.Ref) []contract.Finding {
	path := contract.ConstantPath(ref[1:])
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
			return nil // a rule, whose value the type checker knows
		}
		if next == nil {
			return s.missing(c, store, node, ref, path, i)
		}
		node = next
	}
	return nil // a whole package
}

// missing returns the finding for a reference whose element i is neither a rule nor a package, unless data has it.
func (s *sources) missing(c *ast.Compiler, store *data.Store, node *ast.TreeNode, ref ast.Ref, path []string, i int) []contract.Finding {
	for store.Has(path[:i+1]) {
		if i++; i == len(path) {
			return nil
		}
		node = nil // below data there are no rules
	}
	var names []string
	if node != nil {
		for k := range node.Children {
			if str, ok := k.(ast.String); ok {
				names = append(names, string(str))
			}
		}
	}
	names = append(names, store.Keys(path[:i])...)
	prefix := "data"
	if i > 0 {
		prefix += "." + strings.Join(path[:i], ".")
	}
	hint := contract.SuggestIn(path[i], prefix+".", names)
	packages := node != nil && i > 0 // the path before element i is a package
	if path[0] == "postern" && len(path) > 1 || packages && (hint != "" || !store.Has(path[:i])) {
		return []contract.Finding{s.at(contract.CodeMissingRule, ref[0].Loc(), cmp.Or(hint, contract.OneOf(path[i], prefix+".", names)), "%s.%s does not exist: the expression would always be undefined", prefix, path[i])}
	}
	if i > 0 {
		return nil // the content of a data document may change
	}
	return []contract.Finding{s.at(contract.CodeMissingData, ref[0].Loc(), hint, "data.%s is in no data document of the bundle", path[0])}
}

// lintStageFacts warns of facts that the stage whose package reads them never has.
func (s *sources) lintStageFacts(c *ast.Compiler) (out []contract.Finding) {
	facts := s.facts
	for _, name := range slices.Sorted(maps.Keys(c.Modules)) {
		m := c.Modules[name]
		stage, ok := contract.StageOf(m.Package)
		if !ok {
			continue
		}
		ast.WalkRefs(m, func(ref ast.Ref) bool {
			if !ref.HasPrefix(ast.InputRootRef) {
				return false
			}
			at := facts
			for i, key := range contract.ConstantPath(ref[1:]) {
				at = at.Field(key)
				if at == nil {
					return false
				}
				if !at.At(stage) {
					out = append(out, s.at(contract.CodeStageFact, ref[0].Loc(), "", "%s is never known at stage %s", ref[:i+2], stage))
					return false
				}
			}
			return false
		})
	}
	return out
}
