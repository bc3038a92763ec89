package auth

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlots: checks of strangers have three quarters of the slots, and trusted ones all of them. A check that gets none is unavailable
// after slotWait, or when its context ends, and takes nothing with it.
func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(8)
		var gives []func()
		take := func(ctx context.Context, wantWait time.Duration, ok bool) {
			t.Helper()
			began := time.Now()
			give, err := s.take(ctx)
			if took := time.Since(began); took != wantWait || (err == nil) != ok || !ok && (!errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "too many logins at once")) {
				t.Errorf("%v after %v, want %v after %v", err, took, ok, wantWait)
			}
			if err == nil {
				gives = append(gives, give)
			}
		}
		stranger, trusted := t.Context(), WithTrust(t.Context())
		for range 6 {
			take(stranger, 0, true)
		}
		take(stranger, slotWait, false)
		take(trusted, 0, true)
		take(trusted, 0, true)
		take(trusted, slotWait, false)
		time.AfterFunc(time.Second, gives[0]) // of a stranger
		take(stranger, time.Second, true)
		time.AfterFunc(2*time.Second, gives[6]) // of a trusted one
		take(stranger, slotWait, false)
		take(stranger, slotWait, false)
		soon, cancel := context.WithTimeout(trusted, time.Second)
		defer cancel()
		take(soon, 0, true)
		full, cancel := context.WithTimeout(trusted, time.Second)
		defer cancel()
		take(full, time.Second, false)
		for _, n := range []int{1, 2, 5, 7, 8, 9} { // by order of taking: those that are still held
			if n < len(gives) {
				gives[n]()
			}
		}
	})
	for n, want := range map[int]int{1: 1, 2: 1, 3: 2, 4: 3, 8: 6, 64: 48} {
		if s := newSlots(n); cap(s.all) != n || cap(s.strangers) != want {
			t.Errorf("of %d slots, strangers have %d, want %d", n, cap(s.strangers), want)
		}
	}
	synctest.Test(t, func(t *testing.T) { // trusted checks have taken all: a stranger that gives up leaves its place among strangers
		s := newSlots(1)
		give, _ := s.take(WithTrust(t.Context()))
		if _, err := s.take(t.Context()); err == nil {
			t.Error("a stranger got a slot that is taken")
		}
		give()
		if _, err := s.take(t.Context()); err != nil {
			t.Errorf("after a stranger gave up: %v", err)
		}
	})
}
