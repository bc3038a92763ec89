package engine

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
)

// Rules that depend on data alone, such as a set made of a list, have the same value for every message. They are evaluated once,
// when the policy or its data is loaded. A set made of a list of 10,000 costs 23 ms to make, which every decision would pay.

// constantsTime limits the evaluation of all constant rules together. Those without a value by then are evaluated for each message.
const constantsTime = time.Second

// constantName is the variable that holds a list of the rule's value; the list is empty if the rule is undefined.
const constantName = ast.Var("values")

func newConstantRule(ref ast.Ref) constantRule {
	value := ast.VarTerm("value")
	list := ast.ArrayComprehensionTerm(value, ast.NewBody(ast.Equality.Expr(value, ast.NewTerm(ref))))
	return constantRule{ref, stage{name: ref.String(), query: ast.NewBody(ast.Equality.Expr(ast.NewTerm(constantName), list))}}
}

// findConstantRules returns the constant rules among the rules that the stages can reach, in order.
func (p *Policy) findConstantRules(rules []*ast.Rule) []constantRule {
	refs := map[string]ast.Ref{}
	for _, r := range reachable(p.compiler, rules) {
		if ref := r.Ref(); len(r.Head.Args) == 0 && ref.IsGround() && len(ref) == len(r.Module.Package.Path)+1 {
			refs[ref.String()] = ref
		}
	}
	search := constantSearch{p.compiler, contract.Denied(), map[*ast.Rule]bool{}}
	var out []constantRule
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		if ref := refs[name]; search.all(ref) {
			out = append(out, newConstantRule(ref))
		}
	}
	return out
}

// constantSearch remembers whether rules depend on data alone.
type constantSearch struct {
	compiler *ast.Compiler
	denied   map[string]string
	rules    map[*ast.Rule]bool
}

// all reports whether the rules at ref are those of one name, have a value or a set of values, and all depend on data alone.
func (k constantSearch) all(ref ast.Ref) bool {
	rules := k.compiler.GetRulesExact(ref)
	if len(k.compiler.GetRules(ref)) != len(rules) { // there are rules above or below ref
		return false
	}
	for _, r := range rules {
		if partialObject := r.Head.Key != nil && r.Head.Value != nil; partialObject || !k.rule(r) {
			return false
		}
	}
	return len(rules) > 0
}

func (k constantSearch) rule(r *ast.Rule) bool {
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

// dataOnly reports whether a rule's own text reads no input, has no `with`, and calls no builtin whose result can differ from call
// to call.
func (k constantSearch) dataOnly(r *ast.Rule) bool {
	ok := true
	inputRefs(r, func([]string) { ok = false })
	call := func(terms []*ast.Term) {
		if name, isRef := terms[0].Value.(ast.Ref); !isRef || !name.HasPrefix(ast.DefaultRootRef) && !k.deterministic(name) {
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

// deterministic reports whether a builtin always returns the same for the same arguments. A denied builtin that the operator allows
// does not: it may read the clock, the network or random numbers.
func (k constantSearch) deterministic(name ast.Ref) bool {
	_, no := k.denied[name.String()]
	b, known := ast.BuiltinMap[name.String()]
	return known && !no && !b.Nondeterministic
}

// evaluateConstants evaluates the constant rules. A rule that fails gets no value, so that the decisions which read it fail as they
// would have. The rules after one that takes too long get no value either.
func (p *Policy) evaluateConstants(ctx context.Context) {
	p.constants = nil
	if p.tracer != nil {
		return // the evaluator does not enter a rule whose value is known
	}
	ctx, cancel := context.WithTimeout(ctx, constantsTime)
	defer cancel()
	loading := *p
	loading.constants = &refTable[ruleValue]{seed: p.workers.seed} // the values so far are used for the next rule
	for _, c := range p.constantRules {
		out, fail := loading.evaluate(ctx, evaluation{stage: &c.stage, input: ast.InternedEmptyObject.Value, limit: constantsTime})
		if fail != nil && fail.Kind == kindTimeout {
			break // the abandoned evaluation may still read the values
		}
		if fail == nil {
			values := out[constantName].Value.(*ast.Array)
			e := loading.constants.at(c.ref, 0)
			if e.value.undefined = values.Len() == 0; !e.value.undefined {
				e.value.value = values.Elem(0)
			}
		}
	}
	p.constants = loading.constants
}
