package smtpd

import (
	"encoding/binary"
	"io"
	"sync/atomic"
	"time"
)

// ids makes transaction ids: sixteen letters and digits, ten of the time in milliseconds and six of a counter with a
// random start, so that they sort by time, are unique within a process and all but certainly between two.
type ids struct{ counter atomic.Uint32 }

// digits are Crockford's, in the order of ASCII and without letters that look like others.
const digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

func (n *ids) seed(random io.Reader) error {
	var b [4]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return err
	}
	n.counter.Store(binary.LittleEndian.Uint32(b[:]))
	return nil
}

func (n *ids) next(now time.Time) string {
	var b [16]byte
	v := uint64(now.UnixMilli())
	for i := 9; i >= 0; i-- {
		b[i], v = digits[v%32], v/32
	}
	c := n.counter.Add(1)
	for i := 15; i >= 10; i-- {
		b[i], c = digits[c%32], c/32
	}
	return string(b[:])
}
