package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Report prints a table of at most twelve parts of the run, the counts and the verdicts.
func (r *result) Report(w io.Writer) {
	fmt.Fprintf(w, "top rate %.0f messages/s, paced at %.0f for %.0f s\n\n", r.Top, r.Paced, r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "to second\tmessages/s\tcores\tRSS MiB\theap MiB\tdescriptors\tgoroutines\tp50 ms\tp99 ms\tmilter p99 ms\t")
	n := len(r.Samples)
	for i := range min(12, n) {
		part := r.Samples[i*n/min(12, n) : (i+1)*n/min(12, n)]
		of := func(f func(sample) float64) float64 { return median(part, f) }
		fmt.Fprintf(t, "%.0f\t%.0f\t%.2f\t%.0f\t%.0f\t%.0f\t%.0f\t%.1f\t%.1f\t%.1f\t\n", part[len(part)-1].At, of(func(s sample) float64 { return s.Rate }),
			of(func(s sample) float64 { return s.CPU }), of(func(s sample) float64 { return s.RSS }), of(func(s sample) float64 { return s.Heap }),
			of(func(s sample) float64 { return float64(s.Descriptors) }), of(func(s sample) float64 { return float64(s.Goroutines) }),
			of(func(s sample) float64 { return s.P50 }), of(func(s sample) float64 { return s.P99 }), of(func(s sample) float64 { return s.MilterP99 }))
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

// SVG draws memory, descriptors and p99 over time.
func (r *result) SVG(w io.Writer) error {
	const width, height, left, top, gap = 760, 130, 60, 30, 50
	panels := []struct {
		name string
		f    func(sample) float64
	}{{"resident memory, MiB", func(s sample) float64 { return s.RSS }}, {"open descriptors", func(s sample) float64 { return float64(s.Descriptors) }},
		{"p99 of submission, ms", func(s sample) float64 { return s.P99 }}}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width+left+30, len(panels)*(height+gap)+top)
	b.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	for i, p := range panels {
		most := 0.0
		for _, s := range r.Samples {
			most = max(most, p.f(s))
		}
		most = max(most*1.1, 1)
		y0 := top + i*(height+gap)
		fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text><rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#999"/>`+"\n", left, y0-6, p.name, left, y0, width, height)
		for _, part := range []float64{0, 0.5, 1} {
			fmt.Fprintf(&b, `<text x="%d" y="%.0f" text-anchor="end">%.0f</text>`+"\n", left-6, float64(y0+height)-part*height+4, part*most)
		}
		points := make([]string, 0, len(r.Samples))
		for _, s := range r.Samples {
			points = append(points, fmt.Sprintf("%.1f,%.1f", left+s.At/max(r.Seconds, s.At, 1)*width, float64(y0+height)-p.f(s)/most*height))
		}
		fmt.Fprintf(&b, `<polyline fill="none" stroke="#1f5fa8" stroke-width="1.2" points="%s"/>`+"\n", strings.Join(points, " "))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%.0f minutes, %.0f messages/s</text>`+"\n</svg>\n", left+width, len(panels)*(height+gap)-gap+top+20, r.Seconds/60, r.Paced)
	_, err := io.WriteString(w, b.String())
	return err
}
