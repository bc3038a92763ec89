package auth

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// BenchmarkThrottle is what each try to log in pays, with empty tables and with full ones, where room is made again and again.
func BenchmarkThrottle(b *testing.B) {
	addr := func(i uint32) netip.Addr {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], i)
		return netip.AddrFrom4(a)
	}
	for _, n := range []int{0, 1000, 65_536} {
		now := time.Unix(1_767_225_600, 0)
		t := &Throttle{Now: func() time.Time { return now }}
		for i := range n {
			failed(t, addr(uint32(i)), fmt.Sprint("user", i))
		}
		b.Run(fmt.Sprintf("do=ask/entries=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				begin(b, t, addr(7), "alice").End()
			}
		})
		b.Run(fmt.Sprintf("do=fail/entries=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := uint32(n); b.Loop(); i++ {
				now = now.Add(time.Millisecond)
				failed(t, addr(i), "mallory")
			}
		})
		b.Run(fmt.Sprintf("do=succeed/entries=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := uint32(n); b.Loop(); i++ {
				now = now.Add(time.Millisecond)
				succeeded(t, addr(i), "alice")
			}
		})
	}
}
