package contract

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Severity says whether a finding stops a bundle.
type Severity string

// The severities.
const (
	Fault   Severity = "error"   // the bundle is refused
	Warning Severity = "warning" // the bundle works, but probably not as its author meant
)

// Finding is one thing that is wrong with a bundle, with its place.
type Finding struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"`           // stable, greppable, one of Rules: "rego_type_error", "unknown-set", "negated-call"
	File     string   `json:"file,omitempty"` // as the bundle names it
	Line     int      `json:"line,omitempty"` // from 1; 0: the finding is not about one line
	Column   int      `json:"column,omitempty"`
	Text     string   `json:"text,omitempty"` // the source line, at most 200 bytes
	Message  string   `json:"message"`
	Hint     string   `json:"hint,omitempty"` // how to mend it
}

// String returns the finding as a compiler prints it: file:line:column: message [code], then the source line with a mark under the
// column, then the hint.
func (f Finding) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", f.Line, max(f.Column, 1))
		}
		b.WriteString(": ")
	}
	if f.Severity == Warning {
		b.WriteString("warning: ")
	}
	b.WriteString(f.Message)
	if f.Code != "" {
		fmt.Fprintf(&b, " [%s]", f.Code)
	}
	if f.Text != "" {
		fmt.Fprintf(&b, "\n%5d | %s", f.Line, f.Text)
		if pad, ok := markPad(f.Text, f.Column); ok {
			b.WriteString("\n      | " + pad + "^")
		}
	}
	if f.Hint != "" {
		b.WriteString("\n    " + f.Hint)
	}
	return b.String()
}

// markPad returns the white space that puts a mark under a column of a line. Tabs stay tabs, so that it fits on any terminal. false:
// the line has no such column.
func markPad(line string, column int) (string, bool) {
	runes := []rune(line)
	if column < 1 || column > len(runes)+1 {
		return "", false
	}
	for i, r := range runes[:column-1] {
		if r != '\t' {
			runes[i] = ' '
		}
	}
	return string(runes[:column-1]), true
}

// CompileError holds every reason why a bundle cannot become a policy, in the order of files and lines.
type CompileError struct {
	Findings []Finding `json:"findings"` // Faults only, at least one
}

// Error returns all findings as text, with several lines each.
func (e *CompileError) Error() string {
	var b strings.Builder
	for i, f := range e.Findings {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(f.String())
	}
	return b.String()
}

// Faults returns the Faults among findings as a *CompileError, or nil if there are none.
func Faults(all []Finding) error {
	var e CompileError
	for _, f := range all {
		if f.Severity == Fault {
			e.Findings = append(e.Findings, f)
		}
	}
	if len(e.Findings) == 0 {
		return nil
	}
	return &e
}

// Sort sorts findings by place and removes duplicates.
func Sort(all []Finding) []Finding {
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Code, b.Code), cmp.Compare(a.Message, b.Message))
	})
	typed := map[[3]any]bool{} // places about which OPA's type checker has a finding
	for _, f := range all {
		if f.Code == ast.TypeErr {
			typed[[3]any{f.File, f.Line, f.Column}] = true
		}
	}
	all = slices.DeleteFunc(all, func(f Finding) bool { return f.Code == CodeUnknownFact && typed[[3]any{f.File, f.Line, f.Column}] })
	return slices.Compact(all)
}
