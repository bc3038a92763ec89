package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/testload"
)

// series holds one figure's values, one for each repetition.
type series []float64

func (s series) median() float64 {
	if len(s) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(s))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// text formats the median and the range.
func (s series) text(format string) string {
	if len(s) == 0 {
		return "–"
	}
	if len(s) == 1 {
		return fmt.Sprintf(format, s[0])
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

// row is one server in one use, measured once in every repetition.
type row struct {
	Part    string `json:"part"` // "submission" or "milter"
	What    string `json:"what"`
	Does    string `json:"does,omitempty"` // how it differs from the other rows
	Size    int    `json:"octets"`
	Keep    int    `json:"messages_per_connection"`
	Workers int    `json:"connections_at_a_time"`
	Count   int    `json:"messages"`
	Rate    series `json:"messages_per_second"`
	CPU     series `json:"server_cpu_seconds_per_1000"` // the server that the client talks to, with its child processes
	Milter  series `json:"milter_cpu_seconds_per_1000"` // the milter, with its child processes
	P50     series `json:"p50_us"`
	P99     series `json:"p99_us"`
	PeakMiB series `json:"peak_mib"` // during this row: of the milter, or of the server if there is no milter

	load   load
	judges bool // it refuses a sender that does not belong to the login
	server *testload.Process
	milter *testload.Process // nil: none
	idle   func() bool       // whether all work is done; nil: it is done when the client has the last reply
	output func() string     // what the server logged, for errors; nil: nothing
}

// use returns what rows must have in common to be compared. It is 0 messages a connection for every kept connection.
func (r *row) use() use {
	u := use{r.Size, r.Keep, r.Workers}
	if r.Keep > 1 {
		u.keep = 0
	}
	return u
}

// connections returns the use in words.
func (r *row) connections() string {
	kept := "one message each"
	if r.Keep > 1 {
		kept = "kept"
	}
	return fmt.Sprintf("%d octets, connections: %s, %d at a time", r.Size, kept, r.Workers)
}

// measure does one repetition. CPU time is counted until the servers have no work left.
func (r *row) measure() error {
	// Log in once before: Postern remembers a checked password for a minute, and the cost of its hash is not measured here.
	first := r.load
	first.count, first.workers = 1, 1
	if got := first.run(); got.Errors > 0 {
		return r.failed(first, got)
	}
	peak := cmp.Or(r.milter, r.server).Peak()
	server, milter := r.server.CPU(), r.milter.CPU()
	got := r.load.run()
	if got.Errors > 0 || got.Messages != r.load.count {
		peak()
		return r.failed(r.load, got)
	}
	for end := time.Now().Add(time.Minute); r.idle != nil && !r.idle(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			peak()
			return fmt.Errorf("%s: the queue was not empty after a minute\n%s", r.What, r.output())
		}
	}
	per1000 := func(d time.Duration) float64 { return d.Seconds() / float64(got.Messages) * 1000 }
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	r.CPU = append(r.CPU, per1000(r.server.CPU()-server))
	if r.milter != nil {
		used := r.milter.CPU() - milter
		if used == 0 && got.Messages >= 200 {
			peak()
			return fmt.Errorf("%s used no processor time for %d messages, so it did not see them\n%s", r.What, got.Messages, r.output())
		}
		r.Milter = append(r.Milter, per1000(used))
	}
	r.Rate, r.P50, r.P99 = append(r.Rate, got.PerSecond()), append(r.P50, us(got.P50)), append(r.P99, us(got.P99))
	r.PeakMiB = append(r.PeakMiB, peak())
	return nil
}

// prepare sends some messages, so that the server has started its worker processes, and then checks that a server that
// should judge does: one that accepts everything would be fast.
func (r *row) prepare() error {
	first := *r
	first.load.count, first.load.workers, first.load.keep = 40, min(20, r.load.workers), 2
	if err := first.measure(); err != nil || !r.judges {
		return err
	}
	wrong := r.load
	wrong.count, wrong.workers, wrong.once, wrong.from = 1, 1, true, "user2@example.com"
	if got := wrong.run(); got.Messages > 0 || !refused.MatchString(got.First) {
		return fmt.Errorf("%s does not refuse the address of another user: %d messages went through, error %q", r.What, got.Messages, got.First)
	}
	if wrong = r.load; wrong.tls == nil {
		return nil // Postfix checks passwords, not the milter
	}
	wrong.count, wrong.workers, wrong.once, wrong.pass = 1, 1, true, "wrong"
	if got := wrong.run(); got.Messages > 0 || !refused.MatchString(got.First) {
		return fmt.Errorf("%s does not refuse a wrong password: %d messages went through, error %q", r.What, got.Messages, got.First)
	}
	return nil
}

var refused = regexp.MustCompile(`got 5[0-9][0-9]`)

func (r *row) failed(l load, got measured) error {
	output := ""
	if r.output != nil {
		output = "\n" + r.output()
	}
	return fmt.Errorf("%s, %s: %d of %d messages went through, %d errors, first: %s%s", r.What, r.connections(), got.Messages, l.count, got.Errors, got.First, output)
}
