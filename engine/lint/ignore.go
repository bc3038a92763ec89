package lint

import (
	"bytes"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
)

// ignoreMark begins a comment that silences findings about one line: its own line or, if there is nothing else on that, the next line
// that is not a comment.
//
//	# postern:ignore needs-fact -- unauthenticated mail does not come this way
const ignoreMark = "postern:ignore"

// ignore is a comment that begins with ignoreMark.
type ignore struct {
	loc   *ast.Location
	line  int // whose findings it silences
	codes []string
	used  map[string]bool
}

// ignores returns the comments of all modules, and findings about those that are wrong.
func (s *sources) ignores() (byFile map[string][]*ignore, out []contract.Finding) {
	byFile = map[string][]*ignore{}
	for _, name := range s.names {
		for _, c := range s.modules[name].Comments {
			text, ok := strings.CutPrefix(strings.TrimSpace(string(c.Text)), ignoreMark)
			if !ok {
				continue
			}
			ig := &ignore{loc: c.Location, line: s.governed(name, c.Location), used: map[string]bool{}}
			list, reason, _ := strings.Cut(text, "--")
			for _, code := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
				switch rule, known := contract.RuleOf(code); {
				case !known:
					out = append(out, s.at(contract.CodeBadIgnore, c.Location, contract.OneOf(code, "", ignorable()), "there is no finding %q to ignore", code))
				case !rule.Ignorable:
					out = append(out, s.at(contract.CodeBadIgnore, c.Location, "mend it; only "+strings.Join(ignorable(), ", ")+" can be ignored",
						"%s cannot be ignored: the policy would fail later", code))
				default:
					ig.codes = append(ig.codes, code)
				}
			}
			switch {
			case strings.TrimSpace(list) == "":
				out = append(out, s.at(contract.CodeBadIgnore, c.Location, "write: # postern:ignore CODE -- reason", "the comment does not say what to ignore"))
			case strings.TrimSpace(reason) == "":
				out = append(out, s.at(contract.CodeBadIgnore, c.Location, "write: # postern:ignore "+strings.TrimSpace(list)+" -- reason",
					"the comment does not say why"))
			case len(ig.codes) > 0:
				byFile[name] = append(byFile[name], ig)
			}
		}
	}
	return byFile, out
}

// ignorable returns the codes that can be ignored.
func ignorable() []string {
	var codes []string
	for _, r := range contract.Rules() {
		if r.Ignorable {
			codes = append(codes, r.Code)
		}
	}
	return codes
}

// governed returns the line that a comment is about.
func (s *sources) governed(file string, loc *ast.Location) int {
	if !alone(s.line(file, loc.Row)) {
		return loc.Row
	}
	lines := s.lines[file]
	for n := loc.Row + 1; n <= len(lines); n++ {
		if text := bytes.TrimSpace(lines[n-1]); len(text) > 0 && text[0] != '#' {
			return n
		}
	}
	return loc.Row
}

// alone reports whether there is nothing on a line but a comment.
func alone(line string) bool { return strings.HasPrefix(strings.TrimSpace(line), "#") }

// silence removes the findings that comments ignore. If complete is true, all checks were made, and a comment that ignores nothing is a
// finding itself. Comments about fact-unknown-at-door are excepted, because that is checked only for the front ends in use.
func (s *sources) silence(findings []contract.Finding, complete bool) []contract.Finding {
	byFile, out := s.ignores()
	for _, f := range findings {
		hit := false
		for _, ig := range byFile[f.File] {
			if ig.line == f.Line && slices.Contains(ig.codes, f.Code) {
				ig.used[f.Code], hit = true, true
			}
		}
		if !hit {
			out = append(out, f)
		}
	}
	if !complete {
		return out
	}
	for _, list := range byFile {
		for _, ig := range list {
			for _, code := range ig.codes {
				if !ig.used[code] && code != contract.CodeDoorFact {
					out = append(out, s.at(contract.CodeUnusedIgnore, ig.loc, "take the comment out", "nothing on line %d is %s", ig.line, code))
				}
			}
		}
	}
	return out
}
