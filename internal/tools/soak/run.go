package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// options configure a run. All except Rate and Progress are required.
type options struct {
	Postern   string        // the built program
	For       time.Duration // duration of the paced part
	Calibrate time.Duration // duration of the search for the top rate; the first third is not counted
	Rate      float64       // top rate in messages a second; 0: search for it
	Share     float64       // share of the top rate at which the paced part sends
	Interval  time.Duration // between samples
	Pace      time.Duration // time between changes of reloaded files; the bad clients' pace follows from it
	Idle      int           // number of idle connections
	Progress  func(string)  // called with lines about progress; nil: none
}

// result is the outcome of a run.
type result struct {
	Top       float64        `json:"top_messages_per_second"`
	Paced     float64        `json:"paced_messages_per_second"`
	Seconds   float64        `json:"seconds"`
	Tally     *tally         `json:"messages"`
	Milter    int64          `json:"milter_transactions"`
	MilterBad map[string]int `json:"milter_wrong,omitempty"`
	Shed      int64          `json:"not_sent"`
	Unplanned map[string]int `json:"unexplained,omitempty"`
	Reloads   map[string]int `json:"reloads"`
	ReloadBad map[string]int `json:"reloads_failed,omitempty"`
	Faults    map[string]int `json:"next_hop_faults"`
	Bad       map[string]int `json:"bad_clients"`
	BadWrong  map[string]int `json:"bad_clients_wrong,omitempty"`
	Log       map[string]int `json:"log"`
	Grave     []string       `json:"panics,omitempty"`
	Ended     string         `json:"ended"` // error at the end of the program; "": none
	Samples   []sample       `json:"samples"`
	Before    sample         `json:"before"`
	After     sample         `json:"after"` // after the load, once nothing is under way
	Verdicts  []verdict      `json:"verdicts"`
}

// soak is one run.
type soak struct {
	options
	ledger  *ledger
	hops    []*hop
	calm    atomic.Bool
	site    *site
	traffic *traffic
	change  *disturber
	bad     *bad
	sampler *sampler
	result  result
}

// runSoak starts everything, runs as long as o says, and ends what it started. It returns an error if the run itself failed;
// faults of the program are in the verdicts.
func runSoak(ctx context.Context, o options) (*result, error) {
	dir, err := os.MkdirTemp("", "soak-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	s := &soak{options: o, ledger: &ledger{}}
	defer func() {
		for _, h := range s.hops {
			h.close()
		}
	}()
	if err := s.start(dir); err != nil {
		return nil, err
	}
	ended := false
	defer func() {
		if !ended {
			_ = s.site.process.Stop()
		}
	}()
	if err := s.load(ctx); err != nil {
		return nil, fmt.Errorf("%w; the end of the program's log:\n%s", err, s.site.log.tail())
	}
	ended = true
	if err := s.site.process.Stop(); err != nil {
		s.result.Ended = err.Error()
	}
	s.collect()
	s.result.Verdicts = judge(&s.result)
	return &s.result, nil
}

func (s *soak) start(dir string) error {
	var addrs [2]string
	for i := range addrs {
		h, err := startHop(s.ledger, &s.calm)
		if err != nil {
			return err
		}
		s.hops, addrs[i] = append(s.hops, h), h.ln.Addr().String()
	}
	var err error
	if s.site, err = newSite(dir, s.Postern, addrs); err != nil {
		return err
	}
	text := text(rand.New(rand.NewPCG(1, 2)))
	w := &writer{text: text, open: s.ledger.open}
	s.traffic = &traffic{site: s.site, ledger: s.ledger, writer: w, milters: newMilters(s.site, text), slots: make(chan struct{}, most)}
	s.change = &disturber{site: s.site, pace: s.Pace}
	s.bad = &bad{site: s.site, writer: w, ledger: s.ledger, idle: s.Idle, pace: s.Pace / 4, unplanned: &s.traffic.unplanned}
	s.sampler = &sampler{site: s.site, traffic: s.traffic, hop: s.hops, ledger: s.ledger, began: time.Now()}
	s.sampler.reset()
	if s.result.Before, err = s.sampler.take(); err != nil {
		return err
	}
	s.say("postern is ready after %s, with %.0f MiB", s.site.process.Ready.Round(time.Millisecond), s.result.Before.RSS)
	return nil
}

func (s *soak) say(format string, arg ...any) {
	if s.Progress != nil {
		s.Progress(fmt.Sprintf(format, arg...))
	}
}

// load finds the top rate and runs the paced part, with reloads and bad clients at the same time. Then it waits until nothing is
// under way.
func (s *soak) load(ctx context.Context) error {
	around, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	var held error
	reading, stopReading := context.WithCancel(context.Background())
	var reader sync.WaitGroup
	reader.Go(func() { held = readQuarantine(reading, filepath.Join(s.site.dir, "held"), s.ledger) })
	defer func() { stop(); wg.Wait(); stopReading(); reader.Wait() }()

	for i := range logins {
		if err := until(ctx, func() error { return s.change.login(fmt.Sprintf("user%d", i)) }); err != nil {
			return err
		}
	}
	wg.Go(func() { s.bad.run(around) })
	wg.Go(func() { s.change.run(around) })
	s.result.Top = s.Rate
	if s.Rate == 0 {
		s.result.Top = s.traffic.closed(ctx, 24, s.Calibrate)
		s.say("top rate: %.0f messages/s", s.result.Top)
	}
	if s.result.Top < 1 {
		return fmt.Errorf("only %.2f messages/s were accepted: %v", s.result.Top, s.traffic.unplanned.all())
	}
	s.result.Paced = s.result.Top * s.Share
	s.paced(ctx)
	stop()
	wg.Wait()
	s.say("the load has ended; waiting for messages under way")
	if err := s.rest(); err != nil {
		return err
	}
	stopReading()
	reader.Wait()
	return held
}

// paced runs the part that the verdicts are about.
func (s *soak) paced(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.For)
	defer cancel()
	s.sampler.began = time.Now()
	var wg sync.WaitGroup
	wg.Go(func() { s.sampler.run(ctx, s.Interval, s.see) })
	s.traffic.paced(ctx, s.result.Paced)
	s.result.Seconds = time.Since(s.sampler.began).Seconds()
	wg.Wait()
}

