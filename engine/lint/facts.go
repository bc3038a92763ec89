package lint

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
)

// A refusal that reads a fact fires only where the fact is present:
//
//	reject contains "TLS 1.3 only" if input.tls.version != "1.3"
//
// lets mail without TLS pass. lintNeeds warns of it, unless the stage or an earlier one says what happens without the fact: by `allow`,
// or by a refusal that negates the fact or a helper rule that reads it. There is no warning for a rule that looks for a value
// (`"interns" in input.auth.groups`, `input.auth.login == "bot"`), because it is meant only for those that have the value.

// use is a use of an optional fact in the body or head of a rule.
type use struct {
	node   string // dotted path of the fact that may be absent: "auth", "tls", "client.name"
	ref    string // as in the source
	loc    *ast.Location
	picked bool // the rule looks for one of its values, so that it may be absent
}

// stageRefusals holds the refusing rules of a stage, and what the stage does about absent facts.
type stageRefusals struct {
	allow   bool
	rules   []refusal
	negated map[string]bool // optional facts without which a rule refuses
}

type refusal struct {
	scope *scope
	rule  *ast.Rule
}

// collect adds a rule of the stage's package.
func (st *stageRefusals) collect(sc *scope, r *ast.Rule) {
	switch headName(r.Head) {
	case "allow":
		st.allow = true
	case "reject", "defer":
		inner := *sc // a copy, with the variables of this rule
		st.rules = append(st.rules, refusal{&inner, r})
		if st.negated == nil {
			st.negated = map[string]bool{}
		}
		ast.WalkExprs(r.Body, func(e *ast.Expr) bool {
			if t, ok := e.Terms.(*ast.Term); ok && e.Negated {
				for _, u := range inner.reads(t) {
					st.negated[u.node] = true
				}
			}
			return false
		})
	}
}

// reads returns the optional facts that a term refers to, or the helper rules that it names.
func (sc *scope) reads(t *ast.Term) (uses []use) {
	if rules, _, _ := sc.rulesOf(t); rules != nil {
		for _, r := range rules {
			inner := sc.src.moduleScope(r.Module)
			inner.enter(r)
			ast.NewGenericVisitor(func(x any) bool {
				if t, ok := x.(*ast.Term); ok {
					uses = append(uses, inner.optional(t, true)...)
				}
				return false
			}).Walk(r)
		}
		return uses
	}
	return sc.optional(t, true)
}

// lintNeeds checks the refusals of all stages.
func (s *sources) lintNeeds(stages map[contract.Stage]*stageRefusals) (out []contract.Finding) {
	handled := map[string]bool{}
	for _, stage := range contract.Stages() {
		st := stages[stage]
		if st == nil {
			continue
		}
		if st.allow {
			if stage > contract.StageConnect {
				return out // later stages see only what it allowed
			}
			continue
		}
		for node := range st.negated {
			handled[node] = true
		}
		for _, r := range st.rules {
			out = append(out, r.lintNeeds(handled)...)
		}
	}
	return out
}

func (r refusal) lintNeeds(handled map[string]bool) (out []contract.Finding) {
	uses := r.scope.needed(r.rule, map[*ast.Rule]bool{})
	picked := map[string]bool{}
	for _, u := range uses {
		if u.picked {
			picked[u.node] = true
		}
	}
	for _, u := range uses {
		if picked[u.node] || handled[u.node] {
			continue
		}
		picked[u.node] = true // one finding a fact
		loc := u.loc
		if loc == nil {
			loc = r.rule.Loc()
		}
		out = append(out, r.scope.src.at(contract.CodeNeedsFact, loc, "say what happens without it: a refusal `if not input."+u.node+"`, or `allow`; "+
			"or, where it may pass, why: `# postern:ignore "+contract.CodeNeedsFact+" -- reason`",
			"%s can fire only if input.%s is known: without it, this rule lets the message pass", headName(r.rule.Head), u.node))
	}
	return out
}

