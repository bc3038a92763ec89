package bundles

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Coverage records which rules and expressions of a bundle were evaluated. Several goroutines may evaluate at the same time.
type Coverage struct {
	cover *cover.Cover
}

// CoverageReport is OPA's own type. As JSON it has the form that `opa test --coverage` prints.
type CoverageReport = cover.Report

// NewCoverage returns an empty Coverage.
func NewCoverage() *Coverage { return &Coverage{cover: cover.New()} }

// Tracer returns the tracer to evaluate with.
func (c *Coverage) Tracer() topdown.QueryTracer { return c.cover }

// Report returns the coverage of the bundle's rules. Unlike `opa test --coverage` it leaves out the test files: they are always
// covered, and would only raise the figure.
func (c *Coverage) Report(b *bundle.Bundle) CoverageReport {
	modules := map[string]*ast.Module{}
	tests := map[string]bool{}
	for _, m := range b.Modules {
		if tests[m.Path] = strings.HasSuffix(m.Path, "_test.rego"); !tests[m.Path] {
			modules[m.Path] = m.Parsed
		}
	}
	report := c.cover.Report(modules)
	report.CoveredLines, report.NotCoveredLines, report.Coverage = 0, 0, 0
	for name, f := range report.Files {
		if tests[name] {
			delete(report.Files, name)
			continue
		}
		report.CoveredLines += f.CoveredLines
		report.NotCoveredLines += f.NotCoveredLines
	}
	if all := report.CoveredLines + report.NotCoveredLines; all > 0 {
		report.Coverage = 100 * float64(report.CoveredLines) / float64(all)
	}
	return report
}

// LineRange is a range of lines, both ends included.
type LineRange struct{ From, To int }

// Uncovered returns the lines of a file that were not covered, in order, as ranges.
func Uncovered(f *cover.FileReport) []LineRange {
	var rows []int
	for _, r := range f.NotCovered {
		for row := r.Start.Row; row <= r.End.Row; row++ {
			rows = append(rows, row)
		}
	}
	slices.Sort(rows)
	var out []LineRange
	for _, row := range slices.Compact(rows) {
		if n := len(out); n > 0 && out[n-1].To == row-1 {
			out[n-1].To = row
			continue
		}
		out = append(out, LineRange{row, row})
	}
	return out
}