func (s *soak) see(x sample, err error) {
	if err != nil {
		s.traffic.unplanned.add("no metrics: "+plain(err.Error()), 1)
		return
	}
	s.result.Samples = append(s.result.Samples, x)
	s.say("%4.0f s  %4.0f msg/s  %4.2f cores  RSS %4.0f MiB  heap %4.0f  fds %5d  goroutines %5d  tmp %2d  p50 %6.1f ms  p99 %7.1f ms  lost or doubled %d",
		x.At, x.Rate, x.CPU, x.RSS, x.Heap, x.Descriptors, x.Goroutines, x.Temporary, x.P50, x.P99, x.Bad)
}

// rest waits until nothing is under way, for at most two minutes.
func (s *soak) rest() error {
	s.calm.Store(true)
	for end := time.Now().Add(2 * time.Minute); ; {
		var err error
		if s.result.After, err = s.sampler.take(); err != nil {
			return err
		}
		if s.rested() || time.Now().After(end) {
			return nil
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// At rest, so many more descriptors and goroutines than at the start are allowed, connections to the next hops apart. A log
// that is being rotated and the connection that reads the metrics need some.
const (
	moreDescriptors = 8
	moreGoroutines  = 12
)

func (s *soak) rested() bool { return restedIn(&s.result) }

func restedIn(r *result) bool {
	a, b := r.After, r.Before
	return a.InFlight == 0 && a.Connections == 0 && a.Temporary == 0 && a.Descriptors <= b.Descriptors+a.HopConns+moreDescriptors &&
		a.Goroutines <= b.Goroutines+moreGoroutines
}

func (s *soak) collect() {
	r := &s.result
	r.Tally = s.ledger.tally(true)
	r.Milter, r.MilterBad = s.traffic.milters.asked.Load(), s.traffic.milters.wrong.all()
	r.Shed, r.Unplanned = s.traffic.shed.Load(), s.traffic.unplanned.all()
	r.Reloads, r.ReloadBad = s.change.done.all(), s.change.failed.all()
	r.Bad, r.BadWrong = s.bad.done.all(), s.bad.wrong.all()
	r.Faults = map[string]int{}
	for _, h := range s.hops {
		for k, n := range h.faults.all() {
			r.Faults[k] += n
		}
	}
	r.Log, r.Grave = s.site.log.messages.all(), s.site.log.grave
}

// String returns the counts in one line.
func (t *tally) String() string {
	return strings.Join([]string{fmt.Sprintf("%d messages: %d accepted, %d quarantined, %d refused, %d deferred, %d whose clients had left", t.Messages, t.Accepted, t.Held,
		t.Refused, t.Deferred, t.Unanswered), fmt.Sprintf("%d possible duplicates (the next hop accepted it and died before its reply)", t.Excused)}, "; ")
}
