package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// verdict is the result of one check.
type verdict struct {
	What string `json:"what"`
	OK   bool   `json:"ok"`
	Warn bool   `json:"warning,omitempty"` // not OK, but a busy machine can be the reason; not a failure
	Text string `json:"text"`
}

// oneHash is the memory for checking one argon2id hash, in MiB. Resident memory varies by it.
const oneHash = 64

// Failed reports whether a check failed, warnings apart.
func (r *result) Failed() bool {
	return slices.ContainsFunc(r.Verdicts, func(v verdict) bool { return !v.OK && !v.Warn })
}

// judge compares the last quarter of the samples with the second one; the first is for warming up. Growth is a failure only if
// the pace was kept, because on a machine that is too busy more and more messages are under way. Leaked descriptors and
// goroutines are then still found at rest. Leaked memory is not, so such a run says nothing about memory.
func judge(r *result) []verdict {
	t := r.Tally
	keeping := pace(r)
	grown := func(v verdict) verdict {
		if !v.OK && !keeping.OK {
			v.Warn, v.Text = true, v.Text+"; the pace was not kept, so the number of messages under way varied"
		}
		return v
	}
	return []verdict{
		{What: "nothing lost", OK: t.Bad() == 0 && t.UnderWay == 0 && t.Accepted > 0, Text: fmt.Sprintf("%d lost, %d doubled, %d changed, %d arrived though refused, %d accepted though to be refused, %d not sent by us, %d under way%s",
			t.Lost, t.Doubled, t.Changed, t.Leaked, t.Let, t.Unknown, t.UnderWay, list(t.First))},
		{What: "milter", OK: len(r.MilterBad) == 0 && r.Milter > 0, Warn: len(r.MilterBad) > 0 && timing(r.MilterBad),
			Text: fmt.Sprintf("%d transactions, answered as planned%s", r.Milter, lines(r.MilterBad))},
		{What: "replies explained", OK: len(r.Unplanned) == 0, Warn: len(r.Unplanned) > 0 && timing(r.Unplanned), Text: "by policy or by a fault of the next hop" + lines(r.Unplanned)},
		{What: "bad clients", OK: len(r.BadWrong) == 0, Text: "got nothing that they should not get" + lines(r.BadWrong)},
		{What: "reloads", OK: len(r.ReloadBad) == 0, Text: fmt.Sprintf("%d, the invalid ones without effect%s", total(r.Reloads), lines(r.ReloadBad))},
		{What: "no panic", OK: len(r.Grave) == 0 && r.Ended == "", Text: "no data race, and the program ended only by our signal" + list(append(r.Grave, ended(r)...))},
		grown(collected(r, flat(r, "memory", "MiB resident", 1.10, oneHash, func(s sample) float64 { return s.RSS }))),
		grown(collected(r, lowest(r, "heap", "MiB in use", 1.10, 8, func(s sample) float64 { return s.Heap }))),
		grown(flat(r, "descriptors", "open", 1.10, 20, func(s sample) float64 { return float64(s.Descriptors) })),
		grown(flat(r, "goroutines", "running", 1.10, 20, func(s sample) float64 { return float64(s.Goroutines) })),
		warning(flat(r, "p99", "ms, submission", 1.25, 5, func(s sample) float64 { return s.P99 })),
		warning(flat(r, "p99 milter", "ms", 1.25, 5, func(s sample) float64 { return s.MilterP99 })),
		warning(keeping),
		{What: "at rest", OK: restedIn(r), Text: fmt.Sprintf("after the load %d connections, %d transactions, %d temporary files; %d descriptors (before %d, to the next hop %d), %d goroutines (before %d)",
			r.After.Connections, r.After.InFlight, r.After.Temporary, r.After.Descriptors, r.Before.Descriptors, r.After.HopConns, r.After.Goroutines, r.Before.Goroutines)},
	}
}

// enough is the least number of garbage collections in a quarter. With fewer, the lowest heap still contains garbage, and
// memory has not reached the level at which the collector keeps it.
const enough = 10

// collected turns a failure into a warning if there were too few garbage collections.
func collected(r *result, v verdict) verdict {
	n := len(r.Samples)
	if v.OK || n < 8 {
		return v
	}
	if had := min(r.Samples[n/2-1].Collections-r.Samples[n/4].Collections, r.Samples[n-1].Collections-r.Samples[3*n/4].Collections); had < enough {
		v.Warn, v.Text = true, fmt.Sprintf("%s; only %d garbage collections in a quarter, too few to judge; use a longer run", v.Text, had)
	}
	return v
}

func ended(r *result) []string {
	if r.Ended == "" {
		return nil
	}
	return []string{"the program ended with " + r.Ended}
}

func warning(v verdict) verdict { v.Warn = !v.OK; return v }

// pace checks that messages were sent at the planned rate.
func pace(r *result) verdict {
	sent := median(r.Samples, func(s sample) float64 { return s.Rate })
	return verdict{What: "pace", OK: r.Shed == 0 && sent > 0.9*r.Paced, Text: fmt.Sprintf("%.0f messages/s of %.0f planned, %d not sent because %d were under way", sent, r.Paced, r.Shed, most)}
}

// flat checks that the median of the last quarter is at most factor times that of the second, or at most slack above it.
func flat(r *result, what, unit string, factor, slack float64, f func(sample) float64) verdict {
	return compare(r, what, "median "+unit, factor, slack, func(list []sample) float64 { return median(list, f) })
}

// lowest is like flat, but for the lowest value. The lowest heap in a quarter is the least affected by garbage.
func lowest(r *result, what, unit string, factor, slack float64, f func(sample) float64) verdict {
	return compare(r, what, "at least "+unit, factor, slack, func(list []sample) float64 {
		least := f(list[0])
		for _, s := range list {
			least = min(least, f(s))
		}
		return least
	})
}

func compare(r *result, what, unit string, factor, slack float64, of func([]sample) float64) verdict {
	n := len(r.Samples)
	if n < 8 {
		return verdict{What: what, OK: n > 0, Text: fmt.Sprintf("%d samples are too few to compare", n)}
	}
	early, late := of(r.Samples[n/4:n/2]), of(r.Samples[3*n/4:])
	return verdict{What: what, OK: late <= max(early*factor, early+slack), Text: fmt.Sprintf("%s %.1f in the second quarter, %.1f in the last (%+.1f %%)", unit, early, late, percent(early, late))}
}

func percent(early, late float64) float64 {
	if early == 0 {
		return 0
	}
	return (late/early - 1) * 100
}

func median(list []sample, f func(sample) float64) float64 {
	if len(list) == 0 {
		return 0
	}
	v := make([]float64, len(list))
	for i, s := range list {
		v[i] = f(s)
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// timing reports whether a busy machine explains all of the replies: policy or a password check took too long.
func timing(m map[string]int) bool {
	for k := range m {
		if !strings.Contains(k, "4.3.0") && !strings.Contains(k, "454 4.7.0") && !strings.Contains(k, "timeout") && !strings.Contains(k, "no metrics") {
			return false
		}
	}
	return true
}

func total(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

func lines(m map[string]int) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%d × %s", m[k], k))
	}
	return list(out)
}

func list(l []string) string {
	if len(l) == 0 {
		return ""
	}
	return "\n    " + strings.Join(l, "\n    ")
}
