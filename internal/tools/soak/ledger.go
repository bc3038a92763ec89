package main

import (
	"crypto/sha256"
	"fmt"
	"sync"
)

// fate is the planned outcome of a message.
type fate uint8

const (
	pass     fate = iota
	hold          // policy quarantines it
	refuse        // policy rejects it
	postpone      // policy defers it
	never         // from a bad client: incomplete, or to be refused
)

func (f fate) String() string { return [...]string{"pass", "hold", "refuse", "postpone", "never"}[f] }

type sum [8]byte // start of the SHA-256 of a body

func sumOf(body []byte) sum {
	h := sha256.Sum256(body)
	return sum(h[:8])
}

// entry is a message. It is small, because an hour has a million of them.
type entry struct {
	body    sum
	plan    fate
	done    bool // the client has its reply or lost its connection
	excused bool // the next hop accepted it and closed before its reply
	faulted bool // a fault of the next hop delayed it, so its latency does not count
	wrong   bool // it arrived with a different body
	arrived uint8
	held    uint8 // copies in quarantine
	reply   int16 // 0: none
}

// ledger has an entry for every message, by number. It is safe for concurrent use.
type ledger struct {
	mu      sync.Mutex
	entries []entry
	unknown int // arrivals with a number that was not assigned
}

// open adds an entry and returns its number.
func (l *ledger) open(plan fate, body sum) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, entry{plan: plan, body: body})
	return len(l.entries) - 1
}

// change calls f with an entry. Numbers that were not assigned are counted.
func (l *ledger) change(id int, f func(*entry)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id < 0 || id >= len(l.entries) {
		l.unknown++
		return
	}
	f(&l.entries[id])
}

// replied closes an entry and reports whether a fault of the next hop delayed it.
func (l *ledger) replied(id, code int) (faulted bool) {
	l.change(id, func(e *entry) { e.done, e.reply, faulted = true, int16(code), e.faulted })
	return faulted
}

// took records that the next hop has accepted a message. It is called before the reply. excused means that the next hop
// closes the connection instead of replying.
func (l *ledger) took(id int, body sum, excused, faulted bool) {
	l.change(id, func(e *entry) {
		e.arrived++
		e.wrong = e.wrong || body != e.body
		e.excused = e.excused || excused
		e.faulted = e.faulted || faulted
	})
}

// kept records a message found in the quarantine.
func (l *ledger) kept(id int, body sum) {
	l.change(id, func(e *entry) { e.held++; e.wrong = e.wrong || body != e.body })
}

// tally counts the outcomes of messages.
type tally struct {
	Messages   int `json:"messages"`
	Accepted   int `json:"accepted"`
	Held       int `json:"quarantined"`
	Refused    int `json:"refused"`
	Deferred   int `json:"deferred"`
	Unanswered int `json:"unanswered"` // the connection ended before a reply
	Excused    int `json:"duplicates"` // deferred although the next hop has it, because it closed before its reply
	UnderWay   int `json:"under_way"`

	Lost    int      `json:"lost"`    // 250, but it did not arrive
	Doubled int      `json:"doubled"` // arrived more than once
	Changed int      `json:"changed"` // arrived with a different body
	Leaked  int      `json:"leaked"`  // arrived although it was refused or incomplete, or arrived in the wrong place
	Let     int      `json:"let"`     // 250 although policy refuses it or it is incomplete
	Unknown int      `json:"unknown"` // arrived without having been sent
	First   []string `json:"first,omitempty"`
}

// Bad returns the number of messages with a wrong outcome.
func (t *tally) Bad() int { return t.Lost + t.Doubled + t.Changed + t.Leaked + t.Let + t.Unknown }

// tally judges every message whose client is done. If final is false, messages in quarantine may not have been read yet.
func (l *ledger) tally(final bool) *tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &tally{Messages: len(l.entries), Unknown: l.unknown}
	for id := range l.entries {
		e := &l.entries[id]
		if !e.done {
			t.UnderWay++
			continue
		}
		if what := t.judge(e, final); what != "" && len(t.First) < 20 {
			t.First = append(t.First, fmt.Sprintf("message %d (%s), reply %d, %d at the next hop, %d in quarantine: %s", id, e.plan, e.reply, e.arrived, e.held, what))
		}
	}
	return t
}

// judge counts an entry and returns what is wrong with it, or "".
func (t *tally) judge(e *entry, final bool) string {
	count := func(n *int, what string) string { *n++; return what }
	there := int(e.arrived) + int(e.held)
	t.answer(e)
	switch {
	case e.wrong:
		return count(&t.Changed, "different body")
	case there > 1:
		return count(&t.Doubled, "more than once")
	case e.arrived > 0 && e.plan != pass:
		return count(&t.Leaked, "it should not have arrived")
	case e.held > 0 && e.plan != hold:
		return count(&t.Leaked, "it should not be in quarantine")
	case e.reply/100 == 2 && e.plan > hold:
		return count(&t.Let, "it should have been refused")
	case e.reply/100 == 2 && there == 0 && (e.plan == pass || final):
		return count(&t.Lost, "lost")
	case e.reply/100 == 4 && there == 1 && e.excused:
		t.Excused++
	case e.reply/100 > 2 && there > 0:
		return count(&t.Leaked, "refused, but it arrived")
	}
	return ""
}

func (t *tally) answer(e *entry) {
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
