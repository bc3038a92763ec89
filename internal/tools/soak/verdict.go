package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Verdict is about one thing that has to hold.
type Verdict struct {
	What string `json:"what"`
	OK   bool   `json:"ok"`
	Warn bool   `json:"warning,omitempty"` // not OK, but a busy machine can be the reason: no failure
	Text string `json:"text"`
}

// oneHash is what a check of an argon2id hash takes, in MiB. Resident memory goes up and down by it.
const oneHash = 64

// Failed says whether a verdict is worse than a warning.
func (r *Result) Failed() bool {
	return slices.ContainsFunc(r.Verdicts, func(v Verdict) bool { return !v.OK && !v.Warn })
}

// judge compares the last quarter of the samples with the second: the first is for warming up. Growth fails the run where the
// pace was kept: a machine that is too busy for that has more and more under way. Descriptors and goroutines that leaked then
// still show at rest; memory does not, and such a run proves nothing about it.
func judge(r *Result) []Verdict {
	t := r.Tally
	keeping := pace(r)
	grown := func(v Verdict) Verdict {
		if !v.OK && !keeping.OK {
			v.Warn, v.Text = true, v.Text+"; the pace was not kept, so that more or less was under way"
		}
		return v
	}
	return []Verdict{
		{What: "nothing lost", OK: t.Bad() == 0 && t.UnderWay == 0 && t.Accepted > 0, Text: fmt.Sprintf("%d lost, %d doubled, %d changed, %d refused and there, %d let through, %d from nowhere, %d under way%s",
			t.Lost, t.Doubled, t.Changed, t.Leaked, t.Let, t.Unknown, t.UnderWay, list(t.First))},
		{What: "milter", OK: len(r.MilterBad) == 0 && r.Milter > 0, Warn: len(r.MilterBad) > 0 && timing(r.MilterBad),
			Text: fmt.Sprintf("%d transactions, answered as planned%s", r.Milter, lines(r.MilterBad))},
		{What: "replies explained", OK: len(r.Unplanned) == 0, Warn: len(r.Unplanned) > 0 && timing(r.Unplanned), Text: "by policy or by a fault of the next hop" + lines(r.Unplanned)},
		{What: "bad clients", OK: len(r.BadWrong) == 0, Text: "got nothing that they should not" + lines(r.BadWrong)},
		{What: "reloads", OK: len(r.ReloadBad) == 0, Text: fmt.Sprintf("%d, the broken ones without effect%s", total(r.Reloads), lines(r.ReloadBad))},
		{What: "no panic", OK: len(r.Grave) == 0 && r.Ended == "", Text: "nor data race, nor end but by our signal" + list(append(r.Grave, ended(r)...))},
		grown(collected(r, flat(r, "memory", "MiB resident", 1.10, oneHash, func(s Sample) float64 { return s.RSS }))),
		grown(collected(r, lowest(r, "heap", "MiB in use", 1.10, 8, func(s Sample) float64 { return s.Heap }))),
		grown(flat(r, "descriptors", "open", 1.10, 20, func(s Sample) float64 { return float64(s.Descriptors) })),
		grown(flat(r, "goroutines", "there", 1.10, 20, func(s Sample) float64 { return float64(s.Goroutines) })),
		warning(flat(r, "p99", "ms, submission", 1.25, 5, func(s Sample) float64 { return s.P99 })),
		warning(flat(r, "p99 milter", "ms", 1.25, 5, func(s Sample) float64 { return s.MilterP99 })),
		warning(keeping),
		{What: "at rest", OK: restedIn(r), Text: fmt.Sprintf("after the load %d connections, %d transactions, %d temporary files; %d descriptors (before %d, to the next hop %d), %d goroutines (before %d)",
			r.After.Connections, r.After.InFlight, r.After.Temporary, r.After.Descriptors, r.Before.Descriptors, r.After.HopConns, r.After.Goroutines, r.Before.Goroutines)},
	}
}

// enough collections of garbage in a quarter: with fewer, its least heap is not what is held, and memory still climbs to
// where the collector lets it go.
const enough = 10

// collected warns only where there were too few.
func collected(r *Result, v Verdict) Verdict {
	n := len(r.Samples)
	if v.OK || n < 8 {
		return v
	}
	if had := min(r.Samples[n/2-1].Collections-r.Samples[n/4].Collections, r.Samples[n-1].Collections-r.Samples[3*n/4].Collections); had < enough {
		v.Warn, v.Text = true, fmt.Sprintf("%s; garbage was collected %d times in a quarter, which is too seldom to tell: take longer", v.Text, had)
	}
	return v
}

func ended(r *Result) []string {
	if r.Ended == "" {
		return nil
	}
	return []string{"it ended with " + r.Ended}
}

func warning(v Verdict) Verdict { v.Warn = !v.OK; return v }

// pace: an open loop that could not be kept up says nothing about 80 % of anything.
func pace(r *Result) Verdict {
	sent := median(r.Samples, func(s Sample) float64 { return s.Rate })
	return Verdict{What: "pace", OK: r.Shed == 0 && sent > 0.9*r.Paced, Text: fmt.Sprintf("%.0f messages/s of %.0f planned, %d not sent because %d were under way", sent, r.Paced, r.Shed, most)}
}

// flat: the median of the last quarter is no more than factor times that of the second, or slack above it.
func flat(r *Result, what, unit string, factor, slack float64, f func(Sample) float64) Verdict {
	return compare(r, what, "median "+unit, factor, slack, func(list []Sample) float64 { return median(list, f) })
}

// lowest is flat of the least value: of the heap it is what is held, without what awaits collection.
func lowest(r *Result, what, unit string, factor, slack float64, f func(Sample) float64) Verdict {
	return compare(r, what, "at least "+unit, factor, slack, func(list []Sample) float64 {
		least := f(list[0])
		for _, s := range list {
			least = min(least, f(s))
		}
		return least
	})
}

func compare(r *Result, what, unit string, factor, slack float64, of func([]Sample) float64) Verdict {
	n := len(r.Samples)
	if n < 8 {
		return Verdict{What: what, OK: n > 0, Text: fmt.Sprintf("%d samples are too few to tell more", n)}
	}
	early, late := of(r.Samples[n/4:n/2]), of(r.Samples[3*n/4:])
	return Verdict{What: what, OK: late <= max(early*factor, early+slack), Text: fmt.Sprintf("%s %.1f in the second quarter, %.1f in the last (%+.1f %%)", unit, early, late, percent(early, late))}
}

func percent(early, late float64) float64 {
	if early == 0 {
		return 0
	}
	return (late/early - 1) * 100
}

func median(list []Sample, f func(Sample) float64) float64 {
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

// timing: all of them are what a machine that is too busy does: policy or the check of a password took too long.
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
