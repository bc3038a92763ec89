package engine

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
)

// Rules that depend on data alone, such as the operator's settings with their defaults, or a set made of a list, have the same
// value for every message of a snapshot. They are evaluated once, aside of the mail, and found ready by every evaluation, whatever
// the size of what they are made of.

// constantsTime bounds the evaluation of all of them. What is not ready then is evaluated for each message, as any other rule.
const constantsTime = time.Second

// constantRule is a rule that depends on data alone, with the question for its value.
type constantRule struct {
	ref   ast.Ref
	stage stage // of no transaction
}

// constantName is the list of the rule's value, empty where it is undefined.
const constantName = ast.Var("values")

func newConstantRule(ref ast.Ref) constantRule {
	value := ast.VarTerm("value")
	list := ast.ArrayComprehensionTerm(value, ast.NewBody(ast.Equality.Expr(value, ast.NewTerm(ref))))
	return constantRule{ref, stage{name: ref.String(), query: ast.NewBody(ast.Equality.Expr(ast.NewTerm(constantName), list))}}
}

// constantRules finds them among the rules that the stages can reach, in order.
func (p *Policy) constantRules(rules []*ast.Rule) []constantRule {
	refs := map[string]ast.Ref{}
	for _, r := range reachable(p.compiler, rules) {
		if ref := r.Ref(); len(r.Head.Args) == 0 && ref.IsGround() && len(ref) == len(r.Module.Package.Path)+1 {
			refs[ref.String()] = ref
		}
	}
	known := pure{p.compiler, contract.Denied(), map[*ast.Rule]bool{}}
	var out []constantRule
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		if ref := refs[name]; known.all(ref) {
			out = append(out, newConstantRule(ref))
		}
	}
	return out
}

// pure remembers of rules whether they depend on data alone.
type pure struct {
	compiler *ast.Compiler
	denied   map[string]string
	rules    map[*ast.Rule]bool
}

// all says whether the rules at ref are those of one name, with a value or a set of them, and all depend on data alone.
func (k pure) all(ref ast.Ref) bool {
	rules := k.compiler.GetRulesExact(ref)
	if len(k.compiler.GetRules(ref)) != len(rules) { // there are others above or below
		return false
	}
	for _, r := range rules {
		if partialObject := r.Head.Key != nil && r.Head.Value != nil; partialObject || !k.rule(r) {
			return false
		}
	}
	return len(rules) > 0
}

func (k pure) rule(r *ast.Rule) bool {
	if known, ok := k.rules[r]; ok {
		return known
	}
	is := k.dataOnly(r)
	for dep := range k.compiler.Graph.Dependencies(r) {
		if rule, ok := dep.(*ast.Rule); ok {
			is = is && k.rule(rule)
		}
	}
	k.rules[r] = is && (r.Else == nil || k.rule(r.Else))
	return k.rules[r]
}

// dataOnly says that a rule's own text reads no input, has no `with`, and calls no builtin that may answer differently each time.
func (k pure) dataOnly(r *ast.Rule) bool {
	ok := true
	inputRefs(r, func([]string) { ok = false })
	call := func(terms []*ast.Term) {
		if name, isRef := terms[0].Value.(ast.Ref); !isRef || !name.HasPrefix(ast.DefaultRootRef) && !k.steady(name) {
			ok = false
		}
	}
	ast.WalkExprs(r, func(e *ast.Expr) bool {
		if len(e.With) > 0 {
			ok = false
		}
		if terms, isCall := e.Terms.([]*ast.Term); isCall {
			call(terms)
		}
		return !ok
	})
	ast.WalkTerms(r, func(t *ast.Term) bool {
		if terms, isCall := t.Value.(ast.Call); isCall {
			call(terms)
		}
		return !ok
	})
	return ok
}

// steady says that a builtin gives the same for the same. Those that are denied, where the operator allows them all the same, are
// none: they ask the clock, the network or chance.
func (k pure) steady(name ast.Ref) bool {
	_, no := k.denied[name.String()]
	b, known := ast.BuiltinMap[name.String()]
	return known && !no && !b.Nondeterministic
}

// evaluateConstants makes p find the values of its constant rules. A rule that fails or contradicts itself is left to the evaluations,
// where it fails as it would have, and so is all that follows one that takes too long.
func (p *Policy) evaluateConstants(ctx context.Context) {
	p.constants = nil
	if p.tracer != nil {
		return // a rule whose value is ready is not entered
	}
	ctx, cancel := context.WithTimeout(ctx, constantsTime)
	defer cancel()
	patient := *p
	patient.timeout = constantsTime
	patient.constants = &refTable[ruled]{seed: p.workers.seed} // what has been found serves the next
	for _, c := range p.constantOf {
		out, fail := patient.evaluate(ctx, &c.stage, ast.InternedEmptyObject.Value)
		if fail != nil && fail.Kind == kindTimeout {
			break // it may still be reading what has been found
		}
		if fail == nil {
			values := out[constantName].Value.(*ast.Array)
			e := patient.constants.at(c.ref, 0)
			if e.value.undefined = values.Len() == 0; !e.value.undefined {
				e.value.value = values.Elem(0)
			}
		}
	}
	p.constants = patient.constants
}
