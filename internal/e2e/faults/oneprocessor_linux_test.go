package faults

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/e2e"
	"github.com/postern-mail/postern/internal/testenv"
)

// TestOneProcessor: on one processor, a rule that never ends is given up within its time-out and 50 ms, and another connection
// is served meanwhile. Wall time is measured beside other tests, so the best of some rounds counts: a program that cannot do it
// misses the bound in every round.
func TestOneProcessor(t *testing.T) {
	const (
		timeout = 100 * time.Millisecond
		late    = 50 * time.Millisecond
		rounds  = 15
		each    = 5 // messages of a round
	)
	dir := testenv.ShortDir(t)
	testenv.Write(t, filepath.Join(dir, "postern/message/p.rego"), runawayRules)
	s := e2e.NewSite(t, "maildir:outbox", "policy: {bundle: '"+dir+"', timeout: "+timeout.String()+"}\n"+
		"submission: {listen: '127.0.0.1:0', listen_tls: '127.0.0.1:0'}\n")
	s.Env = []string{"GOMAXPROCS=1"}
	s.Start(t)
	runaway, other := s.Client(t), s.Client(t)
	runaway.Want("warm up", "good", 500, "250 ")
	decision, noop := time.Hour, time.Hour // the longest of the best round
	for n := 0; n < rounds && (decision > timeout+late || noop > late); n++ {
		d, o := time.Duration(0), time.Duration(0)
		for i := range each {
			time.Sleep(30 * time.Millisecond) // until the process sleeps: what has to wake up can be forgotten
			ended := make(chan time.Duration, 1)
			go func() {
				began := time.Now()
				if r := runaway.Send("loops", 500); !strings.HasPrefix(r, "451 4.3.0 ") {
					t.Errorf("the rule that never ends: %q", r)
				}
				ended <- time.Since(began)
			}()
			time.Sleep(time.Duration(10+20*i) * time.Millisecond)
			began := time.Now()
			if r := other.Say("NOOP"); !strings.HasPrefix(r, "250 ") {
				t.Fatalf("the other connection: %q", r)
			}
			o = max(o, time.Since(began))
			d = max(d, <-ended)
		}
		if max(d-timeout, o) < max(decision-timeout, noop) {
			decision, noop = d, o
		}
	}
	t.Logf("best round: a decision took at most %v with a time-out of %v, the other connection waited at most %v", decision, timeout, noop)
	if decision > timeout+late {
		t.Errorf("every round had a decision of %v or more; want at most %v", decision, timeout+late)
	}
	if noop > late {
		t.Errorf("in every round the other connection waited %v or more; want at most %v", noop, late)
	}
}
