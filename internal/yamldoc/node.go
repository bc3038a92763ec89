package yamldoc

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml/ast"
)

// Node is one value in a Doc. Its readers record a finding and return false where the value is not what they read. The zero
// value is an absent node.
type Node struct {
	doc  *Doc
	node ast.Node
	key  string
	pos  Pos // of the key, for an empty value
}

// Keys says which keys a mapping may have and who reads each.
type Keys map[string]func(Node)

// Key is the dotted path of n: "submission.listen[1]"; "" for the root.
func (n Node) Key() string { return n.key }

// Pos is where n stands.
func (n Node) Pos() Pos {
	if n.node == nil {
		return n.pos
	}
	if _, ok := n.node.(*ast.NullNode); ok && n.pos.Line > 0 {
		return n.pos
	}
	return posOf(n.node)
}

// KeyPos is where the key of n stands; zero where n is no value of a mapping.
func (n Node) KeyPos() Pos { return n.pos }

// Empty says that there is no value: nothing written, or null.
func (n Node) Empty() bool {
	if n.node == nil {
		return true
	}
	_, null := n.node.(*ast.NullNode)
	return null
}

// IsList says that n is a sequence.
func (n Node) IsList() bool { _, ok := n.node.(*ast.SequenceNode); return ok }

// IsMap says that n is a mapping.
func (n Node) IsMap() bool { _, ok := mapping(n.node); return ok }

// Fail records that n is wrong.
func (n Node) Fail(problem, mend string) {
	n.doc.Add(n.Pos(), n.key, problem, mend)
}

// Map reads a mapping by keys; an unknown key is a finding with the nearest known one.
func (n Node) Map(keys Keys) bool {
	known := slices.Sorted(maps.Keys(keys))
	return n.Each(func(name string, value Node) {
		if read, ok := keys[name]; ok {
			read(value)
			return
		}
		mend := "known here: " + strings.Join(known, ", ")
		if near := nearest(name, known); near != "" {
			mend = fmt.Sprintf("did you mean %s?", near)
		}
		n.doc.Add(value.pos, n.key, fmt.Sprintf("unknown key %s", quoted(n.doc.shown(name))), mend)
	})
}

// Each calls f for every pair of a mapping, in order. An empty node is a mapping without pairs.
func (n Node) Each(f func(name string, value Node)) bool {
	if n.Empty() {
		return true
	}
	values, ok := mapping(n.node)
	if !ok {
		n.wrong("a mapping (key: value)")
		return false
	}
	for _, v := range values {
		name, plain := keyText(v.Key)
		pos := posOf(v.Key)
		if !plain {
			n.doc.Add(pos, n.key, "this is no plain key", "write a plain word before the colon; anchors, merges and tags are not read")
			continue
		}
		f(name, Node{doc: n.doc, node: v.Value, key: join(n.key, n.doc.shown(name)), pos: pos})
	}
	return true
}

// List calls f for every element of a sequence. A single value that is no sequence is read as one of one element where
// single is set.
func (n Node) List(single bool, f func(i int, value Node)) bool {
	if n.Empty() {
		return true
	}
	seq, ok := n.node.(*ast.SequenceNode)
	if !ok {
		if single {
			f(0, n)
			return true
		}
		n.wrong("a list ([a, b] or lines that begin with -)")
		return false
	}
	for i, v := range seq.Values {
		f(i, Node{doc: n.doc, node: v, key: fmt.Sprintf("%s[%d]", n.key, i), pos: n.Pos()})
	}
	return true
}

// Text reads a string of 1 to max octets without control characters. Numbers and booleans are taken as they are written.
func (n Node) Text(max int) (string, bool) {
	s, ok := n.scalar()
	switch {
	case !ok:
		n.wrong("text")
		return "", false
	case s == "":
		n.Fail("is empty", "write a value, or take the key out")
		return "", false
	case len(s) > max:
		n.Fail(fmt.Sprintf("has %d octets", len(s)), fmt.Sprintf("use at most %d", max))
		return "", false
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		n.Fail("has a line end or a control character in it", "write it on one line")
		return "", false
	}
	return s, true
}

// Int reads a whole number from lo to hi.
func (n Node) Int(lo, hi int) (int, bool) {
	s, ok := n.scalar()
	v, err := strconv.Atoi(strings.ReplaceAll(s, "_", ""))
	if !ok || err != nil {
		n.wrong(fmt.Sprintf("a whole number from %d to %d", lo, hi))
		return 0, false
	}
	if v < lo || v > hi {
		n.Fail(fmt.Sprintf("%d is out of range", v), fmt.Sprintf("write a number from %d to %d", lo, hi))
		return 0, false
	}
	return v, true
}

