package main

import (
	"crypto/sha256"
	"fmt"
	"sync"
)

// fate is what is meant to become of a message.
type fate uint8

const (
	pass     fate = iota
	hold          // policy quarantines it
	refuse        // policy refuses it for good
	postpone      // policy refuses it for now
	never         // a bad client's, whose end never comes or must not be taken
)

func (f fate) String() string { return [...]string{"pass", "hold", "refuse", "postpone", "never"}[f] }

type sum [8]byte // of a body

func sumOf(body []byte) sum {
	h := sha256.Sum256(body)
	return sum(h[:8])
}

// entry is a message. It is small: an hour has a million of them.
type entry struct {
	body    sum
	plan    fate
	done    bool // the client has its reply, or has lost its connection
	excused bool // the next hop took it and died before it said so
	faulted bool // the next hop was at fault while it was under way: its latency is not Postern's
	wrong   bool // it arrived with another body
	arrived uint8
	held    uint8 // copies in quarantine
	reply   int16 // 0: none
}

// ledger has every message by number. It is safe for concurrent use.
type ledger struct {
	mu      sync.Mutex
	entries []entry
	unknown int // arrivals without a number that was given out
}

// open gives out a number.
func (l *ledger) open(plan fate, body sum) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, entry{plan: plan, body: body})
	return len(l.entries) - 1
}

// change lets f see an entry; ids that were never given out are counted.
func (l *ledger) change(id int, f func(*entry)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id < 0 || id >= len(l.entries) {
		l.unknown++
		return
	}
	f(&l.entries[id])
}

// replied closes an entry and says whether the next hop was at fault meanwhile.
func (l *ledger) replied(id, code int) (faulted bool) {
	l.change(id, func(e *entry) { e.done, e.reply, faulted = true, int16(code), e.faulted })
	return faulted
}

// took is for the next hop, once it has a message and before it says so. excused: it is going to die instead.
func (l *ledger) took(id int, body sum, excused, faulted bool) {
	l.change(id, func(e *entry) {
		e.arrived++
		e.wrong = e.wrong || body != e.body
		e.excused = e.excused || excused
		e.faulted = e.faulted || faulted
	})
}

// kept is for the quarantine.
func (l *ledger) kept(id int, body sum) {
	l.change(id, func(e *entry) { e.held++; e.wrong = e.wrong || body != e.body })
}

// Tally is what became of the messages.
type Tally struct {
	Messages   int `json:"messages"`
	Accepted   int `json:"accepted"`
	Held       int `json:"quarantined"`
	Refused    int `json:"refused"`
	Deferred   int `json:"deferred"`
	Unanswered int `json:"unanswered"` // the connection ended before a reply
	Excused    int `json:"duplicates"` // deferred, though the next hop has it: it died between the two
	UnderWay   int `json:"under_way"`

	Lost    int      `json:"lost"`    // 250, and nowhere
	Doubled int      `json:"doubled"` // more than once
	Changed int      `json:"changed"` // another body
	Leaked  int      `json:"leaked"`  // refused or never ended, and there all the same; or not where it should be
	Let     int      `json:"let"`     // 250 to what policy refuses or no client ended
	Unknown int      `json:"unknown"` // arrived, and nobody sent it
	First   []string `json:"first,omitempty"`
}

// Bad is how many messages were not dealt with as they must be.
func (t *Tally) Bad() int { return t.Lost + t.Doubled + t.Changed + t.Leaked + t.Let + t.Unknown }

// tally looks at every message that the client is done with. What is quarantined may not have been read yet unless final.
func (l *ledger) tally(final bool) *Tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &Tally{Messages: len(l.entries), Unknown: l.unknown}
	for id := range l.entries {
		e := &l.entries[id]
		if !e.done {
			t.UnderWay++
			continue
		}
		if what := t.judge(e, final); what != "" && len(t.First) < 20 {
			t.First = append(t.First, fmt.Sprintf("message %d (%s), told %d, %d at the next hop, %d in quarantine: %s", id, e.plan, e.reply, e.arrived, e.held, what))
		}
	}
	return t
}

// judge counts an entry and says what is wrong about it.
func (t *Tally) judge(e *entry, final bool) string {
	count := func(n *int, what string) string { *n++; return what }
	there := int(e.arrived) + int(e.held)
	t.answer(e)
	switch {
	case e.wrong:
		return count(&t.Changed, "another body")
	case there > 1:
		return count(&t.Doubled, "more than once")
	case e.arrived > 0 && e.plan != pass:
		return count(&t.Leaked, "it should not be there")
	case e.held > 0 && e.plan != hold:
		return count(&t.Leaked, "it should not be held")
	case e.reply/100 == 2 && e.plan > hold:
		return count(&t.Let, "it should have been refused")
	case e.reply/100 == 2 && there == 0 && (e.plan == pass || final):
		return count(&t.Lost, "lost")
	case e.reply/100 == 4 && there == 1 && e.excused:
		t.Excused++
	case e.reply/100 > 2 && there > 0:
		return count(&t.Leaked, "refused, and there")
	}
	return ""
}

func (t *Tally) answer(e *entry) {
	switch {
	case e.reply == 0:
		t.Unanswered++
	case e.reply/100 == 2 && e.plan == hold:
		t.Held++
	case e.reply/100 == 2:
		t.Accepted++
	case e.reply/100 == 4:
		t.Deferred++
	default:
		t.Refused++
	}
}
