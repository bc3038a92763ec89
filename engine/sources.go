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
}

// parse reads every module of the bundle but the tests.
func parse(b *bundle.Bundle, caps *ast.Capabilities) (*sources, []Finding) {
	s := &sources{modules: map[string]*ast.Module{}, raw: map[string][]byte{}}
	var findings []Finding
	for _, m := range b.Modules {
		name := strings.TrimPrefix(m.Path, "/")
		if strings.HasSuffix(name, "_test.rego") {
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

// at makes a finding about a place.
func (s *sources) at(severity Severity, code string, loc *ast.Location, hint, format string, args ...any) Finding {
	f := Finding{Severity: severity, Code: code, Hint: hint, Message: fmt.Sprintf(format, args...)}
	if loc != nil {
		f.File, f.Line, f.Column = strings.TrimPrefix(loc.File, "/"), loc.Row, loc.Col
		f.Text = s.line(f.File, f.Line)
	}
	return f
}

// line n of a file, without indentation and at most 200 octets; "" where it is not known.
func (s *sources) line(file string, n int) string {
	raw := s.raw[file]
	for ; n > 1 && raw != nil; n-- {
		i := bytes.IndexByte(raw, '\n')
		if i < 0 {
			return ""
		}
		raw = raw[i+1:]
	}
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	text := strings.TrimSpace(string(line))
	return cut(text, 200)
}

// compilerFindings translates what OPA says.
func (s *sources) compilerFindings(errs ast.Errors) []Finding {
	var out []Finding
	for _, e := range errs {
		msg, hint := explain(e)
		out = append(out, s.at(Fault, e.Code, e.Location, hint, "%s", msg))
	}
	return out
}

// explain words an error of OPA's compiler for a policy author.
func explain(e *ast.Error) (msg, hint string) {
	msg, _, _ = strings.Cut(e.Message, "\n")
	if name, ok := strings.CutPrefix(msg, "undefined function "); ok {
		if why, bad := denied()[name]; bad {
			return "builtin " + name + " is not allowed: " + why, ""
		}
	}
	d, ok := e.Details.(*ast.RefErrInvalidDetail)
	if !ok && e.Details != nil {
		for _, line := range e.Details.Lines() { // types on both sides, mostly
			hint += "; " + strings.Join(strings.Fields(line), " ")
		}
		return msg, strings.TrimPrefix(hint, "; ")
	}
	if !ok || d.Pos >= len(d.Ref) {
		return msg, ""
	}
	have, ok := d.Ref[d.Pos].Value.(ast.String)
	if !ok {
		return msg, ""
	}
	var names []string
	for _, v := range d.OneOf {
		if str, ok := v.(ast.String); ok {
			names = append(names, string(str))
		}
	}
	prefix := d.Ref[:d.Pos].String()
	msg = fmt.Sprintf("%s has no %q", prefix, string(have))
	if near := nearest(string(have), names); near != "" {
		return msg, fmt.Sprintf("did you mean %s.%s?", prefix, near)
	}
	if len(names) > 0 {
		slices.Sort(names)
		hint = "there are: " + strings.Join(names, ", ")
	}
	return msg, hint
}