// Bool reads true or false.
func (n Node) Bool() (value, ok bool) {
	if b, is := n.node.(*ast.BoolNode); is {
		return b.Value, true
	}
	n.wrong("true or false")
	return false, false
}

// Duration reads a time with its unit, such as 100ms, 30s, 5m or 2h.
func (n Node) Duration(lo, hi time.Duration) (time.Duration, bool) {
	s, ok := n.scalar()
	v, err := time.ParseDuration(s)
	if !ok || err != nil {
		n.wrong("a time with its unit: 100ms, 30s, 5m, 2h")
		return 0, false
	}
	if v < lo || v > hi {
		n.Fail(fmt.Sprintf("%s is out of range", s), fmt.Sprintf("write a time from %s to %s", lo, hi))
		return 0, false
	}
	return v, true
}

// Size reads a number of octets, plain or with a unit: 26214400, 25MB, 25MiB.
func (n Node) Size(lo, hi int64) (int64, bool) {
	s, ok := n.scalar()
	v, valid := parseSize(s)
	if !ok || !valid {
		n.wrong("a number of octets: 26214400, 25MiB, 25MB")
		return 0, false
	}
	if v < lo || v > hi {
		n.Fail(fmt.Sprintf("%s is out of range", s), fmt.Sprintf("write a size from %d to %d octets", lo, hi))
		return 0, false
	}
	return v, true
}

// Choice reads one of the given words.
func (n Node) Choice(words ...string) (string, bool) {
	s, ok := n.scalar()
	if ok && slices.Contains(words, s) {
		return s, true
	}
	want := "one of " + strings.Join(words, ", ")
	if near := nearest(s, words); ok && near != "" {
		want += fmt.Sprintf("; did you mean %s?", near)
	}
	n.wrong(want)
	return "", false
}

// wrong records what n is and what it should be.
func (n Node) wrong(want string) {
	have := "this value"
	switch s, ok := n.scalar(); {
	case n.Empty():
		n.Fail("has no value", "write "+want+", or take the key out")
		return
	case n.IsMap():
		have = "a mapping"
	case n.IsList():
		have = "a list"
	case ok && !n.doc.secret:
		have = quoted(s)
	}
	switch n.node.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		n.Fail("anchors (&), aliases (*) and tags (!) are not read here", "write the value out, in quotes if it begins with such a character")
		return
	}
	n.Fail(have+" does not fit here", "write "+want)
}

// scalar is the text of a scalar as it was written, unquoted.
func (n Node) scalar() (string, bool) {
	switch v := n.node.(type) {
	case *ast.StringNode:
		return v.Value, true
	case *ast.LiteralNode:
		return strings.TrimSuffix(v.Value.Value, "\n"), true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return v.GetToken().Value, true
	}
	return "", false
}

// mapping gives the pairs of a mapping node; the parser hands out a lone pair without its mapping.
func mapping(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch v := n.(type) {
	case *ast.MappingNode:
		return v.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{v}, true
	}
	return nil, false
}

func keyText(k ast.MapKeyNode) (string, bool) {
	switch v := k.(type) {
	case *ast.StringNode:
		return v.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return v.GetToken().Value, true
	}
	return "", false
}

// posOf is the place of a node's first token. A mapping's own token is its colon, so its first key is asked instead.
func posOf(n ast.Node) Pos {
	if values, ok := mapping(n); ok {
		if m, is := n.(*ast.MappingNode); !is || !m.IsFlowStyle {
			if len(values) > 0 {
				return posOf(values[0].Key)
			}
		}
	}
	tk := n.GetToken()
	if tk == nil || tk.Position == nil {
		return Pos{}
	}
	return Pos{tk.Position.Line, tk.Position.Column}
}

// shown is a key as findings have it: on one line, cut, and nothing where it may be a piece of a secret. A hash that stands in a
// flow mapping without quotes falls into keys at its commas.
func (d *Doc) shown(name string) string {
	switch {
	case d.secret && strings.ContainsAny(name, "$=/"):
		return "..."
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return quoted(name)
	}
	return clip(name, 100)
}

func join(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "." + name
}

func quoted(s string) string { return strconv.Quote(clip(s, 60)) }
