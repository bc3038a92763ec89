// Package yamldoc reads YAML documents that people write by hand. It is strict and reports everything that is wrong with a
// document at once; each finding says where, what and how to mend it.
//
// The syntax is read by go.yaml.in/yaml/v3, as in data documents of bundles. Its own decoder is not used, because that stops
// at the first error and cannot suggest what to write instead. A document is deliberately limited to a subset of YAML: one
// document in a file, no anchors, aliases, merge keys or tags, plain keys. Size and nesting are bounded. The package starts no
// goroutines.
package yamldoc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxNesting bounds the depth of a document, because its readers recurse.
const maxNesting = 64

// secretKey finds a key whose value must not be shown, such as "password", but not "password_file".
var secretKey = regexp.MustCompile(`(?i)(pass(word|wd|phrase)?|secret|token|private_?key)["']?\s*:`)

// Doc is a document that is being read: its root, and what was found wrong so far. One goroutine uses it.
type Doc struct {
	File string

	secret   bool // findings must not quote the document
	lines    []string
	root     *yaml.Node
	findings Findings
}

// ReadFile reads the named file, at most max bytes, and parses it. The error is of type Findings.
func ReadFile(path string, max int) (*Doc, error) {
	data, err := readAll(path, max)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// ReadSecretFile is ReadFile for a file that holds secrets: no finding quotes it.
func ReadSecretFile(path string, max int) (*Doc, error) {
	data, err := readAll(path, max)
	if err != nil {
		return nil, err
	}
	return ParseSecret(path, data)
}

func readAll(path string, max int) ([]byte, error) {
	fail := func(problem, mend string) ([]byte, error) {
		return nil, Findings{{File: path, Problem: problem, Mend: mend}}
	}
	f, err := os.Open(path)
	if err != nil {
		return fail(reason(err), "give the path of a file that this user may read")
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fail(reason(err), "")
	}
	if !info.Mode().IsRegular() {
		return fail("is not a regular file", "give the path of a YAML file")
	}
	if info.Size() > int64(max) {
		return fail(fmt.Sprintf("has %d octets, at most %d are read", info.Size(), max), "split it or make it shorter")
	}
	// The file may grow while it is read; one byte too many is enough to notice.
	data, err := io.ReadAll(io.LimitReader(f, int64(max)+1))
	if err != nil {
		return fail(reason(err), "")
	}
	if len(data) > max {
		return fail(fmt.Sprintf("has more than %d octets", max), "split it or make it shorter")
	}
	return data, nil
}

// Parse reads data. name is the file name in findings. The error is of type Findings, and Doc is nil then.
func Parse(name string, data []byte) (*Doc, error) { return parse(name, data, false) }

// ParseSecret is Parse for data that hold secrets: no finding quotes them.
func ParseSecret(name string, data []byte) (*Doc, error) { return parse(name, data, true) }

func parse(name string, data []byte, secret bool) (*Doc, error) {
	d := &Doc{File: name, secret: secret, lines: strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n")}
	if f, bad := d.precheck(); bad {
		return nil, Findings{f}
	}
	documents := yaml.NewDecoder(bytes.NewReader(data))
	for {
		document, err := Next(documents)
		switch {
		case errors.Is(err, io.EOF):
			if d.root != nil {
				d.findDuplicates(d.root)
			}
			if found := d.Findings(); found != nil {
				return nil, found
			}
			return d, nil
		case err != nil:
			return nil, Findings{d.syntax(err)}
		case RootOf(document) == nil:
		case d.root != nil:
			return nil, Findings{d.Finding(posOf(RootOf(document)), "", "a second document begins here", "keep one document in a file: take out the line ---")}
		default:
			d.root = RootOf(document)
		}
	}
}

// Next returns the node of the next document, of kind yaml.DocumentNode. After the last document the error is io.EOF. A panic
// of the parser is returned as an error, so that no file can end the program.
func Next(d *yaml.Decoder) (document *yaml.Node, err error) {
	defer func() {
		if p := recover(); p != nil {
			document, err = nil, fmt.Errorf("yaml: %v", p)
		}
	}()
	document = new(yaml.Node)
	if err := d.Decode(document); err != nil {
		return nil, err
	}
	return document, nil
}

// RootOf returns the outermost value of a document; nil where the document is empty.
func RootOf(document *yaml.Node) *yaml.Node {
	if len(document.Content) != 1 {
		return nil
	}
	root := document.Content[0]
	if root.Kind == yaml.ScalarNode && root.Value == "" && root.Style == 0 && root.Anchor == "" {
		return nil
	}
	return root
}

// SyntaxError splits an error of the YAML parser into its line, from 1, and its text.
func SyntaxError(err error) (line int, text string) {
	text = strings.TrimPrefix(err.Error(), "yaml: ")
	if m := lineOfError.FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1])
		return line, text[len(m[0]):]
	}
	return 1, text // the parser leaves out the first line's number
}