// needed returns the optional facts without which a rule cannot fire: those in its expressions, in the helper rules that it names, and
// in its head.
func (sc *scope) needed(r *ast.Rule, seen map[*ast.Rule]bool) (out []use) {
	if seen[r] {
		return nil
	}
	seen[r] = true
	for _, e := range r.Body {
		if !e.Negated {
			out = append(out, sc.neededBy(e, seen)...)
		}
	}
	for _, t := range []*ast.Term{r.Head.Key, r.Head.Value} {
		if t != nil {
			out = append(out, sc.within(t, false)...)
		}
	}
	return out
}

// neededBy is needed for one expression.
func (sc *scope) neededBy(e *ast.Expr, seen map[*ast.Rule]bool) (out []use) {
	switch terms := e.Terms.(type) {
	case *ast.SomeDecl:
		for _, symbol := range terms.Symbols {
			if call, ok := symbol.Value.(ast.Call); ok {
				out = append(out, sc.within(call[len(call)-1], true)...)
			}
		}
	case *ast.Every:
		out = append(out, sc.within(terms.Domain, false)...)
	case *ast.Term:
		if rules, _, _ := sc.rulesOf(terms); rules != nil {
			return sc.neededByAll(rules, seen)
		}
		out = append(out, sc.within(terms, false)...)
	case []*ast.Term:
		picks, operands := sc.picks(e), terms[1:]
		if e.IsAssignment() {
			operands = operands[1:]
		}
		for _, t := range operands {
			out = append(out, sc.within(t, picks)...)
		}
		if rules, _, rest := sc.rulesOf(terms[0]); len(rules) > 0 && len(rest) == 0 {
			out = append(out, sc.neededByAll(rules, seen)...)
		}
	}
	return out
}

// neededByAll returns the uses that all rules of one name have in common.
func (sc *scope) neededByAll(rules []*ast.Rule, seen map[*ast.Rule]bool) (out []use) {
	if sc.src.certainHelper(rules) {
		return nil
	}
	for i, r := range rules {
		if r.Module == nil || r.Else != nil {
			return nil
		}
		inner := sc.src.moduleScope(r.Module)
		inner.enter(r)
		uses := inner.needed(r, seen)
		if i == 0 {
			out = uses
			continue
		}
		out = slices.DeleteFunc(out, func(u use) bool {
			return !slices.ContainsFunc(uses, func(v use) bool { return v.node == u.node })
		})
	}
	for i := range out {
		out[i].loc = nil // the finding is about the rule that refuses
	}
	return out
}

// certainHelper reports whether a helper has a value for every input, so that it needs no fact.
func (s *sources) certainHelper(rules []*ast.Rule) bool {
	return slices.ContainsFunc(rules, func(r *ast.Rule) bool { return r.Default || r.Head.RuleKind() == ast.MultiValue })
}

// picks reports whether an expression looks for certain values of a fact, so that the rule is meant only for transactions that have
// the fact. Comparisons other than for equality do not, nor do assignments and comparisons with 0, false, "" and [].
func (sc *scope) picks(e *ast.Expr) bool {
	if e.IsAssignment() {
		return false
	}
	switch e.Operator().String() {
	case "neq", "lt", "lte", "gt", "gte":
		return false
	case "eq", "equal":
		return !slices.ContainsFunc(e.Operands(), func(t *ast.Term) bool {
			switch v := t.Value.(type) {
			case ast.Number:
				return v == "0"
			case ast.Boolean:
				return !bool(v)
			case ast.String:
				return v == ""
			case *ast.Array:
				return v.Len() == 0
			}
			return false
		})
	}
	return true
}

// within returns the uses in a term, except in comprehensions and template strings, which are never undefined.
func (sc *scope) within(t *ast.Term, picked bool) (out []use) {
	ast.NewGenericVisitor(func(x any) bool {
		term, ok := x.(*ast.Term)
		if !ok {
			return false
		}
		switch term.Value.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.TemplateString:
			return true
		}
		out = append(out, sc.optional(term, picked)...)
		return false
	}).Walk(t)
	return out
}

