package yamldoc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func TestReaders(t *testing.T) {
	const text = `
name: postern
size: 25MiB
wait: 1m30s
count: 1_000
on: true
list: [a, b]
one: a
deep:
  inner: x
none:
`
	doc, err := Parse("x.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	add := func(s string, ok bool) {
		if ok {
			got = append(got, s)
		}
	}
	list := func(n Node) { n.List(true, func(_ int, v Node) { add(v.Text(10)) }) }
	doc.Root().Map(Keys{
		"name":  func(n Node) { add(n.Text(10)) },
		"size":  func(n Node) { v, ok := n.Size(1, 1<<30); add("size", ok && v == 25<<20) },
		"wait":  func(n Node) { v, ok := n.Duration(0, time.Hour); add("wait", ok && v == 90*time.Second) },
		"count": func(n Node) { v, ok := n.Int(0, 1000); add("count", ok && v == 1000) },
		"on":    func(n Node) { v, ok := n.Bool(); add("on", ok && v) },
		"list":  list,
		"one":   list,
		"deep":  func(n Node) { n.Map(Keys{"inner": func(n Node) { add(n.Key(), n.Pos() == Pos{10, 10}) }}) },
		"none":  func(n Node) { add("none", n.Empty() && n.Pos() == Pos{11, 1}) },
	})
	if f := doc.Findings(); f != nil {
		t.Error(f)
	}
	want := "postern size wait count on a b a deep.inner none"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("read %q, want %q", s, want)
	}
}

func TestFindings(t *testing.T) {
	cases := []struct{ name, text, want string }{
		{"unknown key", "listen_tsl: x\n", `x:1:1: unknown key "listen_tsl"; did you mean listen_tls?`},
		{"unknown far key", "zebra: x\n", `x:1:1: unknown key "zebra"; known here: count, listen, listen_tls`},
		{"not a number", "count: many\n", `x:1:8: count: "many" does not fit here; write a whole number from 0 to 9`},
		{"out of range", "count: 12\n", `x:1:8: count: 12 is out of range; write a number from 0 to 9`},
		{"no value", "count:\n", `x:1:1: count: has no value; write a whole number from 0 to 9, or take the key out`},
		{"not a map", "- a\n", `x:1:1: a list does not fit here; write a mapping (key: value)`},
		{"alias", "listen: &a x\n", `x:1:9: listen: anchors (&), aliases (*) and tags (!) are not read here; write the value out, in quotes if it begins with such a character`},
		{"merge key", "<<: {a: 1}\n", `x:1:1: this is no plain key; write a plain word before the colon; anchors, merges and tags are not read`},
		{"twice", "count: 1\ncount: 2\n", `x:2:1: this key stands here a second time; keep one of the two`},
		{"two documents", "count: 1\n---\ncount: 2\n", `x:3:1: a second document begins here; keep one document in a file: take out the line ---`},
		{"tab", "listen:\n\tx: y\n", `x:2:1: the line begins with a tab; indent with spaces`},
		{"control", "listen: a\x01b\n", `x:1:10: control character U+0001; take it out`},
		{"latin1", "listen: \xe9\n", `x:1:1: the line is not UTF-8; save the file as UTF-8`},
		{"deep flow", strings.Repeat("[", 100000), `x:1:65: nested too deeply; use at most 64 levels`},
		{"deep block", strings.Repeat("- ", 100000), `x:1:1: nested too deeply; use at most 64 levels`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := read(c.text)
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func read(text string) error {
	doc, err := Parse("x", []byte(text))
	if err != nil {
		return err
	}
	doc.Root().Map(Keys{
		"listen":     func(n Node) { n.Text(10) },
		"listen_tls": func(n Node) { n.Text(10) },
		"count":      func(n Node) { n.Int(0, 9) },
	})
	return doc.Findings().Err()
}

func TestDetail(t *testing.T) {
	f := Finding{File: "x", Line: 3, Column: 9, Problem: "wrong", Source: "  a:    b"}
	want := "x:3:9: wrong\n    3 |   a:    b\n      |         ^"
	if f.Detail() != want {
		t.Errorf("got\n%s\nwant\n%s", f.Detail(), want)
	}
}

func TestSecretsStayOut(t *testing.T) {
	doc, err := Parse("x", []byte("a: smtp://u:hunter2@host\nb: hunter2\n"))
	if err != nil {
		t.Fatal(err)
	}
	doc.secret = true
	doc.Root().Each(func(_ string, n Node) { n.Int(0, 1) })
	doc.secret = false
	doc.Add(Pos{1, 1}, "a", "bad URL", "")
	if s := doc.Findings(); len(s) != 3 || strings.Contains(detail(s), "hunter2") {
		t.Errorf("a secret shows, or a finding is missing:\n%s", detail(s))
	}
}

func detail(fs Findings) string {
	s := ""
	for _, f := range fs {
		s += f.Detail() + "\n"
	}
	return s
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big.yaml")
	if err := os.WriteFile(big, []byte("a: 123456\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		max  int
		want string
	}{
		{big, 5, "has 10 octets, at most 5 are read"},
		{dir, 5, "is not a regular file"},
		{filepath.Join(dir, "none"), 5, "cannot be read: no such file or directory"},
	} {
		if _, err := ReadFile(c.path, c.max); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.path, err, c.want)
		}
	}
	if _, err := ReadFile(big, 10); err != nil {
		t.Error(err)
	}
}

// FuzzParse: a document in which nothing is wrong has the mappings, lists and texts that the reader of policy data finds in it, in
// the same order; and what is said about one in which something is stands on one line, within the document.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a: b\n", "a: [1, {b: c}]\n", "- - a\n", "a: |\n  x\n", "? a\n: b\n", "a: &x 1\nb: *x\n", "%YAML 1.2\n---\na\n...\n", "\xef\xbb\xbfa: 1\n",
		"a: 'it''s'\nb: \"\\u00e9\\n\"\n", "a: >\n  x\n  y\n\nb: |-\n  z\n", "a:\n- b\n- c: d\n  e: f\n", "a: b # c\nd: e#f\n", "a:b: c\n", "{a: [b, c], d: {e: f}}\n", "a: x\n  y\n", "a: \"x\n  y\"\n", "a: !!str 1\n", "a: ~\nb:\nc: null\n", "a: 0o17\nb: 1_000\nc: .5\n", "\"a b\": c\n'd': e\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 4096 {
			return
		}
		for _, read := range []func(string, []byte) (*Doc, error){Parse, ParseSecret} {
			doc, err := read("x", []byte(s))
			var found Findings
			if err == nil {
				walk(doc.Root(), 0)
				found = doc.Findings()
			} else if !errors.As(err, &found) || len(found) == 0 || doc != nil {
				t.Fatalf("%T: %v", err, err)
			}
			for _, f := range found {
				if f.Problem == "" || f.Line < 0 || f.Line > 1+strings.Count(s, "\n") || strings.ContainsAny(f.String(), "\r\n") {
					t.Errorf("%q: finding %q", s, f)
				}
				_ = f.Detail()
			}
			var theirs yaml.Node
			if len(found) == 0 && yaml.Unmarshal([]byte(s), &theirs) == nil && len(theirs.Content) == 1 {
				if a, b := asText(doc.Root()), plainly(theirs.Content[0]); a != b {
					t.Fatalf("%q is read as\n%s\nby another reader as\n%s", s, a, b)
				}
			}
		}
	})
}

