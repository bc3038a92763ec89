package lint

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
)

// sources holds the modules of a bundle as they were written, before the compiler rewrites them.
type sources struct {
	modules map[string]*ast.Module
	raw     map[string][]byte
	names   []string // of modules, sorted
	hash    string   // of names and contents

	lines map[string][][]byte               // of the files that have a finding
	rules map[string]map[string][]*ast.Rule // by package, as a reference, and by name
	facts *contract.Fact
	// params are the origins of the arguments of functions, by rule. They are known where all calls agree.
	params map[*ast.Rule][]origin
	total  map[*ast.Rule]truth // whether a rule always has a value; filled in on demand
}

// isTest says whether a module holds tests, by the name of its file.
func isTest(name string) bool { return strings.HasSuffix(name, "_test.rego") }

// index fills in rules.
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

// at makes a finding about a location.
func (s *sources) at(code string, loc *ast.Location, hint, format string, args ...any) contract.Finding {
	rule, _ := contract.RuleOf(code)
	f := contract.Finding{Severity: rule.Severity, Code: code, Hint: hint, Message: fmt.Sprintf(format, args...)}
	if loc != nil {
		f.File, f.Line, f.Column = strings.TrimPrefix(loc.File, "/"), loc.Row, loc.Col
		f.Text = s.line(f.File, f.Line)
	}
	return f
}

// quote puts the source line into findings that have a line number and no text.
func (s *sources) quote(findings []contract.Finding) []contract.Finding {
	for i := range findings {
		if f := &findings[i]; f.Text == "" && f.Line > 0 {
			f.Text = s.line(f.File, f.Line)
		}
	}
	return findings
}

// line returns line n of a file without white space at its end, at most 200 bytes long; "" if it is not known.
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

// truth is a boolean that is perhaps not known yet.
type truth struct{ known, value bool }

// origin says where the value of a variable comes from.
type origin struct {
	path []string       // of the fact in input, for messages
	fact *contract.Fact // nil: no fact, or not known
	data bool           // a data document, in which anything may be missing
}
