package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/engine/contract"
)

// The verdicts about a test.
const (
	testPassed  = "pass"
	testFailed  = "fail"
	testError   = "error" // it could not be run
	testSkipped = "skip"
)

// testResult is one test, as `postern test --json` prints it.
type testResult struct {
	Kind    string  `json:"kind"` // "rego" or "message"
	File    string  `json:"file"`
	Line    int     `json:"line,omitempty"`
	Package string  `json:"package,omitempty"` // of a Rego test
	Name    string  `json:"name"`
	Verdict string  `json:"verdict"`
	Seconds float64 `json:"seconds"`
	// Message is why it failed, on one line; Detail all there is to see: the diff, or the expression with its values.
	Message string           `json:"message,omitempty"`
	Detail  string           `json:"detail,omitempty"`
	Stopped *testPlace       `json:"stopped,omitempty"`
	Cases   []testCaseResult `json:"cases,omitempty"`
	Output  string           `json:"output,omitempty"` // what it printed
	Updated bool             `json:"updated,omitempty"`
}

type testPlace struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	Text   string `json:"text"`
}

type testCaseResult struct {
	Name    string     `json:"name"`
	Verdict string     `json:"verdict"`
	Stopped *testPlace `json:"stopped,omitempty"`
}

// id is the full name, which --run looks at.
func (t *testResult) id() string {
	if t.Kind == "rego" {
		return t.Package + "." + t.Name
	}
	return t.File
}

// testReport is what `postern test --json` prints.
type testReport struct {
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
	Tests    []testResult            `json:"tests"`
	Coverage *bundles.CoverageReport `json:"coverage,omitempty"` // as opa test --coverage prints it

	dir string // of the bundle, for the places in Coverage
}

// sum counts, and decides whether all is well.
func (r *testReport) sum(f *testFlags) {
	for _, t := range r.Tests {
		switch t.Verdict {
		case testPassed:
			r.Passed++
		case testFailed:
			r.Failed++
		case testSkipped:
			r.Skipped++
		default:
			r.Errors++
		}
		if t.Updated {
			r.Updated++
		}
	}
	switch {
	case len(r.Tests) == 0 && !f.allowEmpty && f.run != "":
		r.Problem = fmt.Sprintf("no test has a name that matches %q (--allow-empty if that is as it should be)", f.run)
	case len(r.Tests) == 0 && !f.allowEmpty:
		r.Problem = "no test was found: neither test rules (test_...) nor *.txtar files (--allow-empty if that is as it should be)"
	case r.Coverage != nil && r.Coverage.Coverage < f.threshold:
		r.Problem = fmt.Sprintf("coverage is %s, below the threshold of %s", percent(r.Coverage.Coverage), percent(f.threshold))
	}
	r.OK = r.Problem == "" && r.Failed == 0 && r.Errors == 0
}

// broken makes it the report about a bundle that cannot be tested.
func (r *testReport) broken(b *brokenPolicy) {
	r.OK, r.Problem, r.Policy, r.Coverage = false, "", b.findings, nil
}

// percent rounds down, so that 100 % is all of it and a missed threshold shows.
func percent(v float64) string { return fmt.Sprintf("%.1f %%", float64(int(v*10+1e-9))/10) }

// The elements of JUnit's XML, as far as GitLab and Jenkins read them.
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

// junit writes the report as JUnit XML: a suite a file.
func (r *testReport) junit(w io.Writer) error {
	all := junitSuites{Name: "postern test " + r.Bundle, Tests: len(r.Tests), Failures: r.Failed, Errors: r.Errors, Skipped: r.Skipped, Time: seconds(r.Seconds)}
	tests := r.Tests
	if len(r.Policy) > 0 {
		b := &brokenPolicy{r.Policy}
		tests = []testResult{{Kind: "policy", File: r.Bundle, Name: "compiles", Verdict: testError, Message: r.Policy[0].Message, Detail: b.Error()}}
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

// add puts a test into a suite.
func (s *junitSuite) add(t testResult) {
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
	case testFailed:
		text.Type, c.Failure = "failure", text
		s.Failures++
	case testError:
		text.Type, c.Error = "error", text
		s.Errors++
	case testSkipped:
		c.Skipped = &struct{}{}
		s.Skipped++
	}
	s.Tests++
	s.seconds += t.Seconds
	s.Time = seconds(s.seconds)
	s.Cases = append(s.Cases, c)
}

func seconds(v float64) string { return fmt.Sprintf("%.6f", v) }

// writeFile writes a file whole or not at all.
func writeFile(name string, write func(io.Writer) error) error {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if info, err := os.Stat(name); err == nil {
		if !info.Mode().IsRegular() { // such as /dev/stdout
			return os.WriteFile(name, b.Bytes(), mode)
		}
		mode = info.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".postern-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b.Bytes())
	if err == nil {
		err = f.Chmod(mode)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	return err
}
