package policytest

import (
	"encoding/xml"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/engine/contract"
)

// The verdicts about a test.
const (
	Passed  = "pass"
	Failed  = "fail"
	Errored = "error" // it could not be run
	Skipped = "skip"
)

// Result is the result of one test, as `postern test --json` prints it.
type Result struct {
	Kind    string  `json:"kind"` // "rego" or "message"
	File    string  `json:"file"`
	Line    int     `json:"line,omitempty"`
	Package string  `json:"package,omitempty"` // of a Rego test
	Name    string  `json:"name"`
	Verdict string  `json:"verdict"`
	Seconds float64 `json:"seconds"`
	// Message says in one line why it failed. Detail is the diff, or the expression with its values.
	Message string       `json:"message,omitempty"`
	Detail  string       `json:"detail,omitempty"`
	Stopped *Place       `json:"stopped,omitempty"`
	Cases   []CaseResult `json:"cases,omitempty"`
	Output  string       `json:"output,omitempty"` // what it printed
	Updated bool         `json:"updated,omitempty"`
}

type Place struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	Text   string `json:"text"`
}

type CaseResult struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict"`
	Stopped *Place `json:"stopped,omitempty"`
}

// id returns the full name, to which Options.Filter applies.
func (t *Result) id() string {
	if t.Kind == "rego" {
		return t.Package + "." + t.Name
	}
	return t.File
}

// Report is what `postern test --json` prints.
type Report struct {
	OK       bool                    `json:"ok"`
	Bundle   string                  `json:"bundle"`
	Revision string                  `json:"revision,omitempty"`
	Passed   int                     `json:"passed"`
	Failed   int                     `json:"failed"`
	Errors   int                     `json:"errors"`
	Skipped  int                     `json:"skipped"`
	Updated  int                     `json:"updated,omitempty"`
	Seconds  float64                 `json:"seconds"`
	Policy   []contract.Finding      `json:"policy,omitempty"` // why it does not load or compile
	Problem  string                  `json:"problem,omitempty"`
	Tests    []Result                `json:"tests"`
	Coverage *bundles.CoverageReport `json:"coverage,omitempty"` // as opa test --coverage prints it

	dir string // of the bundle, for the places in Coverage
}

// sum counts the verdicts and sets OK.
func (r *Report) sum(o Options) {
	for _, t := range r.Tests {
		switch t.Verdict {
		case Passed:
			r.Passed++
		case Failed:
			r.Failed++
		case Skipped:
			r.Skipped++
		default:
			r.Errors++
		}
		if t.Updated {
			r.Updated++
		}
	}
	switch {
	case len(r.Tests) == 0 && !o.AllowEmpty && o.Filter != nil:
		r.Problem = fmt.Sprintf("no test has a name that matches %q (add --allow-empty if that is intended)", o.Filter)
	case len(r.Tests) == 0 && !o.AllowEmpty:
		r.Problem = "no test was found: neither test rules (test_...) nor *.txtar files (add --allow-empty if that is intended)"
	case r.Coverage != nil && r.Coverage.Coverage < o.Threshold:
		r.Problem = fmt.Sprintf("coverage is %s, below the threshold of %s", percent(r.Coverage.Coverage), percent(o.Threshold))
	}
	r.OK = r.Problem == "" && r.Failed == 0 && r.Errors == 0
}

// broken makes r the report about a bundle that cannot be tested.
func (r *Report) broken(b *brokenPolicy) {
	r.OK, r.Problem, r.Policy, r.Coverage = false, "", b.findings, nil
}

// percent rounds down, so that 100 % means all lines and a coverage just below the threshold does not look like the threshold.
func percent(v float64) string { return fmt.Sprintf("%.1f %%", float64(int(v*10+1e-9))/10) }

// The elements of JUnit's XML that GitLab and Jenkins read.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     string       `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Time     string      `xml:"time,attr"`
		Stamp    string      `xml:"timestamp,attr"`
		Cases    []junitCase `xml:"testcase"`

		seconds float64
	}
	junitCase struct {
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		File    string        `xml:"file,attr"`
		Line    int           `xml:"line,attr,omitempty"`
		Time    string        `xml:"time,attr"`
		Failure *junitFailure `xml:"failure,omitempty"`
		Error   *junitFailure `xml:"error,omitempty"`
		Skipped *struct{}     `xml:"skipped,omitempty"`
		Output  string        `xml:"system-out,omitempty"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the report as JUnit XML, with a suite for each file.
func (r *Report) WriteJUnit(w io.Writer) error {
	all := junitSuites{Name: "postern test " + r.Bundle, Tests: len(r.Tests), Failures: r.Failed, Errors: r.Errors, Skipped: r.Skipped, Time: seconds(r.Seconds)}
	tests := r.Tests
	if len(r.Policy) > 0 {
		b := &brokenPolicy{r.Policy}
		tests = []Result{{Kind: "policy", File: r.Bundle, Name: "compiles", Verdict: Errored, Message: r.Policy[0].Message, Detail: b.Error()}}
		all.Tests, all.Failures, all.Errors, all.Skipped = 1, 0, 1, 0
	}
	stamp := time.Now().UTC().Format("2006-01-02T15:04:05")
	for _, t := range tests {
		n := len(all.Suites)
		if n == 0 || all.Suites[n-1].Name != t.File {
			all.Suites = append(all.Suites, junitSuite{Name: t.File, Stamp: stamp})
			n++
		}
		all.Suites[n-1].add(t)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// add adds a test to the suite.
func (s *junitSuite) add(t Result) {
	c := junitCase{Name: t.Name, Class: t.Package, File: t.File, Line: t.Line, Time: seconds(t.Seconds), Output: t.Output}
	if c.Class == "" {
		c.Class = strings.ReplaceAll(strings.Trim(path.Dir(filepath.ToSlash(t.File)), "./"), "/", ".")
	}
	if c.Class == "" {
		c.Class = t.Kind
	}
	text := &junitFailure{Message: t.Message, Text: t.Message}
	if t.Detail != "" {
		text.Text = t.Detail
	}
	switch t.Verdict {
	case Failed:
		text.Type, c.Failure = "failure", text
		s.Failures++
	case Errored:
		text.Type, c.Error = "error", text
		s.Errors++
	case Skipped:
		c.Skipped = &struct{}{}
		s.Skipped++
	}
	s.Tests++
	s.seconds += t.Seconds
	s.Time = seconds(s.seconds)
	s.Cases = append(s.Cases, c)
}

func seconds(v float64) string { return fmt.Sprintf("%.6f", v) }

// place returns the path of a file of the bundle as a person or an editor finds it. dir is the directory of the bundle, or "".
func place(dir, file string) string {
	if dir == "" {
		return file
	}
	return filepath.Join(dir, filepath.FromSlash(file))
}
