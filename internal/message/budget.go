package message

import "sync/atomic"

// Budget is an amount of something, in octets, that many share. Whoever takes of it gives it back. A nil Budget has no end.
type Budget struct {
	Max  int64
	used atomic.Int64
}

// Take takes n, if that much is left.
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

// Used is how much is taken.
func (b *Budget) Used() int64 {
	if b == nil {
		return 0
	}
	return b.used.Load()
}

// Left is how much can still be taken; of a nil Budget, more than anybody could want.
func (b *Budget) Left() int64 {
	if b == nil {
		return 1<<63 - 1
	}
	return b.Max - b.used.Load()
}
