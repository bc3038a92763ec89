package message

import "sync/atomic"

// Budget is a number of octets that many users share. What is taken from it must be given back. A nil Budget is unlimited.
type Budget struct {
	Max  int64
	used atomic.Int64
}

// Take takes n and reports whether that much was left; otherwise it takes nothing.
func (b *Budget) Take(n int64) bool {
	if b == nil {
		return true
	}
	for {
		used := b.used.Load()
		if n > b.Max-used {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

// Give gives n back.
func (b *Budget) Give(n int64) {
	if b != nil {
		b.used.Add(-n)
	}
}

// Used returns how much is taken.
func (b *Budget) Used() int64 {
	if b == nil {
		return 0
	}
	return b.used.Load()
}

// Left returns how much can still be taken; for a nil Budget, the largest int64.
func (b *Budget) Left() int64 {
	if b == nil {
		return 1<<63 - 1
	}
	return b.Max - b.used.Load()
}
