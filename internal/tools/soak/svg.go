package main

import (
	"fmt"
	"io"
	"strings"
)

// SVG draws memory, descriptors and p99 over time.
func (r *Result) SVG(w io.Writer) error {
	const width, height, left, top, gap = 760, 130, 60, 30, 50
	panels := []struct {
		name string
		f    func(Sample) float64
	}{{"resident memory, MiB", func(s Sample) float64 { return s.RSS }}, {"open descriptors", func(s Sample) float64 { return float64(s.Descriptors) }},
		{"p99 of submission, ms", func(s Sample) float64 { return s.P99 }}}
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
