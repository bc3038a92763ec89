package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// sample is the state of the program at one time, and the rates since the sample before.
type sample struct {
	At          float64 `json:"at_seconds"`
	RSS         float64 `json:"rss_mib"`
	Heap        float64 `json:"heap_mib"`    // in use, garbage included
	Collections int     `json:"collections"` // garbage collections since the start
	Goroutines  int     `json:"goroutines"`
	Descriptors int     `json:"descriptors"`
	Temporary   int     `json:"temporary_files"` // open but deleted, or left in $TMPDIR
	Connections int     `json:"connections"`
	InFlight    int     `json:"in_flight"`
	HopConns    int     `json:"next_hop_connections"`
	Rate        float64 `json:"messages_per_second"`
	CPU         float64 `json:"cpu"` // cores
	P50         float64 `json:"p50_ms"`
	P99         float64 `json:"p99_ms"`
	MilterP50   float64 `json:"milter_p50_ms"`
	MilterP99   float64 `json:"milter_p99_ms"`
	Bad         int     `json:"lost_or_doubled"` // messages with a wrong outcome so far
}

// sampler takes samples.
type sampler struct {
	site    *site
	traffic *traffic
	hop     []*hop
	ledger  *ledger
	began   time.Time

	last time.Time
	sent int64
	cpu  time.Duration
}

// reset starts a new interval.
func (s *sampler) reset() {
	s.last, s.sent, s.cpu = time.Now(), s.traffic.sent.Load(), s.site.process.CPU()
	s.traffic.latencies.take()
	s.traffic.milters.latencies.take()
}

func (s *sampler) take() (sample, error) {
	m, err := s.site.metrics()
	if err != nil {
		return sample{}, err
	}
	pid := s.site.process.PID()
	now, sent, cpu := time.Now(), s.traffic.sent.Load(), s.site.process.CPU()
	took := now.Sub(s.last).Seconds()
	out := sample{At: now.Sub(s.began).Seconds(), RSS: s.site.process.Resident(), Heap: m["go_memstats_heap_inuse_bytes"] / (1 << 20),
		Goroutines: int(m["go_goroutines"]), Collections: int(m["go_gc_duration_seconds_count"]),
		Connections: int(m["postern_submission_connections"] + m["postern_milter_connections"]), InFlight: int(m["postern_submission_in_flight"]),
		Rate: float64(sent-s.sent) / took, CPU: (cpu - s.cpu).Seconds() / took}
	out.Descriptors, out.Temporary = descriptors(pid, filepath.Join(s.site.dir, "tmp"))
	for _, h := range s.hop {
		h.mu.Lock()
		out.HopConns += len(h.conns)
		h.mu.Unlock()
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	_, p50, p99 := s.traffic.latencies.take()
	out.P50, out.P99 = ms(p50), ms(p99)
	_, p50, p99 = s.traffic.milters.latencies.take()
	out.MilterP50, out.MilterP99 = ms(p50), ms(p99)
	out.Bad = s.ledger.tally(false).Bad()
	s.last, s.sent, s.cpu = now, sent, cpu
	return out, nil
}

// run takes a sample every interval until ctx ends.
func (s *sampler) run(ctx context.Context, interval time.Duration, see func(sample, error)) {
	s.reset()
	for wait(ctx, interval) {
		see(s.take())
	}
}

// descriptors counts open descriptors and temporary files.
func descriptors(pid int, tmp string) (open, temporary int) {
	list, _ := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	for _, e := range list {
		to, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/fd/" + e.Name())
		if strings.HasPrefix(to, tmp) {
			temporary++
		}
	}
	left, _ := os.ReadDir(tmp)
	return len(list), temporary + len(left)
}

// readQuarantine moves quarantined messages from the Maildir to the ledger until ctx ends, and then once more.
func readQuarantine(ctx context.Context, dir string, l *ledger) error {
	for {
		more := wait(ctx, 2*time.Second)
		list, err := os.ReadDir(filepath.Join(dir, "new"))
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		for _, e := range list {
			path := filepath.Join(dir, "new", e.Name())
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			id := -1
			head, body, _ := bytes.Cut(b, []byte("\r\n\r\n"))
			for line := range bytes.Lines(head) {
				id = max(id, idOf(line))
			}
			l.kept(id, sumOf(body))
			if err := os.Remove(path); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
	}
}
