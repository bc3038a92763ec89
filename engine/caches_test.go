package engine

import (
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// someRef is a reference out of few, of all kinds of steps, new memory each time.
func someRef(r *rand.Rand) ast.Ref {
	step := func() *ast.Term {
		switch r.IntN(8) {
		case 0:
			return ast.IntNumberTerm(r.IntN(3))
		case 1:
			return ast.BooleanTerm(r.IntN(2) == 0)
		case 2:
			return ast.ObjectTerm([2]*ast.Term{ast.StringTerm("k"), ast.IntNumberTerm(r.IntN(2))})
		case 3:
			return ast.ArrayTerm(ast.StringTerm(fmt.Sprint(r.IntN(2))))
		case 4:
			return ast.NewTerm(ast.Ref{ast.DefaultRootDocument, ast.StringTerm(fmt.Sprint("f", r.IntN(2)))})
		case 5:
			return ast.NumberTerm("1.0") // equal to 1
		}
		return ast.StringTerm(fmt.Sprint("s", r.IntN(4)))
	}
	ref := ast.Ref{ast.DefaultRootDocument}
	for range r.IntN(5) {
		ref = append(ref, step())
	}
	return ref
}

// keySet of references; which of two equal numbers stands in one does not matter.
func keySet(refs []ast.Ref) map[string]bool {
	set := map[string]bool{}
	for _, ref := range refs {
		set[strings.ReplaceAll(ref.String(), "1.0", "1")] = true
	}
	return set
}

// TestCachesAsOPA: for random puts and gets, in frames and again after a reset, the answers are those of OPA's own cache.
func TestCachesAsOPA(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	c := newCaches(maphash.MakeSeed())
	for round := range 50 {
		c.reset(nil)
		theirs, depth := topdown.NewVirtualCache(), 0
		for range 2000 {
			ref := someRef(r)
			switch op := r.IntN(20); {
			case op == 0 && depth < 4:
				theirs.Push()
				c.rules.Push()
				depth++
			case op == 1 && depth > 0:
				theirs.Pop()
				c.rules.Pop()
				depth--
			case op < 8:
				if v, undefined := theirs.Get(ref); v != nil || undefined {
					break // an evaluation puts what it has not found
				}
				var value *ast.Term
				if r.IntN(4) > 0 {
					value = ast.IntNumberTerm(r.Int())
				}
				theirs.Put(ref, value)
				c.rules.Put(ref, value)
				for i := range ref { // the memory of a reference is used again
					ref[i] = ast.StringTerm("reused")
				}
			default:
				want, undefined := theirs.Get(ref)
				got, also := c.rules.Get(ref)
				if want != got || undefined != also {
					t.Fatalf("round %d, %v: %v %v, OPA has %v %v", round, ref, got, also, want, undefined)
				}
			}
		}
		if mine, others := keySet(c.rules.Keys()), keySet(theirs.Keys()); !maps.Equal(mine, others) {
			t.Fatalf("keys %v, OPA has %v", mine, others)
		}
	}
}

// TestCachesForget: nothing of one evaluation is found, or held in memory, after a reset.
func TestCachesForget(t *testing.T) {
	c := newCaches(maphash.MakeSeed())
	for _, n := range []int{10, 2 * maxKept} {
		c.reset(nil)
		for i := range n {
			ref := ast.Ref{ast.DefaultRootDocument, ast.IntNumberTerm(i)}
			c.rules.Put(ref, ast.IntNumberTerm(i))
			c.data.Put(ref, ast.Number(fmt.Sprint(i)))
		}
		last := ast.Ref{ast.DefaultRootDocument, ast.IntNumberTerm(n - 1)}
		if v, _ := c.rules.Get(last); v == nil || c.data.Get(last) == nil {
			t.Fatalf("%d: the last is not found", n)
		}
		c.reset(nil)
		if v, undefined := c.rules.Get(last); v != nil || undefined || c.data.Get(last) != nil {
			t.Errorf("%d: found after the reset", n)
		}
		for _, term := range c.rules.table.terms[:cap(c.rules.table.terms)] {
			if term != nil {
				t.Fatalf("%d: a key is still held", n)
			}
		}
		for _, e := range c.rules.table.entries[:cap(c.rules.table.entries)] {
			if e.value.value != nil {
				t.Fatalf("%d: a value is still held", n)
			}
		}
		if n > maxKept && cap(c.rules.table.entries) != 0 {
			t.Errorf("the memory of %d entries is kept", n)
		}
	}
}

// TestCachesWith: what a rule is under `with` is not what it is without.
func TestCachesWith(t *testing.T) {
	p := compile(t, nil, `package postern.message
reject contains sprintf("%v %v %v %v", [a, b, c, d]) if {
	a := _login
	b := _login with input.auth.login as "other"
	c := data.lists.x with data.lists.x as 2
	d := [_login, data.lists.x]
}
_login := _of(input.auth.login)
_of(s) := concat("", [s, "!"])`)
	p, err := p.WithData(t.Context(), map[string]any{"lists": map[string]any{"x": 1}}, "r")
	if err != nil {
		t.Fatal(err)
	}
	tr := submission(t)
	want := fmt.Sprintf(`%s! other! 2 ["%s!", 1]`, tr.Auth.Login, tr.Auth.Login)
	for range 3 {
		if d := decide(p, tr); len(d.Reasons) != 1 || d.Reasons[0].Rule != want {
			t.Errorf("%v %v, want %s", d.Reasons, d.Err, want)
		}
	}
}
