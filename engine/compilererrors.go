package engine

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// compilerFindings translates what OPA says.
func (s *sources) compilerFindings(errs ast.Errors) []Finding {
	var out []Finding
	for _, e := range errs {
		msg, hint := s.explain(e)
		out = append(out, s.at(e.Code, s.place(e), hint, "%s", msg))
	}
	return out
}

// placeInMessage is where OPA names the rule in its words, and the package in its location.
var placeInMessage = regexp.MustCompile(` found at (\S+?):(\d+)`)

// place of an error, as near to the mistake as OPA tells.
func (s *sources) place(e *ast.Error) *ast.Location {
	m := placeInMessage.FindStringSubmatch(e.Message)
	if m == nil || e.Location == nil {
		return e.Location
	}
	row, err := strconv.Atoi(m[2])
	if err != nil {
		return e.Location
	}
	return &ast.Location{File: m[1], Row: row, Col: 1}
}

// explain words an error of OPA's compiler for a policy author.
func (s *sources) explain(e *ast.Error) (msg, hint string) {
	msg, _, _ = strings.Cut(e.Message, "\n")
	if name, ok := strings.CutPrefix(msg, "undefined function "); ok {
		return s.explainFunction(name, e.Location)
	}
	if d, ok := e.Details.(*ast.RefErrInvalidDetail); ok {
		return explainRef(msg, d)
	}
	if e.Details != nil {
		var details []string
		for _, line := range e.Details.Lines() { // types on both sides, mostly
			details = append(details, strings.ReplaceAll(strings.Join(strings.Fields(line), " "), " : ", ": "))
		}
		hint = strings.Join(details, "; ")
		if msg == "match error" {
			msg = "the two sides can never be equal"
		}
		return msg, hint
	}
	switch {
	case strings.HasPrefix(msg, "conflicting rule for data path"):
		hint = "rename the rule, or take the path out of the data files: data and rules may not meet"
	case strings.HasPrefix(msg, "conflicting rules"):
		hint = "rules of one name are all of one kind: all `contains`, all functions of so many arguments, or all values"
	case strings.HasPrefix(msg, "multiple default rules"):
		hint = "keep one of them"
	case strings.HasPrefix(msg, "undefined schema"):
		hint = "the input's is schema.input; it is used without being asked for"
	case e.Code == ast.UnsafeVarErr:
		hint = "is it misspelt? Give it a value in an expression that is not negated, or with `some`"
	case e.Code == ast.RecursionErr:
		hint = "a rule may not depend on itself, not even by way of others"
	}
	return msg, hint
}

// explainFunction words a call of what is no function here.
func (s *sources) explainFunction(name string, loc *ast.Location) (msg, hint string) {
	if why, bad := denied()[name]; bad {
		return "builtin " + name + " is not allowed: " + why,
			"or allow it in postern.yaml, at the cost of decisions that cannot be replayed: policy.allow_builtins: [" + name + "]"
	}
	names := slices.Collect(maps.Keys(ast.BuiltinMap))
	if !strings.HasPrefix(name, "data.") && loc != nil {
		if m := s.modules[strings.TrimPrefix(loc.File, "/")]; m != nil {
			names = append(names, s.functions(m.Package.Path.String(), "")...)
		}
	} else {
		names = nil
		for pkg := range s.rules {
			names = append(names, s.functions(pkg, pkg+".")...)
		}
	}
	return "there is no function " + name, suggest(name, names)
}

// functions of a package, each with a prefix.
func (s *sources) functions(pkg, prefix string) []string {
	var names []string
	for name, rules := range s.rules[pkg] {
		if len(rules[0].Head.Args) > 0 {
			names = append(names, prefix+name)
		}
	}
	return names
}

// explainRef words a reference to what its type does not have.
func explainRef(msg string, d *ast.RefErrInvalidDetail) (string, string) {
	if d.Pos >= len(d.Ref) {
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
	return fmt.Sprintf("%s has no %q", prefix, string(have)), oneOf(string(have), prefix+".", names)
}
