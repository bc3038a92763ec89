package engine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
)

// sources are the modules of a bundle as they were written, before the compiler rewrites them.
type sources struct {
	modules map[string]*ast.Module
	raw     map[string][]byte
	names   []string // of modules, sorted
	hash    string   // of names and contents

	lines map[string][][]byte               // of the files that a finding was about
	rules map[string]map[string][]*ast.Rule // by package, as a reference, and name
	facts *fact
	// params are the origins of the arguments of functions, by rule, where all calls agree.
	params map[*ast.Rule][]origin
	total  map[*ast.Rule]truth // whether a rule always has a value, as far as lint has asked
}

// parse reads every module of the bundle but the tests.
func parse(b *bundle.Bundle, caps *ast.Capabilities) (*sources, []Finding) {
	return parseModules(b, caps, func(name string) bool { return !isTest(name) })
}

// isTest says whether a module holds tests, by the name of its file.
func isTest(name string) bool { return strings.HasSuffix(name, "_test.rego") }

// parseModules reads the modules whose name is wanted.
func parseModules(b *bundle.Bundle, caps *ast.Capabilities, wanted func(name string) bool) (*sources, []Finding) {
	s := &sources{modules: map[string]*ast.Module{}, raw: map[string][]byte{}, facts: contract(),
		total: map[*ast.Rule]truth{}, params: map[*ast.Rule][]origin{}}
	var findings []Finding
	for _, m := range b.Modules {
		name := strings.TrimPrefix(m.Path, "/")
		if !wanted(name) {
			continue
		}
		s.raw[name] = m.Raw
		parsed := m.Parsed
		if parsed == nil {
			var err error
			parsed, err = ast.ParseModuleWithOpts(name, string(m.Raw),
				ast.ParserOptions{ProcessAnnotation: true, Capabilities: caps, RegoVersion: ast.RegoV1})
			if err != nil {
				var errs ast.Errors
				if !errors.As(err, &errs) {
					errs = ast.Errors{ast.NewError(ast.ParseErr, &ast.Location{File: name}, "%s", err)}
				}
				findings = append(findings, s.compilerFindings(errs)...)
				continue
			}
			if parsed == nil { // only comments
				continue
			}
		}
		s.modules[name] = parsed
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
	s.index()
	s.learnParams()
	h := sha256.New()
	for _, name := range s.names {
		fmt.Fprintf(h, "%q %d\n", name, len(s.raw[name]))
		if raw := s.raw[name]; raw != nil {
			h.Write(raw)
		} else {
			h.Write([]byte(s.modules[name].String()))
		}
	}
	s.hash = hex.EncodeToString(h.Sum(nil))
	return s, findings
}

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
func (s *sources) at(code string, loc *ast.Location, hint, format string, args ...any) Finding {
	rule, _ := ruleOf(code)
	f := Finding{Severity: rule.Severity, Code: code, Hint: hint, Message: fmt.Sprintf(format, args...)}
	if loc != nil {
		f.File, f.Line, f.Column = strings.TrimPrefix(loc.File, "/"), loc.Row, loc.Col
		f.Text = s.line(f.File, f.Line)
	}
	return f
}

// quote puts the source line into findings that have none.
func (s *sources) quote(findings []Finding) []Finding {
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
	return strings.TrimRight(cut(strings.ToValidUTF8(string(lines[n-1]), "\uFFFD"), 200), " \t\r")
}
