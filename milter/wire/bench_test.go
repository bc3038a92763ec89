package wire

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
)

// again is a stream that repeats one text without end.
type again struct {
	text []byte
	at   int
}

func (a *again) Read(p []byte) (int, error) {
	if a.at == len(a.text) {
		a.at = 0
	}
	n := copy(p, a.text[a.at:])
	a.at += n
	return n, nil
}

// BenchmarkReadFrame reads frames of the size of a header field up to that of a piece of the body.
func BenchmarkReadFrame(b *testing.B) {
	for _, n := range []int{30, 1000, 65535} {
		b.Run(fmt.Sprintf("octets=%d", n), func(b *testing.B) {
			frame := appendFrame(nil, byte(verbHeader), strings.Repeat("x", n))
			r := bufio.NewReaderSize(&again{text: frame}, 8<<10)
			var buf []byte
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for b.Loop() {
				if cmd, data, err := readFrame(r, &buf); err != nil || cmd != verbHeader || len(data) != n {
					b.Fatal(cmd, len(data), err)
				}
			}
		})
	}
}

// BenchmarkAppendFrame writes the frame of an operation.
func BenchmarkAppendFrame(b *testing.B) {
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		out = appendFrame(out[:0], byte(AddHeader), "Sender", "\x00", "Alice <alice@example.com>", "\x00")
	}
	if !bytes.HasSuffix(out, []byte("Sender\x00Alice <alice@example.com>\x00")) {
		b.Fatalf("%q", out)
	}
}

var _ io.Reader = (*again)(nil)
