package contract

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Suggest returns a hint for a misspelt name, or "".
func Suggest(have string, names []string) string { return SuggestIn(have, "", names) }

// SuggestIn is Suggest with a prefix for the name in the hint.
func SuggestIn(have, prefix string, names []string) string {
	if near := Nearest(have, names); near != "" {
		return fmt.Sprintf("did you mean %s%s?", prefix, near)
	}
	return ""
}

// OneOf returns a hint that names the name that was meant, or else all names if there are at most 30.
func OneOf(have, prefix string, names []string) string {
	if hint := SuggestIn(have, prefix, names); hint != "" || len(names) == 0 || len(names) > 30 {
		return hint
	}
	return "there are: " + strings.Join(slices.Sorted(slices.Values(names)), ", ")
}

// Nearest returns the name that is most like have, or "" if more than a third of its letters differ.
func Nearest(have string, names []string) string {
	best, at := "", max(len(have)/3, 1)+1
	sorted := slices.Sorted(slices.Values(names))
	for _, name := range sorted {
		if d := distance(have, name); d < at && d < max(len(have), len(name)) {
			best, at = name, d
		}
	}
	return best
}

// distance returns how many letters of a name were added, left out, changed or swapped with their neighbour (optimal string
// alignment). A name longer than 64 bytes is far from any other.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			d := last[j-1]
			if a[i-1] != b[j-1] {
				d++
			}
			row[j] = min(d, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// Cut shortens s to at most n bytes without cutting a character in two.
func Cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
