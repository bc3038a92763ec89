package yamldoc

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// Node is one value in a Doc. Its readers record a finding and return false where the value is not what they read. The zero
// value is an absent node.
type Node struct {
	doc  *Doc
	node *yaml.Node
	key  string
	pos  Pos // of the key, for an empty value
}

// Keys says which keys a mapping may have and who reads each.
type Keys map[string]func(Node)

// Key is the dotted path of n: "submission.listen[1]"; "" for the root.
func (n Node) Key() string { return n.key }

// Pos is where n stands.
func (n Node) Pos() Pos {
	if n.node == nil || n.Empty() && n.pos.Line > 0 {
		return n.pos
	}
	return posOf(n.node)
}

// KeyPos is where the key of n stands; zero where n is no value of a mapping.
func (n Node) KeyPos() Pos { return n.pos }

// Empty says that there is no value: nothing written, or null.
func (n Node) Empty() bool {
	return n.node == nil || plain(n.node, yaml.ScalarNode) && n.node.ShortTag() == "!!null"
}

// IsList says that n is a sequence.
func (n Node) IsList() bool { return plain(n.node, yaml.SequenceNode) }

// IsMap says that n is a mapping.
func (n Node) IsMap() bool { return plain(n.node, yaml.MappingNode) }

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
	if !n.IsMap() {
		n.wrong("a mapping (key: value)")
		return false
	}
	for i := 0; i+1 < len(n.node.Content); i += 2 {
		key, value := n.node.Content[i], n.node.Content[i+1]
		pos := posOf(key)
		if !isKey(key) {
			n.doc.Add(pos, n.key, "this is no plain key", "write a plain word before the colon; anchors, merges and tags are not read")
			continue
		}
		f(key.Value, Node{doc: n.doc, node: value, key: join(n.key, n.doc.shown(key.Value)), pos: pos})
	}
	return true
}

// List calls f for every element of a sequence. A single value that is no sequence is read as one of one element where
// single is set.
func (n Node) List(single bool, f func(i int, value Node)) bool {
	if n.Empty() {
		return true
	}
	if !n.IsList() {
		if single {
			f(0, n)
			return true
		}
		n.wrong("a list ([a, b] or lines that begin with -)")
		return false
	}
	for i, v := range n.node.Content {
		f(i, Node{doc: n.doc, node: v, key: element(n.key, i), pos: n.Pos()})
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
	if s, is := n.scalar(); is && n.node.ShortTag() == "!!bool" {
		return strings.EqualFold(s, "true"), true
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
	if n.node != nil && !plain(n.node, n.node.Kind) {
		n.Fail("anchors (&), aliases (*) and tags (!) are not read here", "write the value out, in quotes if it begins with such a character")
		return
	}
	n.Fail(have+" does not fit here", "write "+want)
}

// scalar is the text of a scalar as it was written, unquoted.
func (n Node) scalar() (string, bool) {
	switch {
	case !plain(n.node, yaml.ScalarNode) || n.Empty():
		return "", false
	case n.node.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return strings.TrimSuffix(n.node.Value, "\n"), true
	}
	return n.node.Value, true
}

// plain reports whether n is a node of a kind, without an anchor or a tag. An alias is never plain.
func plain(n *yaml.Node, kind yaml.Kind) bool {
	return n != nil && n.Kind == kind && kind != yaml.AliasNode && n.Anchor == "" && n.Style&yaml.TaggedStyle == 0
}

// isKey reports whether n may be the key of a mapping.
func isKey(n *yaml.Node) bool {
	if !plain(n, yaml.ScalarNode) {
		return false
	}
	tag := n.ShortTag()
	return tag != "!!merge" && tag != "!!null"
}

func posOf(n *yaml.Node) Pos { return Pos{n.Line, n.Column} }

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

// element returns the key of a list's value number i.
func element(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }

func quoted(s string) string { return strconv.Quote(clip(s, 60)) }
