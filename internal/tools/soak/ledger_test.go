package main

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestLedger: each wrong outcome of a message is found, and correct outcomes are not reported.
func TestLedger(t *testing.T) {
	body, other := sumOf([]byte("body")), sumOf([]byte("other"))
	for _, c := range []struct {
		name    string
		plan    fate
		code    int
		arrives []sum // at the next hop
		excused bool
		held    []sum
		bad     func(*tally) int // nil: nothing is bad
	}{
		{"passed", pass, 250, []sum{body}, false, nil, nil},
		{"held", hold, 250, nil, false, []sum{body}, nil},
		{"refused", refuse, 550, nil, false, nil, nil},
		{"deferred", pass, 451, nil, false, nil, nil},
		{"duplicate of a hop that died", pass, 451, []sum{body}, true, nil, nil},
		{"gone, and there", pass, 0, []sum{body}, false, nil, nil},
		{"gone, and not there", pass, 0, nil, false, nil, nil},
		{"cut", never, 0, nil, false, nil, nil},
		{"lost", pass, 250, nil, false, nil, func(t *tally) int { return t.Lost }},
		{"not held", hold, 250, nil, false, nil, func(t *tally) int { return t.Lost }},
		{"sent, not held", hold, 250, []sum{body}, false, nil, func(t *tally) int { return t.Leaked }},
		{"held for nothing", pass, 250, nil, false, []sum{body}, func(t *tally) int { return t.Leaked }},
		{"doubled", pass, 250, []sum{body, body}, false, nil, func(t *tally) int { return t.Doubled }},
		{"doubled by a hop that died", pass, 250, []sum{body, body}, true, nil, func(t *tally) int { return t.Doubled }},
		{"changed", pass, 250, []sum{other}, false, nil, func(t *tally) int { return t.Changed }},
		{"changed and held", hold, 250, nil, false, []sum{other}, func(t *tally) int { return t.Changed }},
		{"deferred and there", pass, 451, []sum{body}, false, nil, func(t *tally) int { return t.Leaked }},
		{"refused and there", refuse, 550, []sum{body}, false, nil, func(t *tally) int { return t.Leaked }},
		{"let through", refuse, 250, nil, false, nil, func(t *tally) int { return t.Let }},
		{"cut and there", never, 0, []sum{body}, false, nil, func(t *tally) int { return t.Leaked }},
		{"never ended, and accepted", never, 250, nil, false, nil, func(t *tally) int { return t.Let }},
	} {
		l := &ledger{}
		id := l.open(c.plan, body)
		for _, s := range c.arrives {
			l.took(id, s, c.excused, false)
		}
		for _, s := range c.held {
			l.kept(id, s)
		}
		l.replied(id, c.code)
		got := l.tally(true)
		if c.bad == nil && got.Bad() != 0 || c.bad != nil && (c.bad(got) != 1 || got.Bad() != 1 || len(got.First) != 1) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	l := &ledger{}
	l.took(7, body, false, false)
	l.open(pass, body)
	if got := l.tally(true); got.Unknown != 1 || got.UnderWay != 1 {
		t.Errorf("one from nowhere and one under way: %+v", got)
	}
}

// TestVerdicts: growth is found, and noise is not taken for growth.
func TestVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		memory func(i int) float64
		ok     bool
	}{
		"flat":   {func(int) float64 { return 300 }, true},
		"noise":  {func(i int) float64 { return 300 + float64(i%7)*20 }, true},
		"warm":   {func(i int) float64 { return 300 - 200/float64(1+i) }, true},
		"grows":  {func(i int) float64 { return 300 + 3*float64(i) }, false},
		"jumped": {func(i int) float64 { return 300 + 400*float64(i/60) }, false},
	} {
		r := &result{Tally: &tally{Accepted: 1}, Milter: 1, Paced: 50}
		for i := range 100 {
			r.Samples = append(r.Samples, sample{Rate: 49, Collections: i, RSS: c.memory(i), Heap: c.memory(i), Descriptors: int(c.memory(i)), Goroutines: int(c.memory(i))})
		}
		r.Verdicts = judge(r)
		for _, v := range r.Verdicts {
			if strings.Contains("memory heap descriptors goroutines", v.What) && v.OK != c.ok {
				t.Errorf("%s, %s: %+v", name, v.What, v)
			}
		}
		if r.Failed() == c.ok {
			t.Errorf("%s: failed is %v", name, r.Failed())
		}
	}
	// If the pace was not kept, growth is only a warning.
	r := &result{Tally: &tally{Accepted: 1}, Milter: 1, Paced: 50, Shed: 1}
	for i := range 100 {
		r.Samples = append(r.Samples, sample{Rate: 49, Collections: i, RSS: float64(300 + 3*i)})
	}
	if r.Verdicts = judge(r); r.Failed() {
		t.Errorf("a machine that was too busy failed the run: %+v", r.Verdicts)
	}
	// The same holds after too few garbage collections.
	for i := range r.Samples {
		r.Samples[i].Collections = i / 10
	}
	r.Shed = 0
	if r.Verdicts = judge(r); r.Failed() {
		t.Errorf("too few collections failed the run: %+v", r.Verdicts)
	}
	for name, spoil := range map[string]func(*result){
		"lost": func(r *result) { r.Tally.Lost = 1 }, "under way": func(r *result) { r.Tally.UnderWay = 1 }, "milter": func(r *result) { r.MilterBad = map[string]int{"x": 1} },
		"reload": func(r *result) { r.ReloadBad = map[string]int{"x": 1} }, "panic": func(r *result) { r.Grave = []string{"panic"} }, "end": func(r *result) { r.Ended = "killed" },
		"reply": func(r *result) { r.Unplanned = map[string]int{"pass: 550 no": 1} }, "bad": func(r *result) { r.BadWrong = map[string]int{"x": 1} },
		"rest": func(r *result) { r.After.InFlight = 1 }, "descriptors left": func(r *result) { r.After.Descriptors = 100 },
	} {
		r := &result{Tally: &tally{Accepted: 1}, Milter: 1, Samples: make([]sample, 20)}
		if r.Verdicts = judge(r); r.Failed() {
			t.Fatalf("nothing is wrong: %+v", r.Verdicts)
		}
		spoil(r)
		if r.Verdicts = judge(r); !r.Failed() {
			t.Errorf("%s was not found", name)
		}
	}
}

// TestHopReads: the hop reads from a letter the number and the body that were sent.
func TestHopReads(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	l := &ledger{}
	w := &writer{text: text(r), open: l.open}
	for range 50 {
		x := w.write(r, "user1", 200<<10)
		m := newIncoming()
		for p := append([]byte(x.head), x.body...); len(p) > 0; {
			n := min(1+r.IntN(3000), len(p))
			m.write(p[:n])
			p = p[n:]
		}
		if id, sum := m.finish(); id != x.id || sum != sumOf(x.body) {
			t.Fatalf("message %d was read as %d, bodies alike: %v", x.id, id, sum == sumOf(x.body))
		}
		back := bytes.ReplaceAll(append([]byte("\r\n"), stuffed(x.body)...), []byte("\r\n.."), []byte("\r\n."))[2:]
		if !bytes.Equal(back, x.body) {
			t.Fatal("dot-stuffing changed the body")
		}
	}
}