// optional returns the facts on the path of a reference or variable that a transaction may lack.
func (sc *scope) optional(t *ast.Term, picked bool) (out []use) {
	rest, o, ok := sc.resolve(t)
	if !ok || o.fact == nil {
		return nil
	}
	path := slices.Concat(o.path, contract.ConstantPath(rest))
	if len(o.path) > 0 && len(rest) > 0 && o.fact != sc.src.facts.Follow(o.path) {
		path = o.path // a field of an element of a list
	}
	for _, node := range optionalNodes(sc.src.facts, path) {
		out = append(out, use{node: node, ref: t.String(), loc: t.Loc(), picked: picked})
	}
	return out
}

// optionalNodes returns the paths of the objects and facts on a path that may be absent. A fact within an optional object counts as that
// object. Facts of the server are configured, and those of the message are known where they are read.
func optionalNodes(f *contract.Fact, path []string) (nodes []string) {
	certain := true
	for i, key := range path {
		if f = f.Field(key); f == nil || i == 0 && (key == "server" || key == "message") {
			break
		}
		if !f.Always && (certain || f.Kind == contract.Closed) {
			nodes = append(nodes, strings.Join(path[:i+1], "."))
		}
		certain = certain && f.Always
	}
	return nodes
}

// lintLocals finds misspelt facts of variables that hold a part of input. OPA's type checker finds most of them, but not those under
// `every`.
func (sc *scope) lintLocals(r *ast.Rule) (out []contract.Finding) {
	ast.WalkTerms(r, func(t *ast.Term) bool {
		ref, ok := t.Value.(ast.Ref)
		if !ok {
			return false
		}
		f := sc.locals[headVar(t)].fact
		for i, el := range ref[1:] {
			key, constant := el.Value.(ast.String)
			switch {
			case f == nil:
				return false
			case f.Kind == contract.Closed && constant && f.Field(string(key)) == nil:
				at := ref[:i+1].String()
				out = append(out, sc.src.at(contract.CodeUnknownFact, t.Loc(), contract.OneOf(string(key), at+".", f.FieldNames()), "%s has no %q", at, string(key)))
				return false
			case f.Kind == contract.Closed && constant:
				f = f.Field(string(key))
			default:
				f = f.Item
			}
		}
		return false
	})
	return out
}

// lintEmpty finds comparisons of a fact with "". A fact that is not known is absent, never empty.
func (sc *scope) lintEmpty(r *ast.Rule) (out []contract.Finding) {
	ast.WalkExprs(r, func(e *ast.Expr) bool {
		if !e.IsCall() || len(e.Operands()) != 2 {
			return false
		}
		switch e.Operator().String() {
		case "eq", "equal", "neq":
		default:
			return false
		}
		for i, t := range e.Operands() {
			if s, ok := e.Operand(1 - i).Value.(ast.String); !ok || s != "" {
				continue
			}
			if f := sc.origin(t).fact; f != nil && f.Kind == contract.Text && !f.Always && f.Name != "" {
				out = append(out, sc.src.at(contract.CodeNeverEmpty, t.Loc(), "test for absence with `not "+t.String()+"`, for presence with `"+t.String()+"`",
					"%s is never \"\": if it is not known, it is absent", t))
			}
		}
		return false
	})
	return out
}

// door is a front end that a bundle is checked for.
type door struct {
	name    string   // as in input.server.door
	unknown []string // dotted paths of facts that it never knows
}

// doorsOf returns the front ends of these names.
func doorsOf(names []string) []door {
	var doors []door
	for _, name := range names {
		doors = append(doors, door{name, contract.NeverKnown(name)})
	}
	return doors
}

