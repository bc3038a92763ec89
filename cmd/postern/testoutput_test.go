package main

import (
	"bytes"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/cmd/postern/exitcode"
	"github.com/postern-mail/postern/cmd/postern/terminal"
	"github.com/postern-mail/postern/internal/testenv"
)

// failing is a bundle with a message test that fails and a test rule that holds, and where it is.
func failing(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"postern/mail/p.rego":      "package postern.mail\n\nreject contains \"a <&> \\u0001\" if input.envelope.from.local == \"a\"\n",
		"postern/mail/p_test.rego": "package postern.mail_test\n\ntest_true if {\n\tprint(\"bell \\u0007 and <tag>\")\n\ttrue\n}\n",
		"a.txtar":                  "-- envelope --\nMAIL FROM:<a@example.com>\n-- want --\nverdict: accept\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestTestColours: a diff is coloured on a terminal, unless NO_COLOR says otherwise.
func TestTestColours(t *testing.T) {
	dir := failing(t)
	for name, c := range map[string]struct {
		noColor  string
		coloured bool
	}{"coloured": {"", true}, "NO_COLOR": {"1", false}} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("NO_COLOR", c.noColor)
			t.Setenv("TERM", "xterm")
			person, tty := testenv.Terminal(t)
			code := make(chan int, 1)
			go func() { code <- run([]string{"test", dir}, tty, tty, tty) }()
			seen := until(t, person, "revision")
			select {
			case got := <-code:
				if got != exitcode.Failed {
					t.Errorf("code %d", got)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("it does not end")
			}
			if strings.Contains(seen, terminal.Red+"-verdict: accept\x1b[0m") != c.coloured || strings.Contains(seen, terminal.Green+"+verdict: reject\x1b[0m") != c.coloured ||
				strings.Contains(seen, "\x1b[3") != c.coloured {
				t.Errorf("seen: %q", seen)
			}
		})
	}
}

// TestTestJUnit: the report is well-formed XML for any output of tests, and its numbers agree.
func TestTestJUnit(t *testing.T) {
	dir := failing(t)
	file := filepath.Join(t.TempDir(), "report.xml")
	var out, errs bytes.Buffer
	if code := run([]string{"test", "--junit", file, dir}, nil, &out, &errs); code != exitcode.Failed {
		t.Fatalf("code %d: %s%s", code, out.String(), errs.String())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	type counts struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
	}
	var r struct {
		XMLName xml.Name `xml:"testsuites"`
		counts
		Suites []struct {
			counts
			Stamp string `xml:"timestamp,attr"`
			Time  string `xml:"time,attr"`
			Cases []struct {
				Failure *struct {
					Text string `xml:",chardata"`
				} `xml:"failure"`
				Output string `xml:"system-out"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &r); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if r.Tests != 2 || r.Failures != 1 || r.Errors != 0 || len(r.Suites) != 2 {
		t.Errorf("%+v", r)
	}
	tests, failures := 0, 0
	for _, s := range r.Suites {
		tests, failures = tests+s.Tests, failures+s.Failures
		if len(s.Cases) != s.Tests || s.Stamp == "" || s.Time == "" {
			t.Errorf("%+v", s)
		}
		for _, c := range s.Cases {
			switch {
			case c.Failure != nil && (!strings.Contains(c.Failure.Text, "-verdict: accept") || !strings.Contains(c.Failure.Text, "a <&>")):
				t.Errorf("%+v", c.Failure)
			case c.Failure == nil && (!strings.Contains(c.Output, "<tag>") || strings.Contains(c.Output, "\a")):
				t.Errorf("printed %q", c.Output)
			}
		}
	}
	if tests != r.Tests || failures != r.Failures {
		t.Errorf("%d tests and %d failures in the suites", tests, failures)
	}
}
