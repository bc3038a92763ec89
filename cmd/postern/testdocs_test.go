package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/postern-mail/postern/cmd/postern/exitcode"
)

// TestTestingPage runs the example of docs/how-to/test-policies.md unchanged: it passes, and it fails after its section want is changed.
func TestTestingPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/how-to/test-policies.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cases := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)```(rego|txtar)\n# ([a-z/]+\\.[a-z]+)\n(.*?)```\n").FindAllStringSubmatch(string(page), -1) {
		if m[1] == "txtar" {
			cases[m[2]] = m[3]
		}
		write(m[2], m[3])
	}
	if len(cases) == 0 || len(cases) != strings.Count(string(page), "```txtar\n") {
		t.Fatalf("%d cases", len(cases))
	}
	test := func() (int, string) {
		var out bytes.Buffer
		code := run([]string{"test", dir}, nil, &out, &out)
		return code, out.String()
	}
	if code, out := test(); code != exitcode.OK || !strings.Contains(out, "ok: 1 passed") {
		t.Errorf("code %d\n%s", code, out)
	}
	for name, text := range cases {
		_, wants, _ := strings.Cut(text, "-- want --\n")
		for line := range strings.Lines(wants) {
			key, _, _ := strings.Cut(line, ":")
			write(name, strings.Replace(text, line, key+":\n", 1))
			if key == "verdict" {
				write(name, strings.Replace(text, line, "verdict: defer\n", 1))
			}
			if code, out := test(); code != exitcode.Failed || !strings.Contains(out, "fail: ") {
				t.Errorf("without %q: code %d\n%s", line, code, out)
			}
		}
	}
}

// TestTestingPageIsWhole: the page names every key that the reader of cases knows, and no other.
func TestTestingPageIsWhole(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/message-tests.md")
	if err != nil {
		t.Fatal(err)
	}
	section := func(title string) string {
		_, text, ok := strings.Cut(string(page), "\n## `"+title+"`\n")
		if !ok {
			t.Fatalf("no section %s", title)
		}
		text, _, _ = strings.Cut(text, "\n## ")
		return text
	}
	// A made-up key makes the reader list those that it knows.
	known := func(text string) []string {
		t.Helper()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "x.txtar"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		run([]string{"test", "--cases", dir, "--run", "x.txtar"}, nil, &out, &out)
		m := regexp.MustCompile(`(?:there are|known here:) ([a-z_0-9, ]+)`).FindStringSubmatch(out.String())
		if m == nil {
			t.Fatalf("%q: %s", text, out.String())
		}
		return strings.Split(m[1], ", ")
	}
	const no = "qqqqqqqqqq"
	for title, lists := range map[string]map[string][]string{
		"session": {"": known("-- session --\n" + no + ": 1\n"), "client.": known("-- session --\nclient: {" + no + ": 1}\n"),
			"tls.": known("-- session --\ntls: {version: 1.3, " + no + ": 1}\n"), "auth.": known("-- session --\nauth: {login: a, " + no + ": 1}\n"),
			"server.": known("-- session --\nserver: {" + no + ": 1}\n")},
		"want": {"": known("-- want --\n" + no + ": 1\n")},
	} {
		text := section(title)
		documented := map[string]bool{}
		for row := range strings.Lines(text) {
			if cells := strings.Split(row, "|"); len(cells) > 2 {
				for _, m := range regexp.MustCompile("`([a-z_0-9.]+)`").FindAllStringSubmatch(cells[1], -1) {
					documented[m[1]] = true
				}
			}
		}
		all := map[string]bool{"auth": true, "server": true} // mappings, whose keys are documented
		for prefix, keys := range lists {
			for _, k := range keys {
				if all[prefix+k] {
					continue
				}
				if all[prefix+k] = true; !documented[prefix+k] {
					t.Errorf("%s: key %s is not documented", title, prefix+k)
				}
			}
		}
		for k := range documented {
			if !all[k] {
				t.Errorf("%s: %s is documented, but no key", title, k)
			}
		}
	}
}
