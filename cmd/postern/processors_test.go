package main

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// load is so much of one processor for so long.
type load struct {
	share float64
	last  time.Duration
}

// TestProcessors: one processor as long as it is enough, all within two looks when it is not, and longer and longer between trials
// that prove wrong.
func TestProcessors(t *testing.T) {
	for _, c := range []struct {
		name  string
		loads []load
		want  []string // changes, to the tenth of a second
	}{
		{"nothing going on", []load{{0, 10 * time.Second}}, []string{"1.0 one"}},
		{"a client alone", []load{{0.8, 10 * time.Second}}, []string{"1.0 one"}},
		{"much all the time", []load{{1.7, 10 * time.Second}}, nil},
		{"too much for one, not for two", []load{{0.87, 10 * time.Second}}, nil},
		{"a burst", []load{{0.1, 5 * time.Second}, {1, 3 * time.Second}, {0.1, 5 * time.Second}}, []string{"1.0 one", "5.0 all", "9.0 one"}},
		{"one look with much is no burst", []load{{0.1, 5 * time.Second}, {1, 20 * time.Millisecond}, {0.1, time.Second}}, []string{"1.0 one"}},
		{"little, but too much for one", []load{{0.5, 1100 * time.Millisecond}, {0.95, 40 * time.Millisecond},
			{0.5, 1900 * time.Millisecond}, {0.95, 100 * time.Millisecond}, {0.5, 10 * time.Second}}, []string{"1.0 one", "1.1 all", "3.1 one"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var changes []string
			now, used := time.Unix(1000, 0), 3*time.Second
			begin := now
			p := processors{wait: littleFor, set: func(one bool) {
				changes = append(changes, fmt.Sprintf("%.1f %s", now.Sub(begin).Seconds(), map[bool]string{true: "one", false: "all"}[one]))
			}}
			wait := p.look(now, used)
			for _, l := range c.loads {
				for end := now.Add(l.last); now.Before(end); wait = p.look(now, used) {
					now = now.Add(wait)
					used += time.Duration(l.share * float64(wait))
				}
			}
			if !slices.Equal(changes, c.want) {
				t.Errorf("%q, want %q", changes, c.want)
			}
		})
	}
}

// TestProcessorsRest: it looks seldom only where nothing happens and one processor is at work; a moment without time does no harm.
func TestProcessorsRest(t *testing.T) {
	p := processors{wait: littleFor, set: func(bool) {}}
	now := time.Unix(1000, 0)
	p.look(now, 0)
	for !p.one {
		if got := p.look(now, 0); got != lookEvery {
			t.Fatalf("%v with all processors", got)
		}
		now = now.Add(lookEvery)
	}
	if got := p.look(now, 0); got != restEvery {
		t.Errorf("idle: next in %v", got)
	}
	p.look(now, 0) // at the same time
	if got := p.look(now.Add(restEvery), restEvery/10); got != lookEvery {
		t.Errorf("a tenth of a processor: next in %v", got)
	}
}

// TestProcessorTime: it grows with what is done.
func TestProcessorTime(t *testing.T) {
	before, ok := processorTime()
	if !ok {
		t.Log("cannot be told here, and spare does nothing")
		return
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if now, _ := processorTime(); now > before+10*time.Millisecond {
			return
		}
	}
	t.Error("no processor time in ten seconds of work")
}
