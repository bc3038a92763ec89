package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/testload"
)

// series is what the repetitions of one figure gave.
type series []float64

func (s series) median() float64 {
	if len(s) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(s))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// text is the median and the range.
func (s series) text(format string) string {
	if len(s) == 0 {
		return "–"
	}
	return fmt.Sprintf(format+" ["+format+" "+format+"]", s.median(), slices.Min(s), slices.Max(s))
}

// MarshalJSON implements json.Marshaler.
func (s series) MarshalJSON() ([]byte, error) {
	if len(s) == 0 {
		return []byte("null"), nil
	}
	return json.Marshal(map[string]any{"median": s.median(), "least": slices.Min(s), "most": slices.Max(s), "runs": []float64(s)})
}

// row is one thing that is measured, in every repetition.
type row struct {
	Part    string `json:"part"` // "submission" or "milter"
	What    string `json:"what"`
	Size    int    `json:"octets"`
	Keep    int    `json:"messages_per_connection"`
	Workers int    `json:"connections_at_a_time"`
	Count   int    `json:"messages"`
	Rate    series `json:"messages_per_second"`
	CPU     series `json:"server_cpu_seconds_per_1000"` // of the server that the client talks to, with its children
	Milter  series `json:"milter_cpu_seconds_per_1000"`
	P50     series `json:"p50_ms"`
	P99     series `json:"p99_ms"`
	PeakMiB series `json:"peak_mib"` // of the milter, or of the server where there is none, during this row

	load    load
	server  *testload.Process
	milter  *testload.Process // nil: none
	settled func() (ok bool)  // nil: all work is done when the client has its reply
	explain func() string     // what the server said, for errors
}

// measure does one repetition. The servers' CPU time counts until they have nothing left to do.
func (r *row) measure() error {
	held := cmp.Or(r.milter, r.server)
	held.ResetPeak()
	server, milter := r.server.CPU(), r.milter.CPU()
	got := r.load.run()
	if got.Errors > 0 || got.Messages != r.load.count {
		said := ""
		if r.explain != nil {
			said = "\n" + r.explain()
		}
		return fmt.Errorf("%s, %d octets, %d a connection: %d of %d messages went through, %d errors, first: %s%s",
			r.What, r.Size, r.Keep, got.Messages, r.load.count, got.Errors, got.First, said)
	}
	for end := time.Now().Add(time.Minute); r.settled != nil && !r.settled(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%s: the queue did not empty within a minute", r.What)
		}
	}
	per1000 := func(d time.Duration) float64 { return d.Seconds() / float64(got.Messages) * 1000 }
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	r.CPU = append(r.CPU, per1000(r.server.CPU()-server))
	if r.milter != nil {
		r.Milter = append(r.Milter, per1000(r.milter.CPU()-milter))
	}
	r.Rate, r.P50, r.P99 = append(r.Rate, got.PerSecond()), append(r.P50, ms(got.P50)), append(r.P99, ms(got.P99))
	r.PeakMiB = append(r.PeakMiB, held.PeakMiB())
	return nil
}

func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}