// asText is a node in a form to compare.
func asText(n Node) string {
	var b strings.Builder
	switch {
	case n.Empty():
		return "null"
	case n.IsMap():
		n.Each(func(name string, v Node) { fmt.Fprintf(&b, "%q: %s, ", name, asText(v)) })
		return "{" + b.String() + "}"
	case n.IsList():
		n.List(false, func(_ int, v Node) { b.WriteString(asText(v) + ", ") })
		return "[" + b.String() + "]"
	}
	text, _ := n.scalar()
	return fmt.Sprintf("%q", strings.TrimSpace(text))
}

// plainly is plain of the other reader's node.
func plainly(n *yaml.Node) string {
	var b strings.Builder
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			fmt.Fprintf(&b, "%q: %s, ", n.Content[i].Value, plainly(n.Content[i+1]))
		}
		return "{" + b.String() + "}"
	case yaml.SequenceNode:
		for _, v := range n.Content {
			b.WriteString(plainly(v) + ", ")
		}
		return "[" + b.String() + "]"
	}
	if n.ShortTag() == "!!null" {
		return "null"
	}
	return fmt.Sprintf("%q", strings.TrimSpace(n.Value))
}

func walk(n Node, depth int) {
	if depth > 100 {
		return
	}
	n.Text(100)
	n.Size(0, 1000)
	n.List(false, func(_ int, v Node) { walk(v, depth+1) })
	n.Each(func(_ string, v Node) { walk(v, depth+1) })
}

// TestLinesOfCRLF: a place in a file with CRLF line ends is that of an editor, behind a quoted text of several lines as well.
func TestLinesOfCRLF(t *testing.T) {
	_, err := Parse("x", []byte("a: \"one\r\n  two\"\r\nb: c: d\r\n"))
	if err == nil || !strings.HasPrefix(err.Error(), "x:3:") {
		t.Errorf("got %v, want line 3", err)
	}
}
