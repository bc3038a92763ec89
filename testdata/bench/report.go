package main

import (
	"encoding/json"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/postern-mail/postern/internal/testload"
)

// report prints the rows, and what Postern adds to Postfix.
func report(rows []*row, started []*testload.Process, o options) error {
	if o.json {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		begun := map[string]float64{}
		for _, p := range started {
			begun[p.Name] = p.Ready.Seconds()
		}
		return e.Encode(map[string]any{"machine": testload.Machine(), "start_seconds": begun, "rows": rows, "added": added(rows)})
	}
	fmt.Println(testload.Machine())
	for _, p := range started {
		fmt.Printf("postern, %s: started in %s with 10,000 users\n", p.Name, p.Ready.Round(time.Millisecond))
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, part := range []string{"submission", "milter"} {
		head := false
		for _, r := range rows {
			if r.Part != part {
				continue
			}
			if !head {
				fmt.Fprintf(w, "\n%s\toctets\ta connection\tat a time\tmessages/s\tCPU-s/1000\tmilter CPU-s/1000\tp50 ms\tp99 ms\tpeak MiB\t\n", part)
				head = true
			}
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%.0f\t\n", r.What, r.Size, r.Keep, r.Workers, r.Rate.text("%.0f"), r.CPU.text("%.2f"),
				r.Milter.text("%.2f"), r.P50.text("%.2f"), r.P99.text("%.1f"), r.PeakMiB.median())
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for i, a := range added(rows) {
		if i == 0 {
			fmt.Printf("\nWhat a milter adds to Postfix alone, medians:\n")
		}
		fmt.Printf("  %-18s %4d a connection, %2d at a time: Postfix %+.2f and the milter %.2f CPU-s/1000, p50 %+.2f ms\n",
			a.What, a.Keep, a.Workers, a.Postfix, a.Milter, a.P50)
	}
	return nil
}

// addition is the difference between a milter's row and that of Postfix alone.
type addition struct {
	What    string  `json:"what"`
	Keep    int     `json:"messages_per_connection"`
	Workers int     `json:"connections_at_a_time"`
	Postfix float64 `json:"postfix_cpu_seconds_per_1000"`
	Milter  float64 `json:"milter_cpu_seconds_per_1000"`
	P50     float64 `json:"p50_ms"`
}

func added(rows []*row) []addition {
	var list []addition
	for _, r := range rows {
		if r.Part != "milter" || r.milter == nil {
			continue
		}
		for _, alone := range rows {
			if alone.Part == "milter" && alone.milter == nil && alone.Keep == r.Keep && alone.Workers == r.Workers {
				list = append(list, addition{r.What, r.Keep, r.Workers, r.CPU.median() - alone.CPU.median(), r.Milter.median(), r.P50.median() - alone.P50.median()})
			}
		}
	}
	return list
}
