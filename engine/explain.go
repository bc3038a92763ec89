package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/engine/data"
)

// Limits of an explanation.
const (
	maxText    = 240 // bytes of a statement or a value
	maxTrails  = 500 // rules in an explanation
	maxBecause = 5   // helper rules that explain one another
)

// Explanation says how the rules of a stage came to their decision. Explain makes it by evaluating once more, with a tracer and
// without the rule index.
type Explanation struct {
	Stage    string  `json:"stage"`
	Revision string  `json:"revision"`
	Fired    []Trail `json:"fired"`           // rules that added an element, in the order of precedence and location
	Near     []Trail `json:"near"`            // rules that added nothing, those that came closest first
	Cut      bool    `json:"cut,omitempty"`   // a limit was reached, so that something is left out
	Error    string  `json:"error,omitempty"` // the evaluation failed; the rest is what was seen before

	Decision Decision `json:"-"` // what Decide decides on the same input
}

// Trail reports for one rule of a decision set which elements it added, or at which statement it stopped.
type Trail struct {
	Set      string   `json:"set"`
	Rule     string   `json:"rule"` // its name if the source has it, else its head
	File     string   `json:"file"`
	Line     int      `json:"line"`
	Elements []string `json:"elements,omitempty"` // JSON of the elements that the rule added
	Passed   int      `json:"passed"`             // statements that were true before the first one that was not
	Of       int      `json:"of"`                 // number of statements, including a head that computes something
	Stopped  *Stop    `json:"stopped,omitempty"`
}

// Stop is the statement at which a rule stopped because it was not true, with the values of its variables.
type Stop struct {
	File   string  `json:"file"`
	Line   int     `json:"line"`
	Column int     `json:"column"`
	Text   string  `json:"text"`
	Values []Named `json:"values"`
	// Because is the statement of a helper rule that explains this one: the last one that was not true or, if this statement is
	// negated, the head of the helper, which was true.
	Because *Stop `json:"because,omitempty"`
	// Held says that this helper rule was true.
	Held bool `json:"held,omitempty"`
}

// Named is a variable or reference of a statement with its value.
type Named struct {
	Name      string `json:"name"`
	Value     string `json:"value,omitempty"` // JSON, shortened
	Undefined bool   `json:"undefined,omitempty"`
}

// Explain decides l once more and says why. The error says that the bundle does not define the stage, or that l has no input. An
// evaluation that does not end is cancelled when ctx is done.
func (p *Policy) Explain(ctx context.Context, l *Logged) (*Explanation, error) {
	st := p.stageOf(l.Stage)
	if st == nil {
		return nil, fmt.Errorf("the bundle has no package postern.%s", l.Stage)
	}
	if l.Input == nil || l.Input.value == nil {
		return nil, fmt.Errorf("there is no input to explain the decision with")
	}
	x := explainer{p: p, ctx: ctx, st: st, input: ast.NewTerm(l.Input.value), tracer: newTracer(p.compiler.RewrittenVars)}
	out := &Explanation{Stage: st.name, Revision: p.revision, Fired: []Trail{}, Near: []Trail{}, Decision: p.DecideLogged(ctx, l)}
	if err := x.ask(st.query, st.qc, x.tracer, nil); err != nil {
		out.Error = err.Error()
	}
	x.trails(l.Stage, out)
	out.Cut = out.Cut || x.tracer.full
	return out, nil
}

// explainer makes one explanation.
type explainer struct {
	p      *Policy
	ctx    context.Context
	st     *stage
	input  *ast.Term
	tracer *tracer
}

// ask runs a query. With a tracer it does not use the rule index, so that every rule is tried. A failing builtin is undefined, not an
// error: without the index, rules run that Decide would never reach.
func (x *explainer) ask(query ast.Body, qc ast.QueryCompiler, t topdown.QueryTracer, each func(topdown.QueryResult)) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = recovered(r)
		}
	}()
	cancel := topdown.NewCancel()
	defer context.AfterFunc(x.ctx, cancel.Cancel)()
	q := topdown.NewQuery(query).WithQueryCompiler(qc).WithCompiler(x.p.compiler).WithStore(x.p.data).WithTransaction(data.Transaction{}).
		WithInput(x.input).WithBuiltins(x.st.builtins).WithMetrics(metrics.NoOp()).WithCancel(cancel).
		WithInterQueryBuiltinValueCache(x.p.values)
	if t != nil {
		q = q.WithQueryTracer(t).WithIndexing(false).WithEarlyExit(false)
	}
	return q.Iter(x.ctx, func(r topdown.QueryResult) error {
		if each != nil {
			each(r)
		}
		return nil
	})
}

