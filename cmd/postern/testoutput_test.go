package main

import (
	"bytes"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestVisible(t *testing.T) {
	for _, c := range []struct {
		text string
		eml  bool
		want string
	}{
		{"plain\n", false, "plain\n"},
		{"a\r\nb\r\n", true, "a\nb\n"},
		{"a\nb\r\n", true, "a\\n\nb\n"},
		{"a\r\n", false, "a\\r\n"},
		{"a\rb\r\n", true, "a\\rb\n"},
		{"a\tb \t\r\n", true, "a\\tb\\x20\\t\n"},
		{" \n", false, "\\x20\n"},
		{"a\u00a0b\u200bc\u202ed\n", false, "a\\u00a0b\\u200bc\\u202ed\n"},
		{"gr\u00fc\u00df \u4e16\n", false, "gr\u00fc\u00df \u4e16\n"},
		{"\xff\ufffd\x1b[31m\n", false, "\\xff\ufffd\\x1b[31m\n"},
		{"no end", true, "no end"},
		{"", true, ""},
	} {
		if got := visible(c.text, c.eml); got != c.want {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
}

func TestUnified(t *testing.T) {
	want := "--- a\n+++ b\n@@ -1,2 +1,2 @@\n same\n-one\n+one\\x20"
	if got := unified("a", "b", []byte("same\r\none\r\n"), []byte("same\r\none \r\n"), true); got != want {
		t.Errorf("got\n%s", got)
	}
	// What is shown for something that cannot be seen, and that text itself, differ all the same.
	if got := unified("a", "b", []byte("x\\t\n"), []byte("x\t\n"), false); !strings.Contains(got, `-"x\\t\n"`) || !strings.Contains(got, `+"x\t\n"`) {
		t.Errorf("got\n%s", got)
	}
}

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
			person, terminal := openTerminal(t)
			code := make(chan int, 1)
			go func() { code <- run([]string{"test", dir}, terminal, terminal, terminal) }()
			seen := until(t, person, "revision")
			select {
			case got := <-code:
				if got != exitFailed {
					t.Errorf("code %d", got)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("it does not end")
			}
			if strings.Contains(seen, red+"-verdict: accept"+plain) != c.coloured || strings.Contains(seen, green+"+verdict: reject"+plain) != c.coloured ||
				strings.Contains(seen, "\x1b[3") != c.coloured {
				t.Errorf("seen: %q", seen)
			}
		})
	}
}

// TestTestProgress: what takes long counts on a terminal, and the count is gone at the end.
func TestTestProgress(t *testing.T) {
	var b bytes.Buffer
	p := &testProgress{w: &b, all: 3}
	p.done()
	p.end()
	if got := b.String(); got != "\r\x1b[K1 of 3 tests\r\x1b[K" {
		t.Errorf("%q", got)
	}
	b.Reset()
	p = &testProgress{w: &b, all: 3, next: time.Now().Add(time.Hour)}
	p.done()
	p.end()
	if b.Len() > 0 {
		t.Errorf("%q", b.String())
	}
	if p := (&testOutput{errs: &b}).progress(3); p.w != nil {
		t.Error("it counts where no terminal is")
	}
}

// TestTestJUnit: the report is well-formed XML whatever tests print, and its numbers agree.
func TestTestJUnit(t *testing.T) {
	dir := failing(t)
	file := filepath.Join(t.TempDir(), "report.xml")
	var out, errs bytes.Buffer
	if code := run([]string{"test", "--junit", file, dir}, nil, &out, &errs); code != exitFailed {
		t.Fatalf("code %d: %s%s", code, out.String(), errs.String())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r junitSuites
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

// TestWriteFile: whole or not at all, with the mode that was there.
func TestWriteFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(file, (&testReport{Bundle: "b"}).junit); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if text, _ := os.ReadFile(file); !bytes.Contains(text, []byte("<testsuites")) {
		t.Errorf("%s", text)
	}
	if err := writeFile(filepath.Join(file, "no"), (&testReport{}).junit); err == nil {
		t.Error("written into a file")
	}
}
