package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// joined are the modules as the compiler gets them: neighbours of one package as one module. OPA resolves the names of every
// module against all rules of its package, so that many files cost files × rules. Every rule keeps its place, in its file too,
// and the order within a package stays. Two are joined only if that can hide nothing: see joinable.
//
// The names are those of the first file of each. ok says that anything was joined. The modules themselves do not change.
func (s *sources) joined() (out map[string]*ast.Module, ok bool) {
	out = make(map[string]*ast.Module, len(s.modules))
	last := map[string]*run{} // by package
	for _, name := range s.names {
		m := s.modules[name]
		pkg := m.Package.Path.String()
		like, can := "", joinable(m)
		if can {
			like = likeness(m)
		}
		if before := last[pkg]; can && before != nil && before.can && before.like == like {
			before.add(m)
			ok = true
			continue
		}
		last[pkg] = &run{module: m, like: like, can: can, name: name, out: out}
		out[name] = m
	}
	return out, ok
}

// run is what the modules of a package have come to.
type run struct {
	module *ast.Module
	like   string
	can    bool // join
	own    bool // module is a copy
	name   string
	out    map[string]*ast.Module
}

func (r *run) add(m *ast.Module) {
	if !r.own {
		whole := *r.module
		whole.Rules, whole.Annotations = slices.Clone(whole.Rules), slices.Clone(whole.Annotations)
		whole.Comments = nil
		r.module, r.own, r.out[r.name] = &whole, true, &whole
	}
	r.module.Rules = append(r.module.Rules, m.Rules...)
	r.module.Annotations = append(r.module.Annotations, m.Annotations...)
}

// likeness is what modules must have in common beside their package: imports and version of the language.
func likeness(m *ast.Module) string {
	var b strings.Builder
	fmt.Fprint(&b, m.RegoVersionSpan())
	for _, imp := range m.Imports {
		b.WriteByte('\n')
		b.WriteString(imp.String())
	}
	return b.String()
}

// joinable says whether a module stands for itself: nothing in it is about the file, and it certainly uses all that it imports,
// which strict mode asks of each file.
func joinable(m *ast.Module) bool {
	for _, a := range m.Annotations {
		if a.Scope == "package" || a.Scope == "subpackages" {
			return false
		}
	}
	if len(m.Annotations) == 0 && slices.ContainsFunc(m.Comments, func(c *ast.Comment) bool { return strings.Contains(string(c.Text), "METADATA") }) {
		return false // parsed without its annotations: the compiler may look for them
	}
	used := map[ast.Var]bool{}
	for _, imp := range m.Imports {
		ref, ok := imp.Path.Value.(ast.Ref)
		if !ok || len(ref) == 0 {
			return false
		}
		if ref[0].Equal(ast.RegoRootDocument) || ref[0].Equal(ast.FutureRootDocument) {
			continue
		}
		if _, twice := used[imp.Name()]; twice {
			return false
		}
		used[imp.Name()] = false
	}
	return len(used) == 0 || usesAll(m, used)
}

// usesAll says whether a module refers to something of each of its imports, and has no rule and no variable of such a name: an
// import that is hidden by one is not used.
func usesAll(m *ast.Module, used map[ast.Var]bool) bool {
	hidden := false
	var visit func(*ast.Term) bool
	visit = func(t *ast.Term) bool {
		switch v := t.Value.(type) {
		case ast.Var:
			if _, is := used[v]; is {
				hidden = true
			}
		case ast.Ref:
			if head, ok := v[0].Value.(ast.Var); !ok {
				ast.WalkTerms(v[0], visit)
			} else if _, is := used[head]; is {
				used[head] = true
			}
			for _, t := range v[1:] {
				ast.WalkTerms(t, visit)
			}
			return true
		}
		return hidden
	}
	for _, r := range m.Rules {
		if _, is := used[ast.Var(headName(r.Head))]; is || hidden {
			return false
		}
		ast.WalkTerms(r, visit)
	}
	return !hidden && !slices.Contains(slices.Collect(maps.Values(used)), false)
}

// compileWith compiles the modules, joined if that can be. A fault is that of the modules as they are: joined ones only ever
// yield what has none.
func (s *sources) compileWith(fresh func() *ast.Compiler, more map[string]*ast.Module) *ast.Compiler {
	modules, joined := s.joined()
	for {
		c := fresh()
		maps.Copy(modules, more)
		c.Compile(modules)
		if !joined || !c.Failed() {
			return c
		}
		modules, joined = maps.Clone(s.modules), false
	}
}
