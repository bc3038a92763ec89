package engine

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Rules that depend on data alone, such as the operator's settings with their defaults, or a set made of a list, have the same
// value for every message of a snapshot. They are evaluated once, aside of the mail, and found ready by every evaluation, whatever
// the size of what they are made of.

// constantsTime bounds the evaluation of all of them. What is not ready then is evaluated for each message, as any other rule.
const constantsTime = time.Second

// constantRule is a rule that depends on data alone, with the query for its value.
type constantRule struct {
	ref   ast.Ref
	query ast.Body
}

const constantName = ast.Var("value")

// constantRules finds them among the rules that the stages can reach, in order.
func (p *Policy) constantRules(rules []*ast.Rule) []constantRule {
	refs := map[string]ast.Ref{}
	for _, r := range reachable(p.compiler, rules) {
		if ref := r.Ref(); len(r.Head.Args) == 0 && ref.IsGround() && len(ref) == len(r.Module.Package.Path)+1 {
			refs[ref.String()] = ref
		}
	}
	known := pure{p.compiler, denied(), map[*ast.Rule]bool{}}
	var out []constantRule
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		if ref := refs[name]; known.all(ref) {
			out = append(out, constantRule{ref, ast.NewBody(ast.Equality.Expr(ast.NewTerm(constantName), ast.NewTerm(ref)))})
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

// evaluateConstants makes p find the values of its constant rules. A rule that fails, contradicts itself or takes too long is left
// to the evaluations, where it fails as it would have. The goroutine ends with its evaluation.
func (p *Policy) evaluateConstants(ctx context.Context) {
	p.constants = nil
	if len(p.constantOf) == 0 {
		return
	}
	cancel := topdown.NewCancel()
	done := make(chan *refTable[ruled], 1)
	data := *p // without the values that an earlier snapshot had
	go func() { done <- data.valuesOfConstants(ctx, cancel) }()
	limit := time.NewTimer(constantsTime)
	defer limit.Stop()
	select {
	case p.constants = <-done:
		return
	case <-limit.C:
	case <-ctx.Done():
	}
	cancel.Cancel()
	select { // those that were ready
	case p.constants = <-done:
	case <-time.After(grace):
	}
}

func (p *Policy) valuesOfConstants(ctx context.Context, cancel topdown.Cancel) *refTable[ruled] {
	table := &refTable[ruled]{seed: p.crew.seed}
	caches := newCaches(p.crew.seed)
	for _, c := range p.constantOf {
		// Only what has been found whole serves the next: a rule that contradicts itself may be in the cache with its first value.
		caches.reset(table)
		v, err := p.valueOf(ctx, c, cancel, caches)
		switch {
		case cancel.Cancelled():
			return table
		case err == nil:
			table.at(c.ref, 0).value = ruled{value: v, undefined: v == nil}
		}
	}
	return table
}

// valueOf evaluates a constant rule; nil: it is undefined.
func (p *Policy) valueOf(ctx context.Context, rule constantRule, cancel topdown.Cancel, c *caches) (v *ast.Term, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = recovered(r)
		}
	}()
	query := topdown.NewQuery(rule.query).WithCompiler(p.compiler).WithStore(p.data).
		WithTransaction(transaction{}).WithMetrics(metrics.NoOp()).WithCancel(cancel).
		WithVirtualCache(&c.rules).WithBaseCache(&c.data).WithInterQueryBuiltinValueCache(p.values).WithStrictBuiltinErrors(true)
	err = query.Iter(ctx, func(r topdown.QueryResult) error {
		v = r[constantName]
		return nil
	})
	return v, err
}
