package main

import (
	"runtime"
	"runtime/debug"
	"testing"
)

// TestPercent: what may be made between two collections is four times what is in use, but no more than collectRoom where much is.
func TestPercent(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{{0, 400}, {1 << 20, 400}, {48 << 20, 400}, {64 << 20, 300}, {192 << 20, 100}, {384 << 20, 50}, {8 << 30, 50}} {
		if got := collectAtPercent(c.live); got != c.want {
			t.Errorf("%d octets in use: %d, want %d", c.live, got, c.want)
		}
	}
}

// TestHasten: it ends when it is told to, and when much has been made.
func TestHasten(t *testing.T) {
	stop := make(chan struct{})
	close(stop)
	hasten(stop)
	much := make([]byte, hasteRoom+1<<20)
	hasten(nil)
	runtime.KeepAlive(much)
}

// TestTune: where the environment says when to collect, nothing is changed; else what is set for the start ends with it.
func TestTune(t *testing.T) {
	percent := func() int {
		now := debug.SetGCPercent(100)
		debug.SetGCPercent(now)
		return now
	}
	before, limit := percent(), debug.SetMemoryLimit(-1)
	defer func() { debug.SetGCPercent(before); debug.SetMemoryLimit(limit) }()
	t.Setenv("GOMEMLIMIT", "1GiB")
	t.Setenv("GOGC", "70")
	debug.SetGCPercent(70)
	tune()()
	if got := percent(); got != 70 || debug.SetMemoryLimit(-1) != limit {
		t.Errorf("%d %%, %d octets, though the environment has them", got, debug.SetMemoryLimit(-1))
	}
	t.Setenv("GOMEMLIMIT", "")
	t.Setenv("GOGC", "")
	tune()()
	if got := percent(); got != collectRead || debug.SetMemoryLimit(-1) != memoryLimit {
		t.Errorf("%d %%, %d octets", got, debug.SetMemoryLimit(-1))
	}
}

// TestJump: a moment's memory is found out at the next look, or one of the next; what stays is believed after some.
func TestJump(t *testing.T) {
	for _, c := range []struct {
		name  string
		found []uint64 // MiB, by one collection after the other
		looks int
		want  uint64
		made  int // collections
	}{
		{"little", []uint64{6, 7, 8}, 3, 6, 0},
		{"slow growth", []uint64{40}, 1, 40, 0},
		{"a hash", []uint64{70, 6}, 1, 6, 1},
		{"hash upon hash", []uint64{70, 70, 134, 6}, 3, 6, 3},
		{"much that stays", []uint64{500, 500, 500, 500, 500, 500, 500}, 20, 500, jumpLooks},
	} {
		var j jump
		made := 0
		collect := func() { made++ }
		var got uint64
		for range c.looks {
			got = j.look(func() uint64 { return c.found[min(made, len(c.found)-1)] << 20 }, collect) >> 20
		}
		if got != c.want || made != c.made {
			t.Errorf("%s: %d MiB after %d collections", c.name, got, made)
		}
	}
}
