package yamldoc

import (
	"math"
	"strconv"
	"strings"
)

// nearest is the word of known that word was most likely meant to be, or "".
func nearest(word string, known []string) string {
	fold := func(s string) string {
		return strings.ToLower(strings.NewReplacer("-", "", "_", "", " ", "").Replace(s))
	}
	if word == "" || len(word) > 40 {
		return ""
	}
	best, bestDistance := "", math.MaxInt
	for _, k := range known {
		d := distance(fold(word), fold(k))
		if d < bestDistance {
			best, bestDistance = k, d
		}
	}
	// A third of the letters may be wrong; more is a guess.
	if bestDistance <= max(1, len(word)/3) {
		return best
	}
	return ""
}

// distance is the number of letters to insert, drop, change or swap with their neighbour (optimal string alignment).
func distance(a, b string) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}

// parseSize reads digits with an optional unit: KB, MB, GB (powers of 1000), K, M, G, KiB, MiB, GiB (of 1024).
func parseSize(s string) (int64, bool) {
	digits := strings.TrimRight(s, "KMGkmgiBb ")
	var factor int64
	switch strings.ToLower(strings.TrimSpace(s[len(digits):])) {
	case "", "b":
		factor = 1
	case "kb":
		factor = 1e3
	case "mb":
		factor = 1e6
	case "gb":
		factor = 1e9
	case "k", "kib":
		factor = 1 << 10
	case "m", "mib":
		factor = 1 << 20
	case "g", "gib":
		factor = 1 << 30
	default:
		return 0, false
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(digits, "_", ""), 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return 0, false
	}
	return n * factor, true
}

// Nearest is the word of known that word was most likely meant to be, or "" where none is near.
func Nearest(word string, known []string) string { return nearest(word, known) }
