package yamldoc

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Pos is a place in a document, lines and columns from 1. The zero value means the document as a whole.
type Pos struct {
	Line   int
	Column int
}

// Finding is one thing that is wrong in a document: where, what, and how to mend it.
type Finding struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`   // from 1; 0: the file as a whole
	Column  int    `json:"column,omitempty"` // from 1, in characters
	Key     string `json:"key,omitempty"`    // dotted path: "submission.listen[1]"
	Problem string `json:"problem"`
	Mend    string `json:"mend,omitempty"`
	Source  string `json:"source,omitempty"` // the line itself; "" where it may hold a secret
	Warning bool   `json:"warning,omitempty"`
}

// String is the finding as "file:line:column: what (how to mend it)" on one line.
func (f Finding) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
		}
		b.WriteString(": ")
	}
	if f.Warning {
		b.WriteString("warning: ")
	}
	if f.Key != "" {
		b.WriteString(f.Key + ": ")
	}
	b.WriteString(f.Problem)
	if f.Mend != "" {
		b.WriteString("; " + f.Mend)
	}
	return b.String()
}

// Detail is String followed by the line in question with a mark under the column, where the line may be shown.
func (f Finding) Detail() string {
	if f.Source == "" || f.Line == 0 {
		return f.String()
	}
	gutter := fmt.Sprintf("%5d | ", f.Line)
	// Tabs before the mark stay tabs, so that the mark stands under its character.
	pad := []rune{}
	for i, r := range []rune(f.Source) {
		if i >= f.Column-1 {
			break
		}
		if r != '\t' {
			r = ' '
		}
		pad = append(pad, r)
	}
	return f.String() + "\n" + gutter + f.Source + "\n" + strings.Repeat(" ", len(gutter)-2) + "| " + string(pad) + "^"
}

// Findings is a list of them; as an error it is all of them, a line each.
type Findings []Finding

// Error implements error.
func (fs Findings) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Err is fs as an error if there is more in it than warnings, and nil otherwise.
func (fs Findings) Err() error {
	for _, f := range fs {
		if !f.Warning {
			return fs
		}
	}
	return nil
}

// Sorted returns fs in the order of file and place, without repetitions.
func (fs Findings) Sorted() Findings {
	out := slices.Clone(fs)
	slices.SortStableFunc(out, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return slices.Compact(out)
}
