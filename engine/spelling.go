package engine

import (
	"fmt"
	"slices"
	"unicode/utf8"
)

// suggest is a hint for a misspelt name, or "".
func suggest(have string, names []string) string {
	if near := nearest(have, names); near != "" {
		return fmt.Sprintf("did you mean %s?", near)
	}
	return ""
}

// nearest is the name most like have, if one is near enough to be meant: at most a third of its letters differ.
func nearest(have string, names []string) string {
	best, at := "", max(len(have)/3, 1)+1
	sorted := slices.Sorted(slices.Values(names))
	for _, name := range sorted {
		if d := distance(have, name); d < at && d < max(len(have), len(name)) {
			best, at = name, d
		}
	}
	return best
}

// distance of Levenshtein between two names; names longer than 64 octets are never near.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		left := row[0]
		row[0]++
		for j := range len(b) {
			d := left
			if a[i] != b[j] {
				d++
			}
			left = row[j+1]
			row[j+1] = min(d, row[j]+1, left+1)
		}
	}
	return row[len(b)]
}

// cut shortens s to at most n octets without cutting a character in two.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
