package main

import "testing"

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
