// Package plot draws curves on logarithmic axes as SVG. A figure has panels, two in a row, with the same quantity on the x axis.
// The colours are readable on light and dark pages. The result refers to no other file.
package plot

import (
	"errors"
	"fmt"
	"html"
	"math"
	"strings"
)

// Point is one measurement. Both values must be above 0.
type Point struct{ X, Y float64 }

// Curve is a named series of points, ordered by X.
type Curve struct {
	Name   string
	Points []Point
}

// Panel is one pair of axes.
type Panel struct {
	Title  string // title of the y axis, with its unit
	Curves []Curve
}

// Figure is a set of panels with the same quantity on the x axis.
type Figure struct {
	Title  string
	X      string // title of the x axis, with its unit
	Panels []Panel
}

const (
	panelWidth, panelHeight = 420.0, 300.0
	head, top, bottom       = 28.0, 26.0, 46.0
	left, gap, right        = 62.0, 34.0, 20.0
	foreground, grid        = "#7d8590", "#7d859055" // contrast of about 4:1 on white and on near-black
)

var colours = []string{"#2f81f7", "#d9730d", "#2da44e", "#a371f7", "#cf4a6a"}

// limits is a range of whole decades, at least one.
type limits struct{ low, high int }

func (l *limits) cover(v float64) {
	l.low = min(l.low, int(math.Floor(math.Log10(v)+1e-9)))
	l.high = max(l.high, int(math.Ceil(math.Log10(v)-1e-9)))
}

// at returns the position of v on the axis, from 0 to 1.
func (l limits) at(v float64) float64 {
	return (math.Log10(v) - float64(l.low)) / float64(l.high-l.low)
}

func cover(values []float64) (limits, error) {
	l := limits{math.MaxInt32, math.MinInt32}
	for _, v := range values {
		if !(v > 0) || math.IsInf(v, 0) {
			return l, fmt.Errorf("plot: a logarithmic axis has no place for %v", v)
		}
		l.cover(v)
	}
	if len(values) == 0 {
		return l, errors.New("plot: a panel has no points")
	}
	if l.low == l.high {
		l.high++
	}
	return l, nil
}

// SVG draws the figure.
func (f Figure) SVG() ([]byte, error) {
	var b strings.Builder
	columns := min(2, len(f.Panels))
	width := left + float64(columns)*panelWidth + float64(columns-1)*(gap+left) + right
	height := head + float64((len(f.Panels)+1)/2)*(top+panelHeight+bottom)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" role="img" font-family="system-ui,sans-serif" font-size="12" fill="%s">`+"\n",
		width, height, width, height, foreground)
	fmt.Fprintf(&b, "<title>%s</title>\n", html.EscapeString(f.Title))
	fmt.Fprintf(&b, `<text x="%.0f" y="20" font-size="15" font-weight="600">%s</text>`+"\n", left, html.EscapeString(f.Title))
	for i, p := range f.Panels {
		x := left + float64(i%2)*(panelWidth+gap+left)
		y := head + top + float64(i/2)*(top+panelHeight+bottom)
		if err := p.draw(&b, x, y, f.X); err != nil {
			return nil, fmt.Errorf("%s, %s: %w", f.Title, p.Title, err)
		}
	}
	b.WriteString("</svg>\n")
	return []byte(b.String()), nil
}

func (p Panel) draw(b *strings.Builder, x0, y0 float64, xTitle string) error {
	var xs, ys []float64
	for _, c := range p.Curves {
		for _, pt := range c.Points {
			xs, ys = append(xs, pt.X), append(ys, pt.Y)
		}
	}
	xl, err := cover(xs)
	if err != nil {
		return err
	}
	yl, err := cover(ys)
	if err != nil {
		return err
	}
	px := func(v float64) float64 { return x0 + xl.at(v)*panelWidth }
	py := func(v float64) float64 { return y0 + (1-yl.at(v))*panelHeight }
	for d := xl.low; d <= xl.high; d++ {
		at := px(math.Pow10(d))
		fmt.Fprintf(b, `<path d="M%.1f %.1fV%.1f" stroke="%s"/><text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n",
			at, y0, y0+panelHeight, grid, at, y0+panelHeight+17, number(d))
	}
	for d := yl.low; d <= yl.high; d++ {
		at := py(math.Pow10(d))
		fmt.Fprintf(b, `<path d="M%.1f %.1fH%.1f" stroke="%s"/><text x="%.1f" y="%.1f" text-anchor="end">%s</text>`+"\n",
			x0, at, x0+panelWidth, grid, x0-6, at+4, number(d))
	}
	fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="none" stroke="%s"/>`+"\n", x0, y0, panelWidth, panelHeight, foreground)
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", x0+panelWidth/2, y0+panelHeight+36, html.EscapeString(xTitle))
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" font-weight="600">%s</text>`+"\n", x0, y0-9, html.EscapeString(p.Title))
	for i, c := range p.Curves {
		c.draw(b, colours[i%len(colours)], px, py)
		y := y0 + 18 + 17*float64(i)
		fmt.Fprintf(b, `<path d="M%.1f %.1fh18" stroke="%s" stroke-width="2.5"/><text x="%.1f" y="%.1f">%s</text>`+"\n",
			x0+10, y-4, colours[i%len(colours)], x0+34, y, html.EscapeString(c.Name))
	}
	return nil
}

func (c Curve) draw(b *strings.Builder, colour string, px, py func(float64) float64) {
	fmt.Fprintf(b, `<g fill="%s"><path d="`, colour)
	for i, pt := range c.Points {
		step := "L"
		if i == 0 {
			step = "M"
		}
		fmt.Fprintf(b, "%s%.1f %.1f", step, px(pt.X), py(pt.Y))
	}
	fmt.Fprintf(b, `" fill="none" stroke="%s" stroke-width="2"/>`, colour)
	for _, pt := range c.Points {
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3"/>`, px(pt.X), py(pt.Y))
	}
	b.WriteString("</g>\n")
}

// number formats a power of ten, such as 10k.
func number(decade int) string {
	switch {
	case decade < 0:
		return fmt.Sprintf("%.*f", -decade, math.Pow10(decade))
	case decade >= 9:
		return fmt.Sprintf("%.0fG", math.Pow10(decade-9))
	case decade >= 6:
		return fmt.Sprintf("%.0fM", math.Pow10(decade-6))
	case decade >= 4:
		return fmt.Sprintf("%.0fk", math.Pow10(decade-3))
	}
	return fmt.Sprintf("%.0f", math.Pow10(decade))
}

// Exponents returns the slopes between neighbours on logarithmic axes: 0 if twice the quantity costs the same, 1 if it costs
// twice as much, 2 if it costs four times as much.
func Exponents(points []Point) []float64 {
	var list []float64
	for i := 1; i < len(points); i++ {
		a, b := points[i-1], points[i]
		list = append(list, math.Log(b.Y/a.Y)/math.Log(b.X/a.X))
	}
	return list
}
