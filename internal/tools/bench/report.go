package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
)

// results holds everything that a run measured.
type results struct {
	Machine string      `json:"machine"`
	Taken   string      `json:"taken"`
	Busy    string      `json:"load_average_before"`
	Skipped []string    `json:"not_measured"`
	Started []startTime `json:"start"`
	Rows    []*row      `json:"rows"`
	Added   []addition  `json:"added"`
	Growth  []*figure   `json:"growth"`
}

// startTime is the time from the start of Postern to its first answer.
type startTime struct {
	Part    string  `json:"part"`
	Seconds float64 `json:"seconds"`
}

// table is a table of the report.
type table struct {
	title string
	head  []string
	rows  [][]string
	notes []string
}

func (res *results) report(o options) error {
	if o.json != "" {
		text, err := json.MarshalIndent(res, "", "  ")
		if err != nil {
			return err
		}
		text = append(text, '\n')
		if o.json == "-" {
			_, err = os.Stdout.Write(text)
			return err
		}
		if err := os.WriteFile(o.json, text, 0o644); err != nil {
			return err
		}
	}
	fmt.Printf("%s; before %s\n", res.Machine, res.Busy)
	for _, b := range res.Started {
		fmt.Printf("postern, %s: first answer after %.0f ms, with 10,000 users\n", b.Part, b.Seconds*1000)
	}
	for _, s := range res.Skipped {
		fmt.Printf("not measured: %s\n", s)
	}
	for _, t := range res.tables() {
		if err := t.write(os.Stdout, o.markdown); err != nil {
			return err
		}
	}
	return nil
}

func (res *results) tables() []table {
	var list []table
	var last *row
	for _, r := range res.Rows {
		if last == nil || r.Part != last.Part || r.use() != last.use() {
			list = append(list, table{title: r.Part + ", " + r.connections(), head: head(r.Part)})
		}
		last = r
		t := &list[len(list)-1]
		t.rows = append(t.rows, r.cells())
	}
	if len(res.Added) > 0 {
		t := table{title: "what a milter adds to Postfix alone (medians)", head: []string{"", "at a time", "Postfix CPU-s/1000", "milter CPU-s/1000", "p50 ms"}}
		for _, a := range res.Added {
			t.rows = append(t.rows, []string{a.What, fmt.Sprintf("%d, %s", a.Workers, keptOr(a.Keep)), fmt.Sprintf("%+.2f", a.Postfix), fmt.Sprintf("%.2f", a.Milter), fmt.Sprintf("%+.3f", a.P50/1000)})
		}
		list = append(list, t)
	}
	if t := duties(res.Rows); len(t.rows) > 0 {
		list = append(list, t)
	}
	for _, f := range res.Growth {
		list = append(list, f.tables()...)
	}
	return list
}

func keptOr(keep int) string {
	if keep > 1 {
		return "kept"
	}
	return "one message each"
}

func head(part string) []string {
	h := []string{"", "messages/s", "CPU-s/1000", "p50 ms", "p99 ms", "peak MiB"}
	if part == "milter" {
		h = []string{"", "messages/s", "Postfix CPU-s/1000", "milter CPU-s/1000", "p50 ms", "p99 ms", "peak MiB"}
	}
	return h
}

func (r *row) cells() []string {
	c := []string{r.What, r.Rate.text("%.0f"), r.CPU.text("%.3f")}
	if r.Part == "milter" {
		c = append(c, r.Milter.text("%.3f"))
	}
	return append(c, r.P50.scaled(1e-3).text("%.3f"), r.P99.scaled(1e-3).text("%.2f"), r.PeakMiB.text("%.0f"))
}

func (s series) scaled(by float64) series {
	out := make(series, len(s))
	for i, v := range s {
		out[i] = v * by
	}
	return out
}

// duties returns a table of how rows differ.
func duties(rows []*row) table {
	t := table{title: "how they differ", head: []string{"", "notes"}}
	seen := map[string]bool{}
	for _, r := range rows {
		if key := r.Part + r.What; r.Does != "" && !seen[key] {
			seen[key] = true
			t.rows = append(t.rows, []string{r.What, r.Does})
		}
	}
	return t
}

func (t table) write(w io.Writer, markdown bool) error {
	if !markdown {
		fmt.Fprintf(w, "\n%s\n", t.title)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, r := range append([][]string{t.head}, t.rows...) {
			fmt.Fprintf(tw, "  %s\n", strings.Join(r, "\t"))
		}
		for _, n := range t.notes {
			fmt.Fprintf(tw, "  %s\n", n)
		}
		return tw.Flush()
	}
	fmt.Fprintf(w, "\n%s:\n\n| %s |\n|%s\n", strings.ToUpper(t.title[:1])+t.title[1:], strings.Join(t.head, " | "), strings.Repeat("---|", len(t.head)))
	for _, r := range t.rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(r, " | "))
	}
	for _, n := range t.notes {
		fmt.Fprintf(w, "\n%s\n", n)
	}
	return nil
}

// addition is the difference between the row of a milter and that of Postfix alone.
type addition struct {
	What    string  `json:"what"`
	Keep    int     `json:"messages_per_connection"`
	Workers int     `json:"connections_at_a_time"`
	Postfix float64 `json:"postfix_cpu_seconds_per_1000"`
	Milter  float64 `json:"milter_cpu_seconds_per_1000"`
	P50     float64 `json:"p50_us"`
}

func added(rows []*row) []addition {
	var list []addition
	for _, r := range rows {
		if r.Part != "milter" || r.milter == nil {
			continue
		}
		for _, alone := range rows {
			if alone.Part == "milter" && alone.milter == nil && alone.use() == r.use() {
				list = append(list, addition{r.What, r.Keep, r.Workers, r.CPU.median() - alone.CPU.median(), r.Milter.median(), r.P50.median() - alone.P50.median()})
			}
		}
	}
	return list
}

// loadAverage returns the load of the machine before the run.
func loadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	return cmp.Or(strings.Join(strings.Fields(string(b))[:min(3, len(strings.Fields(string(b))))], " "), "unknown")
}