// trails adds what the tracer saw of the rules of the decision sets.
func (x *explainer) trails(s Stage, out *Explanation) {
	var near []seen
	for _, set := range x.st.sets { // in the order of precedence
		ref := s.Package().Append(ast.StringTerm(set))
		rules := slices.Clone(x.p.compiler.GetRulesExact(ref))
		slices.SortFunc(rules, func(a, b *ast.Rule) int { return comparePlaces(a.Location, b.Location) })
		for _, r := range rules {
			a := furthest(x.tracer.attempts[r], nil)
			switch {
			case a == nil: // the evaluation ended before it
			case !a.fired:
				near = append(near, seen{trail(set, a), a})
			case len(out.Fired) < maxTrails:
				out.Fired = append(out.Fired, trail(set, a))
			default:
				out.Cut = true
			}
		}
	}
	slices.SortStableFunc(near, func(a, b seen) int {
		return cmp.Or(cmp.Compare(a.Of-a.Passed, b.Of-b.Passed), cmp.Compare(b.Passed, a.Passed), strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	if len(near) > maxTrails {
		near, out.Cut = near[:maxTrails], true
	}
	for _, n := range near { // only for these are values looked up
		n.Stopped = x.stop(n.attempt, maxBecause)
		out.Near = append(out.Near, n.Trail)
	}
}

// seen is a trail with its attempt.
type seen struct {
	Trail
	attempt *attempt
}

// furthest returns an attempt that fired, or else the one that failed last in its body. If caller is not nil, only the attempts that
// it called count.
func furthest(list []*attempt, caller *attempt) *attempt {
	var best *attempt
	for _, a := range list {
		if caller != nil && a.caller != caller {
			continue
		}
		if best == nil || a.fired && !best.fired || a.fired == best.fired && a.stop > best.stop {
			best = a
		}
	}
	return best
}

// trail returns the Trail of an attempt without Stopped.
func trail(set string, a *attempt) Trail {
	t := Trail{Set: set, Rule: ruleName(set, a.rule)}
	t.File, t.Line, _ = place(a.rule.Location)
	places, last := statements(a.rule.Body)
	t.Of = len(places)
	if a.fired {
		t.Passed = t.Of
		for _, e := range a.elements {
			t.Elements = append(t.Elements, shorten(appendBrief(nil, e.Value, maxText)))
		}
		return t
	}
	for _, end := range last {
		if end < a.stop {
			t.Passed++
		}
	}
	return t
}

// stop says where an attempt failed; nil if the evaluation ended in the middle of it.
func (x *explainer) stop(a *attempt, depth int) *Stop {
	if a.stop < 0 {
		return nil
	}
	expr := a.rule.Body[a.stop]
	where := statementOf(a.rule.Body, expr)
	s := &Stop{Values: []Named{}, Text: oneLine(string(where.Text), maxText)}
	s.File, s.Line, s.Column = place(where)
	for _, b := range a.bound {
		s.Values = append(s.Values, x.named(b))
	}
	if depth > 0 {
		s.Because = x.because(a, expr, depth-1)
	}
	return s
}

// because explains a statement by the helper rule that it calls.
func (x *explainer) because(a *attempt, expr *ast.Expr, depth int) *Stop {
	var ref ast.Ref
	caller := (*attempt)(nil)
	switch terms := expr.Terms.(type) {
	case *ast.Term:
		ref, _ = terms.Value.(ast.Ref)
	case []*ast.Term:
		if ref, _ = terms[0].Value.(ast.Ref); expr.IsEquality() {
			ref = nil
			for _, t := range terms[1:] {
				if r, ok := t.Value.(ast.Ref); ok && ref == nil {
					ref = r
				}
			}
		} else {
			caller = a // only the attempts with the arguments of this call count
		}
	}
	if ref == nil || !ref.HasPrefix(ast.DefaultRootRef) {
		return nil
	}
	var best *attempt
	for _, r := range x.p.compiler.GetRulesForVirtualDocument(ref.GroundPrefix()) {
		for ; r != nil; r = r.Else {
			if b := furthest(x.tracer.attempts[r], caller); b != nil && (best == nil || b.fired && !best.fired ||
				b.fired == best.fired && closer(b, best)) {
				best = b
			}
		}
	}
	switch {
	case best == nil || best == a:
		return nil
	case best.fired != expr.Negated:
		return nil // something else in the statement was not true
	case best.fired:
		s := &Stop{Held: true, Values: []Named{}, Text: oneLine(string(best.rule.Location.Text), maxText)}
		s.File, s.Line, s.Column = place(best.rule.Location)
		return s
	}
	return x.stop(best, depth)
}

// closer reports whether a had fewer expressions left than b.
func closer(a, b *attempt) bool { return len(a.rule.Body)-a.stop < len(b.rule.Body)-b.stop }

// named returns a variable with its value. A reference is looked up.
func (x *explainer) named(b bound) Named {
	n := Named{Name: b.name}
	switch {
	case b.value != nil:
		n.Value = shorten(appendBrief(nil, b.value, maxText))
	case b.ref == nil:
		n.Undefined = true
	default:
		if v := x.look(b.ref); v != nil {
			n.Value = shorten(appendBrief(nil, v, maxText))
		} else {
			n.Undefined = true
		}
	}
	return n
}

// look evaluates a ground reference; nil if it is undefined.
func (x *explainer) look(ref ast.Ref) (v ast.Value) {
	if ref.HasPrefix(ast.InputRootRef) {
		found, err := x.input.Value.Find(ref[1:])
		if err != nil {
			return nil
		}
		return found
	}
	const name = ast.Var("value")
	qc := x.p.compiler.QueryCompiler()
	body, err := qc.Compile(ast.NewBody(ast.Equality.Expr(ast.NewTerm(name), ast.NewTerm(ref))))
	if err != nil {
		return nil // such as a function
	}
	err = x.ask(body, qc, nil, func(r topdown.QueryResult) {
		if t := r[name]; t != nil {
			v = t.Value
		}
	})
	if err != nil {
		return nil
	}
	return v
}

// ruleName returns the name that a rule gives to its element if its head has it, or else the head itself.
func ruleName(set string, r *ast.Rule) string {
	text := func(obj ast.Object, key string) string {
		if t := obj.Get(ast.StringTerm(key)); t != nil {
			if s, ok := t.Value.(ast.String); ok {
				return clean(string(s), false)
			}
		}
		return ""
	}
	if r.Head.Key != nil {
		switch key := r.Head.Key.Value.(type) {
		case ast.String:
			return clean(contract.Cut(string(key), contract.MaxRule), false)
		case ast.Object:
			name := text(key, "rule")
			if set == "edit" {
				name = strings.TrimSpace(text(key, "op") + " " + text(key, "name") + text(key, "address"))
			}
			if name != "" {
				return contract.Cut(name, contract.MaxRule)
			}
		}
	}
	head, _, _ := strings.Cut(string(r.Location.Text), " if ")
	return oneLine(strings.TrimPrefix(head, set+" contains "), 80)
}

// place returns the parts of a location.
func place(l *ast.Location) (file string, line, column int) {
	if l == nil {
		return "", 0, 0
	}
	return strings.TrimPrefix(l.File, "/"), l.Row, l.Col
}

func comparePlaces(a, b *ast.Location) int {
	fa, la, ca := place(a)
	fb, lb, cb := place(b)
	return cmp.Or(strings.Compare(fa, fb), cmp.Compare(la, lb), cmp.Compare(ca, cb))
}

// oneLine returns source on one line, printable and at most limit bytes long.
func oneLine(s string, limit int) string {
	if len(s) > 4*limit {
		s = s[:4*limit]
	}
	return shortenTo(strings.Join(strings.Fields(s), " "), limit)
}

// shorten returns JSON cut to maxText and printable.
func shorten(json []byte) string { return shortenTo(string(json), maxText) }

func shortenTo(s string, limit int) string {
	if len(s) > limit {
		for limit > 0 && !utf8.RuneStart(s[limit]) {
			limit--
		}
		s = s[:limit] + "..."
	}
	return clean(s, false)
}
