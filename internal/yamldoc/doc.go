// Package yamldoc reads YAML documents that people write by hand, strictly: everything that is wrong is found in one go,
// each finding with its place, what is wrong and how to mend it.
//
// It wraps the parser of goccy/go-yaml for the syntax and leaves its decoder aside, because a decoder stops at its first
// error and cannot say what to write instead. What a document may contain is a subset on purpose: one document, no
// anchors, aliases, merge keys or tags, plain keys. Size and nesting are bounded. No goroutines.
package yamldoc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxNesting bounds the depth of a document; the parser below recurses.
const maxNesting = 64

// secretKey is a key whose value nobody should see: "password", not "password_file".
var secretKey = regexp.MustCompile(`(?i)(pass(word|wd|phrase)?|secret|token|private_?key)["']?\s*:`)

// Doc is a document under reading: its root and what has been found wrong so far. One goroutine uses it.
type Doc struct {
	File string

	secret   bool // keeps what stands in it out of findings
	lines    []string
	root     ast.Node
	findings Findings
}

// ReadFile reads at most max octets of the named file and parses them. The error is Findings.
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
	// The file may grow while it is read; one octet too many is enough to notice.
	data, err := io.ReadAll(io.LimitReader(f, int64(max)+1))
	if err != nil {
		return fail(reason(err), "")
	}
	if len(data) > max {
		return fail(fmt.Sprintf("has more than %d octets", max), "split it or make it shorter")
	}
	return data, nil
}

// Parse reads data; name stands for it in findings. The error is Findings; with it, Doc is nil.
func Parse(name string, data []byte) (*Doc, error) { return parse(name, data, false) }

// ParseSecret is Parse for data that hold secrets: no finding quotes them.
func ParseSecret(name string, data []byte) (*Doc, error) { return parse(name, data, true) }

func parse(name string, data []byte, secret bool) (doc *Doc, err error) {
	d := &Doc{File: name, secret: secret, lines: strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n")}
	defer func() {
		// The parser has panicked on odd input before; a file that makes it do so is a bad file, not a crash.
		if p := recover(); p != nil {
			doc, err = nil, Findings{{File: name, Problem: "cannot be read as YAML", Mend: "mend its syntax"}}
		}
	}()
	if f, bad := d.precheck(); bad {
		return nil, Findings{f}
	}
	// The parser counts a CRLF in a quoted text as two lines.
	file, perr := parser.ParseBytes(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")), 0)
	if perr != nil {
		return nil, Findings{d.syntax(perr)}
	}
	for _, each := range file.Docs {
		if each.Body == nil {
			continue
		}
		if d.root != nil {
			f := d.Finding(posOf(each.Body), "", "a second document begins here", "keep one document in a file: take out the line ---")
			return nil, Findings{f}
		}
		d.root = each.Body
	}
	return d, nil
}

// Root is the outermost node; of an empty document it is Empty.
func (d *Doc) Root() Node { return Node{doc: d, node: d.root} }

// Findings of all reading so far, in the order of the document; nil when there is none.
func (d *Doc) Findings() Findings {
	if len(d.findings) == 0 {
		return nil
	}
	return d.findings.Sorted()
}

// precheck refuses what the parser should not see: text that is not UTF-8, control characters, tabs as indentation (whose
// error nobody understands), nesting without bound.
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
		// "- - - -" opens a list each.
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

// syntax turns an error of the parser into a finding.
func (d *Doc) syntax(err error) Finding {
	problem := func(what string) string {
		if d.secret || mayHoldLogin(what) { // the parser quotes
			return "cannot be read as YAML"
		}
		return "cannot be read as YAML: " + firstLine(what)
	}
	var located interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if !errors.As(err, &located) {
		return d.Finding(Pos{}, "", problem(err.Error()), "mend its syntax")
	}
	pos := Pos{}
	if tk := located.GetToken(); tk != nil && tk.Position != nil {
		pos = Pos{tk.Position.Line, tk.Position.Column}
	}
	message := located.GetMessage()
	if strings.Contains(message, "already defined") {
		return d.Finding(pos, "", "this key stands here a second time", "keep one of the two")
	}
	return d.Finding(pos, "", problem(message), "mend the syntax here or in the line before")
}

// Finding makes a finding about a place of the document without recording it.
func (d *Doc) Finding(pos Pos, key, problem, mend string) Finding {
	f := Finding{File: d.File, Line: pos.Line, Column: pos.Column, Key: key, Problem: problem, Mend: mend}
	if !d.secret && pos.Line >= 1 && pos.Line <= len(d.lines) {
		f.Source = clip(d.lines[pos.Line-1], 160)
		// A URL may carry a password, and people write passwords where only the path of a file belongs.
		if mayHoldLogin(f.Source) || secretKey.MatchString(f.Source) {
			f.Source = ""
		}
	}
	return f
}

// mayHoldLogin: a URL may carry a password.
func mayHoldLogin(s string) bool { return strings.Contains(s, "@") && strings.Contains(s, "://") }

// Add records a finding at a place of the document.
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
