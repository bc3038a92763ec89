package terminal

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable returns text from mail or logs in a form that is safe to print: one line, no characters that move the cursor or change the
// direction of writing, at most limit characters and "..." where more were cut off.
func Printable(s string, limit int) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > limit {
			return b.String() + "..."
		}
		switch {
		case r == '\n', r == '\t':
			r = ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}
