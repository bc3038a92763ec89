package main

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// printable makes text from mail and logs fit for a terminal: one line, nothing that moves the cursor or turns the direction
// of writing, at most limit characters.
func printable(s string, limit int) string {
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
