package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/postern-mail/postern/internal/tools/bench/plot"
)

// figure shows the cost of one growing quantity.
type figure struct {
	Name   string   `json:"name"` // also part of the file name
	Title  string   `json:"title"`
	X      string   `json:"x"`
	Panels []*panel `json:"panels"`
	Notes  []string `json:"notes,omitempty"`
}

type panel struct {
	Y      string   `json:"y"`
	Curves []*curve `json:"curves"`
}

// curve has the lowest of a few measurements at each point, because other load on the machine only ever adds to a value.
type curve struct {
	Name      string       `json:"name"`
	Points    []plot.Point `json:"points"`
	Exponents []float64    `json:"exponents"` // between neighbours
	Verdict   string       `json:"verdict"`
}

// superLinear is the exponent above which a step counts as super-linear. 1 is linear; a quantity that grows tenfold and costs
// 20 times as much has 1.3.
const superLinear = 1.3

// growth measures all figures and draws them.
func growth(o options, dir string) ([]*figure, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	// The same setting as in the program.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	var list []*figure
	for _, part := range []struct {
		name    string
		measure func(o options, dir string) (*figure, error)
	}{
		{"rules", growRules}, {"senders", growSenders}, {"recipients", growRecipients}, {"fields", growFields}, {"size", growSize}, {"connections", growConnections},
	} {
		if o.figures != "" && !slices.Contains(strings.Split(o.figures, ","), part.name) {
			continue
		}
		begin := time.Now()
		own, err := os.MkdirTemp(dir, "")
		if err != nil {
			return nil, err
		}
		f, err := part.measure(o, own)
		if err != nil {
			return nil, err
		}
		f.Name = part.name
		f.judge()
		fmt.Fprintf(os.Stderr, "\rbench: growth: %-40s %-50s\n", f.Title, "took "+time.Since(begin).Round(time.Second).String())
		if err := f.draw(o.svg); err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

func (f *figure) add(y string, curves ...*curve) {
	f.Panels = append(f.Panels, &panel{y, curves})
}

func (c *curve) add(x, y float64) {
	// A logarithmic axis has no 0.
	c.Points = append(c.Points, plot.Point{X: x, Y: max(y, 1e-3)})
}

// judge sets the verdict of each curve by the steps in its upper half, where a constant part no longer hides the growth.
func (f *figure) judge() {
	for _, p := range f.Panels {
		for _, c := range p.Curves {
			c.Exponents = plot.Exponents(c.Points)
			upper := c.Exponents[len(c.Exponents)/2:]
			switch worst := slices.Max(upper); {
			case worst > superLinear:
				c.Verdict = "super-linear"
			case worst > 0.8:
				c.Verdict = "linear"
			case worst > 0.2:
				c.Verdict = "less than linear"
			default:
				c.Verdict = "flat"
			}
		}
	}
}

func (f *figure) draw(dir string) error {
	if dir == "" {
		return nil
	}
	out := plot.Figure{Title: f.Title, X: f.X}
	for _, p := range f.Panels {
		drawn := plot.Panel{Title: p.Y}
		for _, c := range p.Curves {
			drawn.Curves = append(drawn.Curves, plot.Curve{Name: c.Name, Points: c.Points})
		}
		out.Panels = append(out.Panels, drawn)
	}
	svg, err := out.SVG()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "growth-"+f.Name+".svg"), svg, 0o644)
}

// tables returns a table with one line for each curve.
func (f *figure) tables() []table {
	t := table{title: f.Title, head: []string{"", f.X}, notes: f.Notes}
	t.head = append(t.head, "grows", "exponents")
	for _, p := range f.Panels {
		for _, c := range p.Curves {
			var points, steps []string
			for _, pt := range c.Points {
				points = append(points, fmt.Sprintf("%s: %s", short(pt.X), short(pt.Y)))
			}
			for _, e := range c.Exponents {
				steps = append(steps, strings.Replace(fmt.Sprintf("%.2f", e), "-0.00", "0.00", 1))
			}
			t.rows = append(t.rows, []string{c.Name + " (" + p.Y + ")", strings.Join(points, ", "), c.Verdict, strings.Join(steps, " ")})
		}
	}
	return []table{t}
}

// short formats a number with three digits.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.3gM", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.3gk", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// progress prints what is being measured.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "\rbench: growth: %-100s", fmt.Sprintf(format, args...))
}

// cost returns the CPU time of one call of f in µs, garbage collection included: the lowest of five batches.
func cost(f func()) float64 {
	f()
	least := math.Inf(1)
	n := 1
	for range 5 {
		for {
			begin := ownCPU()
			for range n {
				f()
			}
			took := ownCPU() - begin
			if took >= 20*time.Millisecond {
				least = min(least, float64(took.Nanoseconds())/1e3/float64(n))
				break
			}
			n *= 2
		}
	}
	return least
}

// ownCPU returns the user and system time of this process.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
