package plot

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

func TestSVG(t *testing.T) {
	square := Curve{Name: `a < b & "c"`}
	for _, x := range []float64{1, 10, 100, 1000, 10000} {
		square.Points = append(square.Points, Point{x, x * x / 50})
	}
	f := Figure{Title: "Growth & <more>", X: "things", Panels: []Panel{{"ms", []Curve{square}}, {"MiB", []Curve{square, {"flat", []Point{{1, 7}, {10000, 7}}}}}}}
	svg, err := f.SVG()
	if err != nil {
		t.Fatal(err)
	}
	if len(svg) > 20<<10 {
		t.Errorf("%d octets", len(svg))
	}
	circles, paths := 0, 0
	for d := xml.NewDecoder(strings.NewReader(string(svg))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok {
			switch e.Name.Local {
			case "circle":
				circles++
			case "path":
				paths++
			}
		}
	}
	if circles != 12 || paths < 3 {
		t.Errorf("%d points, %d lines", circles, paths)
	}
	for _, want := range []string{"Growth &amp; &lt;more&gt;", ">10k<", ">0.01<", "a &lt; b &amp;"} {
		if !strings.Contains(string(svg), want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, points := range map[string][]Point{"none": nil, "zero": {{1, 0}}, "negative": {{-1, 1}}, "NaN": {{1, math.NaN()}}, "infinite": {{1, math.Inf(1)}}} {
		f := Figure{Panels: []Panel{{"y", []Curve{{"c", points}}}}}
		if _, err := f.SVG(); err == nil {
			t.Errorf("%s: drawn", name)
		}
	}
}

func TestExponents(t *testing.T) {
	got := Exponents([]Point{{1, 5}, {10, 5}, {100, 50}, {1000, 5000}})
	for i, want := range []float64{0, 1, 2} {
		if math.Abs(got[i]-want) > 1e-9 {
			t.Errorf("%d: %v, want %v", i, got[i], want)
		}
	}
}
