package engine

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Limits of one trace. A trace that reaches the first one is not complete, and the explanation says so.
const (
	maxQueries  = 1 << 18 // queries the evaluator opened: rule bodies, negations, comprehensions
	maxAttempts = 16      // remembered of one rule
	maxElements = 20      // remembered of a rule that fired
)

// attempt is one evaluation of a rule's body.
type attempt struct {
	rule     *ast.Rule
	caller   *attempt // in whose body the rule was called; nil: in the query
	fired    bool
	elements []*ast.Term // that a decision set's rule added
	stop     int         // index of the last expression that failed; -1: none
	bound    []bound     // variables and references of its statement at that time
}

// bound is a variable or reference of an expression when it failed.
type bound struct {
	name  string
	value ast.Value // nil: it is looked up later by ref
	ref   ast.Ref   // into data or input, ground; nil if value is set
}

// tracer is a topdown.QueryTracer that records how far each rule came in one evaluation.
type tracer struct {
	names    map[ast.Var]ast.Var // rewritten variable to its name in the source
	queries  map[uint64]*attempt // query id to the attempt that it belongs to
	own      map[uint64]bool     // the query is the whole body of its attempt
	attempts map[*ast.Rule][]*attempt
	full     bool
}

func newTracer(names map[ast.Var]ast.Var) *tracer {
	return &tracer{names: names, queries: map[uint64]*attempt{}, own: map[uint64]bool{}, attempts: map[*ast.Rule][]*attempt{}}
}

// Enabled returns true.
func (*tracer) Enabled() bool { return true }

