package lint

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
)

// sources are the modules of a bundle as they were written, before the compiler rewrites them.
type sources struct {
	modules map[string]*ast.Module
	raw     map[string][]byte
	names   []string // of modules, sorted
	hash    string   // of names and contents

	lines map[string][][]byte               // of the files that a finding was about
	rules map[string]map[string][]*ast.Rule // by package, as a reference, and name
	facts *contract.Fact
	// params are the origins of the arguments of functions, by rule, where all calls agree.
	params map[*ast.Rule][]origin
	total  map[*ast.Rule]truth // whether a rule always has a value, as far as lint has asked
}

// isTest says whether a module holds tests, by the name of its file.
func isTest(name string) bool { return strings.HasSuffix(name, "_test.rego") }

// index finds rules by package and name.
func (s *sources) index() {
	s.rules = map[string]map[string][]*ast.Rule{}
	for _, name := range s.names {
		m := s.modules[name]
		pkg := m.Package.Path.String()
		if s.rules[pkg] == nil {
			s.rules[pkg] = map[string][]*ast.Rule{}
		}
		for _, r := range m.Rules {
			head := headName(r.Head)
			s.rules[pkg][head] = append(s.rules[pkg][head], r)
		}
	}
}

// at makes a finding about a place.
func (s *sources) at(code string, loc *ast.Location, hint, format string, args ...any) contract.Finding {
	rule, _ := contract.RuleOf(code)
	f := contract.Finding{Severity: rule.Severity, Code: code, Hint: hint, Message: fmt.Sprintf(format, args...)}
	if loc != nil {
		f.File, f.Line, f.Column = strings.TrimPrefix(loc.File, "/"), loc.Row, loc.Col
		f.Text = s.line(f.File, f.Line)
	}
	return f
}

// quote puts the source line into findings that have none.
func (s *sources) quote(findings []contract.Finding) []contract.Finding {
	for i := range findings {
		if f := &findings[i]; f.Text == "" && f.Line > 0 {
			f.Text = s.line(f.File, f.Line)
		}
	}
	return findings
}

// line n of a file, without white space at its end and at most 200 octets; "" where it is not known.
func (s *sources) line(file string, n int) string {
	lines, ok := s.lines[file]
	if !ok {
		lines = bytes.Split(s.raw[file], []byte("\n"))
		if s.lines == nil {
			s.lines = map[string][][]byte{}
		}
		s.lines[file] = lines
	}
	if n < 1 || n > len(lines) {
		return ""
	}
	return strings.TrimRight(contract.Cut(strings.ToValidUTF8(string(lines[n-1]), "\uFFFD"), 200), " \t\r")
}

// truth is a memo of one.
type truth struct{ known, value bool }

// origin is where a variable's value comes from.
type origin struct {
	path []string       // of the fact in input, for messages
	fact *contract.Fact // nil: none, or it cannot be told
	data bool           // a data document: anything may be missing in it
}
