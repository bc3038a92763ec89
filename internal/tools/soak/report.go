package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Report prints a table of at most twelve stretches of time, what happened, and the verdicts.
func (r *Result) Report(w io.Writer) {
	fmt.Fprintf(w, "top rate %.0f messages/s, paced at %.0f for %.0f s\n\n", r.Top, r.Paced, r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "to second\tmessages/s\tcores\tRSS MiB\theap MiB\tdescriptors\tgoroutines\tp50 ms\tp99 ms\tmilter p99 ms\t")
	n := len(r.Samples)
	for i := range min(12, n) {
		part := r.Samples[i*n/min(12, n) : (i+1)*n/min(12, n)]
		of := func(f func(Sample) float64) float64 { return median(part, f) }
		fmt.Fprintf(t, "%.0f\t%.0f\t%.2f\t%.0f\t%.0f\t%.0f\t%.0f\t%.1f\t%.1f\t%.1f\t\n", part[len(part)-1].At, of(func(s Sample) float64 { return s.Rate }),
			of(func(s Sample) float64 { return s.CPU }), of(func(s Sample) float64 { return s.RSS }), of(func(s Sample) float64 { return s.Heap }),
			of(func(s Sample) float64 { return float64(s.Descriptors) }), of(func(s Sample) float64 { return float64(s.Goroutines) }),
			of(func(s Sample) float64 { return s.P50 }), of(func(s Sample) float64 { return s.P99 }), of(func(s Sample) float64 { return s.MilterP99 }))
	}
	_ = t.Flush()
	fmt.Fprintf(w, "\n%s\n", r.Tally)
	for _, part := range []struct {
		what string
		m    map[string]int
	}{{"next hop", r.Faults}, {"bad clients", r.Bad}, {"reloads", r.Reloads}, {"log", r.Log}} {
		var list []string
		for _, k := range slices.Sorted(maps.Keys(part.m)) {
			list = append(list, fmt.Sprintf("%d × %s", part.m[k], k))
		}
		fmt.Fprintf(w, "%s: %s\n", part.what, strings.Join(list, ", "))
	}
	fmt.Fprintln(w)
	for _, v := range r.Verdicts {
		sign := "ok  "
		if !v.OK {
			sign = "FAIL"
			if v.Warn {
				sign = "warn"
			}
		}
		fmt.Fprintf(w, "%s %s: %s\n", sign, v.What, v.Text)
	}
}