// lintDoors warns of facts that a front end in use never knows, unless the rule is for another front end only, or reads input.unknown.
func (sc *scope) lintDoors(r *ast.Rule, doors []door) (out []contract.Finding) {
	if len(doors) == 0 {
		return nil
	}
	only, looks := "", false
	ast.WalkExprs(r.Body, func(e *ast.Expr) bool {
		if !e.Negated && e.IsCall() && len(e.Operands()) == 2 && (e.IsEquality() || e.Operator().Equal(ast.Equal.Ref())) {
			for i, t := range e.Operands() {
				name, ok := e.Operand(1 - i).Value.(ast.String)
				if ok && slices.Equal(sc.inputPath(t), []string{"server", "door"}) {
					only = string(name)
				}
			}
		}
		return false
	})
	ast.NewGenericVisitor(func(x any) bool {
		if t, ok := x.(*ast.Term); ok {
			path := sc.inputPath(t)
			looks = looks || len(path) > 0 && path[0] == "unknown"
			for _, d := range doors {
				if only != "" && only != d.name {
					continue
				}
				if what := d.neverKnown(path); what != "" {
					out = append(out, sc.src.at(contract.CodeDoorFact, t.Loc(), "say what happens without it, and then why that is right: "+
						"`# postern:ignore "+contract.CodeDoorFact+" -- reason`; or ask for input.server.door first",
						"input.%s is never known at the door %q", what, d.name))
				}
			}
		}
		return false
	}).Walk(r)
	if looks {
		return nil
	}
	return out
}

// neverKnown returns the path at or above one that the front end never knows, or "".
func (d *door) neverKnown(path []string) string {
	at := strings.Join(path, ".")
	for _, u := range d.unknown {
		if at == u || strings.HasPrefix(at, u+".") {
			return u
		}
	}
	return ""
}

// inputPath returns the path of a reference into input up to its first computed element; nil for any other term.
func (sc *scope) inputPath(t *ast.Term) []string {
	if _, ok := t.Value.(ast.Ref); !ok {
		if v, ok := t.Value.(ast.Var); !ok || len(sc.roots[v]) < 2 {
			return nil
		}
	}
	rest, o, ok := sc.resolve(t)
	if !ok || o.fact == nil {
		return nil
	}
	return slices.Concat(o.path, contract.ConstantPath(rest))
}

// lintWith checks what `with` puts into input: the path, and the keys of object literals.
func (sc *scope) lintWith(r *ast.Rule) (out []contract.Finding) {
	ast.NewGenericVisitor(func(x any) bool {
		w, ok := x.(*ast.With)
		if !ok {
			return false
		}
		rest, o, ok := sc.resolve(w.Target)
		if !ok || o.fact == nil || len(o.path) > 0 {
			return false
		}
		f := o.fact
		for i, el := range rest {
			key, constant := el.Value.(ast.String)
			if !constant || f.Kind != contract.Closed {
				return false
			}
			next := f.Field(string(key))
			if next == nil {
				out = append(out, sc.noFact(el.Loc(), ast.InputRootRef.Concat(rest[:i]).String(), string(key), f))
				return false
			}
			f = next
		}
		out = append(out, sc.lintFacts(w.Value, ast.InputRootRef.Concat(rest).String(), f)...)
		return false
	}).Walk(r)
	return out
}

// lintFacts checks a literal against the fact that it takes the place of.
func (sc *scope) lintFacts(t *ast.Term, at string, f *contract.Fact) (out []contract.Finding) {
	switch v := t.Value.(type) {
	case ast.Object:
		if f.Kind != contract.Closed {
			return nil
		}
		v.Foreach(func(k, v *ast.Term) {
			key, ok := k.Value.(ast.String)
			if !ok {
				return
			}
			next := f.Field(string(key))
			if next == nil {
				out = append(out, sc.noFact(k.Loc(), at, string(key), f))
				return
			}
			out = append(out, sc.lintFacts(v, at+"."+string(key), next)...)
		})
	case *ast.Array:
		if f.Kind == contract.List {
			v.Foreach(func(el *ast.Term) { out = append(out, sc.lintFacts(el, at+"[_]", f.Item)...) })
		}
	}
	return out
}

// noFact returns the finding for a fact that does not exist.
func (sc *scope) noFact(loc *ast.Location, at, key string, f *contract.Fact) contract.Finding {
	return sc.src.at(contract.CodeUnknownFact, loc, contract.OneOf(key, at+".", f.FieldNames()), "%s has no %q: `with` sets a fact that does not exist", at, key)
}