var lineOfError = regexp.MustCompile(`^line (\d+): `)

// Root is the outermost node; it is Empty where the document is.
func (d *Doc) Root() Node { return Node{doc: d, node: d.root} }

// Findings returns what was found so far, in the order of the document; nil where there is nothing.
func (d *Doc) Findings() Findings {
	if len(d.findings) == 0 {
		return nil
	}
	return d.findings.Sorted()
}

// precheck refuses what the parser should not see, or what it reports in words that users do not understand: text that is not UTF-8,
// control characters, tabs as indentation, nesting without bound.
func (d *Doc) precheck() (Finding, bool) {
	depth := 0
	for i, line := range d.lines {
		at := func(col int, problem, mend string) (Finding, bool) {
			return d.Finding(Pos{i + 1, col + 1}, "", problem, mend), true
		}
		if !utf8.ValidString(line) {
			return at(0, "the line is not UTF-8", "save the file as UTF-8")
		}
		if strings.HasPrefix(strings.TrimLeft(line, " "), "\t") && strings.TrimSpace(line) != "" {
			return at(0, "the line begins with a tab", "indent with spaces")
		}
		// "- - - -" opens a list for each dash.
		rest, dashes := strings.TrimLeft(line, " "), 0
		for len(rest) > 1 && (rest[0] == '-' || rest[0] == '?' || rest[0] == ':') && rest[1] == ' ' {
			rest = strings.TrimLeft(rest[1:], " ")
			if dashes++; dashes > maxNesting {
				return at(0, "nested too deeply", fmt.Sprintf("use at most %d levels", maxNesting))
			}
		}
		if indent := len(line) - len(strings.TrimLeft(line, " ")); indent > 40*maxNesting {
			return at(0, "indented too deeply", fmt.Sprintf("use at most %d levels", maxNesting))
		}
		col := 0
		for _, r := range line {
			switch {
			case r == '[' || r == '{':
				if depth++; depth > maxNesting {
					return at(col, "nested too deeply", fmt.Sprintf("use at most %d levels", maxNesting))
				}
			case (r == ']' || r == '}') && depth > 0:
				depth--
			case r < ' ' && r != '\t', r == 0x7f, r == 0xfeff && (i > 0 || col > 0), r >= 0x80 && r < 0xa0:
				return at(col, fmt.Sprintf("control character U+%04X", r), "take it out")
			}
			col++
		}
	}
	return Finding{}, false
}

// findDuplicates records each key that a mapping has twice.
func (d *Doc) findDuplicates(n *yaml.Node) {
	if n.Kind == yaml.MappingNode {
		seen := make(map[string]bool, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode {
				continue
			}
			if seen[key.Value] {
				d.Add(posOf(key), "", "this key stands here a second time", "keep one of the two")
			}
			seen[key.Value] = true
		}
	}
	for _, below := range n.Content {
		d.findDuplicates(below)
	}
}

// syntax turns an error of the parser into a finding. The parser knows the line only; the column is that of the line's first
// character.
func (d *Doc) syntax(err error) Finding {
	line, text := SyntaxError(err)
	line = min(line, len(d.lines))
	source := d.lines[line-1]
	column := 1 + len(source) - len(strings.TrimLeft(source, " "))
	problem := "cannot be read as YAML: " + firstLine(text)
	if d.secret || mayHoldLogin(text) { // the parser quotes
		problem = "cannot be read as YAML"
	}
	return d.Finding(Pos{line, column}, "", problem, "mend the syntax here or in the line before")
}

// Finding makes a finding about a place in the document without recording it.
func (d *Doc) Finding(pos Pos, key, problem, mend string) Finding {
	f := Finding{File: d.File, Line: pos.Line, Column: pos.Column, Key: key, Problem: problem, Mend: mend}
	if !d.secret && pos.Line >= 1 && pos.Line <= len(d.lines) {
		f.Source = clip(d.lines[pos.Line-1], 160)
		// Some people write a password where the path of a file belongs.
		if mayHoldLogin(f.Source) || secretKey.MatchString(f.Source) {
			f.Source = ""
		}
	}
	return f
}

// mayHoldLogin reports whether s may be a URL with a password in it.
func mayHoldLogin(s string) bool { return strings.Contains(s, "@") && strings.Contains(s, "://") }

// Add records a finding about a place in the document.
func (d *Doc) Add(pos Pos, key, problem, mend string) {
	d.findings = append(d.findings, d.Finding(pos, key, problem, mend))
}

// reason is an error of the file system without the path, which the finding has already.
func reason(err error) string {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return "cannot be read: " + pe.Err.Error()
	}
	return "cannot be read: " + err.Error()
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return clip(s, 160)
}

func clip(s string, max int) string {
	if len(s) <= max {
		return s
	}
	for max > 0 && !utf8.RuneStart(s[max]) {
		max--
	}
	return s[:max] + "..."
}
