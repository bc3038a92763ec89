// Command bench measures Postern end to end on loopback, beside the servers it stands next to, in one run: figures are
// only ever compared within a run. `make bench` calls it.
//
// Submission: our own client submits through STARTTLS and AUTH PLAIN to Postern with the default bundle, 10,000 users'
// senders and the decision log on, which relays to Postfix's smtp-sink; beside it the same client straight to smtp-sink.
// Milter (-milter): Postfix alone, with a milter that does nothing, and with Postern; see milter.go.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

type row struct {
	What      string   `json:"what"`
	Size      int      `json:"size"`
	Keep      int      `json:"messages_per_connection"`
	Rate      float64  `json:"messages_per_second"`
	CPU       float64  `json:"cpu_seconds_per_1000"`
	Range     string   `json:"cpu_range"`
	Sink      float64  `json:"sink_cpu_seconds_per_1000"`
	PeakMiB   float64  `json:"peak_mib"`
	Load      measured `json:"load"`
	Milter    float64  `json:"milter_cpu_seconds_per_1000,omitempty"`
	cpus      []float64
	rates     []float64
	milterCPU []float64
}

func main() {
	postern := flag.String("postern", "bin/postern", "the built program")
	count := flag.Int("n", 4000, "messages a run")
	repeat := flag.Int("repeat", 3, "repetitions, interleaved; medians are shown")
	workers := flag.Int("c", 20, "connections at a time")
	milters := flag.Bool("milter", true, "measure the milter beside Postfix, too (needs root and Postfix)")
	asJSON := flag.Bool("json", false, "JSON instead of a table")
	flag.Parse()
	if err := run(*postern, *count, *repeat, *workers, *milters, *asJSON); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(postern string, count, repeat, workers int, milters, asJSON bool) error {
	postern, err := filepath.Abs(postern)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "postern-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	rows, err := submission(postern, dir, count, repeat, workers)
	if err != nil {
		return err
	}
	if milters {
		more, err := milter(postern, dir, count/4, repeat, workers)
		if err != nil {
			return err
		}
		rows = append(rows, more...)
	}
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(rows)
	}
	fmt.Printf("%-34s %7s %5s %8s %16s %8s %9s %9s %8s\n", "what", "size", "keep", "msg/s", "CPU-s/1000", "milter", "p50", "p99", "peak MiB")
	for _, r := range rows {
		fmt.Printf("%-34s %7d %5d %8.0f %6.3f %9s %8.3f %9s %9s %8.1f\n", r.What, r.Size, r.Keep, r.Rate, r.CPU, r.Range,
			r.Milter, r.Load.P50.Round(10*time.Microsecond), r.Load.P99.Round(10*time.Microsecond), r.PeakMiB)
	}
	return nil
}

// submission interleaves Postern and the bare sink over sizes and connection uses.
func submission(postern, dir string, count, repeat, workers int) ([]row, error) {
	sinkAddr, addr := freeAddr(), freeAddr()
	sink, err := start("smtp-sink", sinkAddr, dir, tool("smtp-sink"), "-c", sinkAddr, "1000")
	if err != nil {
		return nil, err
	}
	defer sink.stop()
	if err := configure(postern, dir, addr, "smtp://"+sinkAddr, ""); err != nil {
		return nil, err
	}
	server, err := start("postern", addr, dir, postern, "serve", "--config", filepath.Join(dir, "postern.yaml"))
	if err != nil {
		return nil, err
	}
	defer server.stop()

	var rows []row
	for _, size := range []int{4096, 102400} {
		for _, keep := range []int{1, count} {
			rows = append(rows, row{What: "postern submission", Size: size, Keep: keep}, row{What: "smtp-sink alone", Size: size, Keep: keep})
		}
	}
	for range repeat {
		for i := range rows {
			r := &rows[i]
			l := load{addr: addr, tls: &tls.Config{InsecureSkipVerify: true, ServerName: "bench.example.com"}, login: "user1", pass: "bench password",
				from: "user1@example.com", recipients: 1, count: count, keep: r.Keep, workers: workers}
			target := server
			if r.What != "postern submission" {
				l.addr, l.tls, l.login, target = sinkAddr, nil, "", sink
			}
			if r.Size > 50000 {
				l.count = max(1, count/4)
			}
			l.message = sample(l.from, r.Size)
			if err := r.measure(l, target, sink, nil); err != nil {
				return nil, fmt.Errorf("%w\n%s", err, tail(target.log.String()))
			}
		}
	}
	return rows, nil
}

// measure does one repetition of a row.
func (r *row) measure(l load, server, sink, milter *process) error {
	before, sinkBefore, milterBefore := server.cpu(), sink.cpu(), milter.cpuOrZero()
	r.Load = l.run()
	if r.Load.Errors > 0 || r.Load.Messages != l.count {
		return fmt.Errorf("%s, %d octets, %d a connection: %d of %d messages went through, %d errors, first: %s",
			r.What, r.Size, r.Keep, r.Load.Messages, l.count, r.Load.Errors, r.Load.First)
	}
	per1000 := func(d time.Duration) float64 { return d.Seconds() / float64(l.count) * 1000 }
	r.cpus = append(r.cpus, per1000(server.cpu()-before))
	r.rates = append(r.rates, r.Load.PerSecond())
	r.milterCPU = append(r.milterCPU, per1000(milter.cpuOrZero()-milterBefore))
	r.CPU, r.Rate, r.Milter = median(r.cpus), median(r.rates), median(r.milterCPU)
	r.Range = fmt.Sprintf("%.2f–%.2f", slices.Min(r.cpus), slices.Max(r.cpus))
	r.Sink, r.PeakMiB = per1000(sink.cpu()-sinkBefore), server.rss()
	return nil
}

func (p *process) cpuOrZero() time.Duration {
	if p == nil {
		return 0
	}
	return p.cpu()
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}
