package yamldoc

import (
	"strings"
	"testing"
)

func TestChanged(t *testing.T) {
	const before = "a: 1\nb: {c: [x, y], d: {e: 1}}\nl: [{k: 1}, {k: 2}]\n"
	for after, want := range map[string]string{
		before:                   "",
		"# a comment\n" + before: "",
		"l: [{k: 1}, {k: 2}]\na: \"1\"\nb:\n  d: {e: 1}\n  c: [x, y]\n": "",
		"a: 2\nb: {c: [x, y], d: {e: 1}}\nl: [{k: 1}, {k: 2}]\n":        "a",
		"a: 1\nb: {c: [x, z], d: {e: 2}}\nl: [{k: 1}, {k: 3}]\n":        "b.c[1] b.d.e l[1].k",
		"a: 1\nb: {c: [x], d: {e: 1}}\nl: [{k: 1}, {k: 2}, {k: 3}]\n":   "b.c l",
		"a: 1\nb: {c: x, d: [1]}\nl: [{k: 1}, {k: 2}]\n":                "b.c b.d",
		"a: 1\nl: [{k: 1}, {k: 2}]\nz: {y: {x: 1, w: [1, 2]}}\n":        "b.c b.d.e z.y.w z.y.x",
		"": "a b.c b.d.e l",
	} {
		a, err := Parse("a", []byte(before))
		if err != nil {
			t.Fatal(err)
		}
		b, err := Parse("b", []byte(after))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(Changed(a, b), " "); got != want {
			t.Errorf("%s: %q, want %q", after, got, want)
		}
		if got := strings.Join(Changed(b, a), " "); got != want {
			t.Errorf("%s, the other way round: %q, want %q", after, got, want)
		}
	}
}
