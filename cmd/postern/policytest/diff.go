package policytest

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/postern-mail/postern/internal/trial"
)

// difference returns why a message test failed: a line, and the details as unified diffs.
func difference(c *trial.Case, r *trial.Result, differences []trial.Difference) (message, detail string) {
	var sections, parts []string
	for _, d := range differences {
		sections = append(sections, d.Section)
		eml := d.Section == "want.eml"
		if eml && d.Got == nil {
			parts = append(parts, "want.eml: no message is sent")
			continue
		}
		parts = append(parts, unified(c.Name+" "+d.Section, d.Section+" as decided", d.Want, d.Got, eml))
	}
	message = "different: " + strings.Join(sections, " and ")
	if v := r.Final.Verdict.String(); c.Verdict() != "" && c.Verdict() != v {
		message = fmt.Sprintf("%s at stage %s, not %s", v, r.Final.Stage, c.Verdict())
	}
	if r.Final.Err != nil {
		parts = append(parts, "policy failed: "+r.Final.Err.Error())
	}
	// Facts that the want section does not name may explain the difference.
	if all := r.Describe(); !bytes.Contains(differencesGot(differences), []byte(all)) {
		parts = append(parts, "the whole result:\n"+indent(visible(all, false), "    "))
	}
	return message, strings.Join(parts, "\n")
}

func differencesGot(differences []trial.Difference) []byte {
	for _, d := range differences {
		if d.Section == "want" {
			return d.Got
		}
	}
	return nil
}

// unified returns a unified diff that shows invisible characters. Lines of a message (eml) end in CRLF, so only other line ends are shown.
func unified(oldName, newName string, want, got []byte, eml bool) string {
	a, b := visible(string(want), eml), visible(string(got), eml)
	if a == b { // one text has the escape that the other text is shown with
		a, b = quotedLines(string(want)), quotedLines(string(got))
	}
	out := diff.Diff(oldName, []byte(a), newName, []byte(b))
	_, out, _ = bytes.Cut(out, []byte("\n")) // "diff A B"
	return strings.TrimRight(string(out), "\n")
}

// visible writes as escapes of Go strings what cannot be seen: control characters, bytes that are not UTF-8, white space at the end of a
// line, and line ends other than those of the text.
func visible(s string, eml bool) string {
	var b strings.Builder
	for len(s) > 0 {
		line, rest, ended := strings.Cut(s, "\n")
		end := ""
		if ended {
			end = "\n"
		}
		if eml {
			cut, crlf := strings.CutSuffix(line, "\r")
			if crlf && ended {
				line = cut
			} else if ended {
				end = `\n` + "\n"
			}
		}
		b.WriteString(visibleLine(line) + end)
		s = rest
	}
	return b.String()
}

func visibleLine(line string) string {
	text := strings.TrimRight(line, " \t")
	var b strings.Builder
	for i, r := range text {
		switch {
		case r == utf8.RuneError && strings.HasPrefix(text[i:], "\uFFFD"):
			b.WriteRune(r)
		case r == utf8.RuneError:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case r == ' ' || unicode.IsGraphic(r) && !unicode.IsSpace(r):
			b.WriteRune(r)
		default: // other kinds of spaces, joiners, marks of direction
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	for _, r := range line[len(text):] {
		if r == ' ' {
			b.WriteString(`\x20`)
		} else {
			b.WriteString(`\t`)
		}
	}
	return b.String()
}

func quotedLines(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(strconv.QuoteToASCII(line) + "\n")
	}
	return b.String()
}

func indent(s, by string) string {
	return by + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n"+by)
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