// Config asks topdown for no extra work: TraceEvent reads the variables that it needs.
func (*tracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent records what the evaluator does.
func (t *tracer) TraceEvent(e topdown.Event) {
	switch e.Op {
	case topdown.EnterOp:
		t.enter(&e)
	case topdown.ExitOp:
		rule, ok := e.Node.(*ast.Rule)
		if a := t.queries[e.QueryID]; ok && a != nil && t.own[e.QueryID] {
			a.fired = true
			if key := rule.Head.Key; key != nil && a.caller == nil && len(a.elements) < maxElements {
				a.elements = append(a.elements, e.Plug(key))
			}
		}
	case topdown.FailOp:
		expr, ok := e.Node.(*ast.Expr)
		a := t.queries[e.QueryID]
		if !ok || a == nil || !t.own[e.QueryID] || expr.Index <= a.stop || expr.Index >= len(a.rule.Body) || a.rule.Body[expr.Index] != expr {
			return
		}
		a.stop = expr.Index
		a.bound = t.bind(&e, a.rule.Body, expr)
	}
}

// enter records to which attempt a query belongs.
func (t *tracer) enter(e *topdown.Event) {
	if t.full = t.full || len(t.queries) >= maxQueries; t.full {
		return
	}
	caller := t.queries[e.ParentID]
	rule, ok := e.Node.(*ast.Rule)
	if !ok {
		if caller != nil && t.queries[e.QueryID] == nil {
			t.queries[e.QueryID] = caller
		}
		return
	}
	a := &attempt{rule: rule, caller: caller, stop: -1}
	t.queries[e.QueryID], t.own[e.QueryID] = a, true
	if len(t.attempts[rule]) < maxAttempts {
		t.attempts[rule] = append(t.attempts[rule], a)
	}
}

// bind returns the variables and references of the statement that expr is part of, up to expr.
func (t *tracer) bind(e *topdown.Event, body ast.Body, expr *ast.Expr) []bound {
	statement := statementOf(body, expr)
	var out []bound
	seen := map[string]bool{}
	add := func(b bound, ok bool) {
		if ok && !seen[b.name] && len(out) < maxElements {
			seen[b.name] = true
			out = append(out, b)
		}
	}
	for _, x := range body[:expr.Index+1] {
		if !within(x.Location, statement) {
			continue
		}
		terms, call := x.Terms.([]*ast.Term)
		if call && !x.IsEquality() {
			for _, operand := range terms[1:] {
				t.walk(e, operand, add)
			}
			if last := terms[len(terms)-1]; x.Generated && x != expr { // the result of a nested call
				if v, ok := last.Value.(ast.Var); ok && t.name(v) == "" {
					if value := e.Plug(last).Value; !isVar(value) {
						add(bound{name: oneLine(string(x.Location.Text), maxText), value: value}, true)
					}
				}
			}
			continue
		}
		t.walk(e, x, add)
	}
	return out
}

// walk adds the references and variables in x. It skips closures, whose variables are not bound here.
func (t *tracer) walk(e *topdown.Event, x any, add func(bound, bool)) {
	ast.NewGenericVisitor(func(n any) bool {
		switch n := n.(type) {
		case *ast.Every:
			t.walk(e, n.Domain, add)
			return true
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, ast.Call:
			return true
		case ast.Ref:
			add(t.reference(e, n))
			for _, term := range n[1:] {
				t.walk(e, term, add)
			}
			return true
		case ast.Var:
			if name := t.name(n); name != "" {
				value := e.Plug(ast.NewTerm(n)).Value
				add(bound{name: name, value: value}, !isVar(value))
			}
		}
		return false
	}).Walk(x)
}

// reference returns a reference to input, data or a variable; false if an element of it has no value yet, as in input.to[_].
func (t *tracer) reference(e *topdown.Event, ref ast.Ref) (bound, bool) {
	shown, ground := make(ast.Ref, len(ref)), make(ast.Ref, len(ref))
	for i, term := range ref {
		shown[i], ground[i] = term, term
		v, ok := term.Value.(ast.Var)
		if i > 0 && ok {
			ground[i] = e.Plug(term)
			if isVar(ground[i].Value) {
				return bound{}, false
			}
		}
		if ok {
			if name := t.name(v); name != "" {
				shown[i] = ast.VarTerm(name)
			} else if i > 0 {
				shown[i] = ground[i]
			}
		}
	}
	b := bound{name: oneLine(shown.String(), maxText), ref: ground}
	head := ref[0].Value
	if head.Compare(ast.DefaultRootDocument.Value) == 0 || head.Compare(ast.InputRootDocument.Value) == 0 {
		return b, true
	}
	value := e.Plug(ref[0]).Value
	if v, ok := head.(ast.Var); !ok || t.name(v) == "" || isVar(value) {
		return bound{}, false
	}
	b.ref = nil
	if v, err := value.Find(ground[1:]); err == nil {
		b.value = v
	}
	return b, true
}

// name returns the name of a variable in the source; "" for a variable of the compiler, data and input.
func (t *tracer) name(v ast.Var) string {
	for range 8 { // in closures they are rewritten more than once
		next, ok := t.names[v]
		if !ok {
			break
		}
		v = next
	}
	if v.IsGenerated() || v.IsWildcard() || strings.HasPrefix(string(v), "__local") || v == "data" || v == "input" {
		return ""
	}
	return string(v)
}

func isVar(v ast.Value) bool { _, ok := v.(ast.Var); return ok }

// within reports whether one location lies inside another.
func within(inner, outer *ast.Location) bool {
	return inner != nil && outer != nil && inner.Offset >= outer.Offset && inner.Offset+len(inner.Text) <= outer.Offset+len(outer.Text)
}

// statementOf returns the location of the statement that expr is part of. The compiler moves nested calls and references out of a
// statement into expressions of their own, which keep their locations.
func statementOf(body ast.Body, expr *ast.Expr) *ast.Location {
	out := expr.Location
	for _, x := range body {
		if within(out, x.Location) {
			out = x.Location
		}
	}
	return out
}

// statements returns the statements of a body in the order in which their evaluation ends, each with the index of its last
// expression.
func statements(body ast.Body) (places []*ast.Location, last []int) {
	at := map[*ast.Location]int{}
	for i, x := range body {
		place := statementOf(body, x)
		if place == nil {
			continue
		}
		n, ok := at[place]
		if !ok {
			n = len(places)
			at[place] = n
			places, last = append(places, place), append(last, i)
		}
		last[n] = i
	}
	return places, last
}
