package relay

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// blocks writes text in pieces and returns what came out of the blockWriter in all; n is the size of the largest block.
func blocks(text []byte, dots bool, piece func() int) (out []byte, n int, err error) {
	buf := *newBlock().(*[]byte)
	w := blockWriter{dots: dots, buf: buf, flush: func(b []byte) error {
		out, n = append(out, b...), max(n, len(b))
		return nil
	}}
	for len(text) > 0 {
		k := min(piece(), len(text))
		if _, err := w.Write(text[:k]); err != nil {
			return out, n, err
		}
		text = text[k:]
	}
	last, err := w.end()
	return append(out, last...), max(n, len(last)), err
}

// randomText is made of what matters to a dot-stuffer; proper says that lines end in CRLF only.
func randomText(r *rand.Rand, size int, proper bool) []byte {
	pieces := []string{".", "..", "\r\n", "\r\n.", "\r\n.\r\n", "a", strings.Repeat("x", 70), "\xff"}
	if !proper {
		pieces = append(pieces, "\r", "\n", "\r\r\n", "\n\r")
	}
	var b []byte
	for len(b) < size {
		if r.IntN(50) == 0 { // long lines and runs of dots carry the text over the bounds of pieces and blocks
			b = append(b, bytes.Repeat([]byte(pieces[r.IntN(3)]), r.IntN(20_000))...)
		}
		b = append(b, pieces[r.IntN(len(pieces))]...)
	}
	return b
}

// naive checks line ends octet by octet and stuffs dots line by line.
func naive(text []byte, dots bool) (string, bool) {
	bare := strings.ReplaceAll(string(text), "\r\n", "")
	if strings.ContainsAny(bare, "\r\n") {
		return "", false
	}
	s := string(text)
	if s != "" && !strings.HasSuffix(s, "\r\n") {
		s += "\r\n"
	}
	if dots {
		return stuffed(s), true
	}
	return s, true
}

// TestBlocks compares random messages, cut into random pieces, with the simple way of doing it.
func TestBlocks(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		text := randomText(r, r.IntN(1+[]int{10, 1000, 20_000, 200_000}[seed%4]), seed%5 != 0)
		largest := []int{1, 3, 100, 4096, 70_000}[r.IntN(5)]
		if len(text) > 5000 {
			largest = max(largest, 100)
		}
		for _, dots := range []bool{true, false} {
			got, n, err := blocks(text, dots, func() int { return 1 + r.IntN(largest) })
			want, ok := naive(text, dots)
			switch {
			case ok != (err == nil) || err != nil && !errors.Is(err, errLineEnd):
				t.Errorf("seed %d: proper line ends: %v, got %v", seed, ok, err)
			case ok && string(got) != want:
				t.Errorf("seed %d, dots %v: differs from what it should be", seed, dots)
			case n > blockSize+8:
				t.Errorf("seed %d: a block of %d octets outgrew its room", seed, n)
			}
		}
	}
}

// TestBlockBounds puts each sequence that matters at each place around the bounds of a piece and of a block.
func TestBlockBounds(t *testing.T) {
	for _, what := range []string{".", "\r\n.", "\r\n..\r\n", "\r\n.\r\n", "\r\n", "\r", "\n", "\r\r\n", "\r\n\n"} {
		for _, bound := range []int{pieceSize, 2 * pieceSize, blockSize} {
			for at := bound - len(what) - 2; at <= bound+2; at++ {
				text := append(bytes.Repeat([]byte("x"), at-2), "\r\n"...)
				text = append(append(text, what...), "y\r\n"...)
				got, _, err := blocks(text, true, func() int { return len(text) })
				want, ok := naive(text, true)
				if ok != (err == nil) || ok && string(got) != want {
					t.Errorf("%q at %d: %v", what, at, err)
				}
			}
		}
	}
}

// TestBlockRoom: a message that is all dots grows by a third, and no block outgrows its room.
func TestBlockRoom(t *testing.T) {
	for shift := range 5 {
		text := []byte(strings.Repeat("x", shift*pieceSize) + "\r\n" + strings.Repeat(".\r\n", 100_000))
		got, n, err := blocks(text, true, func() int { return len(text) })
		if want, _ := naive(text, true); err != nil || string(got) != want || n > blockSize+8 {
			t.Errorf("shift %d: %v, the largest block has %d octets", shift, err, n)
		}
	}
}

// TestLineEnds: a bare CR or LF at any place is refused before the end of data, and the connection is closed, so that the next hop
// can accept nothing (RFC 5321 §2.3.8, CVE-2023-51764).
func TestLineEnds(t *testing.T) {
	big := letter("X", 200_000)
	hop := startHop(t, script{})
	h := openHop(t, Options{}, hop.url)
	texts := []string{"a\nb\r\n", "a\rb\r\n", "\n", "\r", "a\r\n.\n", "a\r\n\n.\r\nMAIL FROM:<x@example.com>\r\n", "a\n.\n", "a\r\n.\r",
		"a\r.\r\n", big + "\n.\r\n", big + "\r", big[:pieceSize-1] + "\r" + big}
	for _, text := range texts {
		_, err := transfer(h, text, "<a@example.com>", nil, "<b@example.net>")
		wantError(t, err, stageData, "554 5.6.0 The message has a line end that is not CRLF")
	}
	_ = h.Close()
	hop.stop()
	if conns, _, _, mails := hop.seen(); len(mails) != 0 || conns != len(texts) || len(hop.whole) != 0 {
		t.Errorf("%d messages, %d ends of data, %d connections for %d tries", len(mails), len(hop.whole), conns, len(texts))
	}
}

// TestBody: the message arrives unchanged. A message of another size than announced, or that cannot be read, does not arrive.
func TestBody(t *testing.T) {
	hop := startHop(t, script{})
	h := openHop(t, Options{}, hop.url)
	for _, text := range []string{"", ".", ".\r\n", "\r\n.\r\n", "no line end", letter("X", 300_000), "..\r\n.a\r\n"} {
		if _, err := transfer(h, text, "<a@example.com>", nil, "<b@example.net>"); err != nil {
			t.Fatalf("%.20q: %v", text, err)
		}
		want, _ := naive([]byte(text), true)
		if _, _, _, mails := hop.seen(); mails[len(mails)-1].raw != want {
			t.Errorf("%.20q arrived otherwise", text)
		}
	}
	_, _, _, before := hop.seen()
	broke := errors.New("disk gone")
	for name, tc := range map[string]struct {
		size int64
		body io.Reader
	}{
		"short":      {100, strings.NewReader(plainText)},
		"long":       {3, strings.NewReader(plainText)},
		"unreadable": {-1, io.MultiReader(strings.NewReader(letter("X", 100_000)), iotest.ErrReader(broke))},
	} {
		tx, _ := h.Begin(t.Context(), Envelope{From: path("<>")})
		if err := tx.Rcpt(t.Context(), path("<b@example.net>"), nil); err != nil {
			t.Fatal(err)
		}
		_, err := tx.Data(t.Context(), tc.size, func() io.Reader { return tc.body })
		if e := wantError(t, err, stageData, "451 4.3.0 Temporary failure, try again later"); name == "unreadable" && !errors.Is(e, broke) {
			t.Errorf("%s: cause %v", name, e.Cause)
		}
	}
	_ = h.Close()
	hop.stop()
	if len(hop.mails) != len(before) {
		t.Errorf("%d more arrived", len(hop.mails)-len(before))
	}
}

// BenchmarkBlockWriter measures the check of line ends and dot-stuffing.
func BenchmarkBlockWriter(b *testing.B) {
	for name, line := range map[string]string{"plain": strings.Repeat("x", 76) + "\r\n", "dots": "." + strings.Repeat("x", 75) + "\r\n", "short": "x\r\n"} {
		b.Run("lines="+name, func(b *testing.B) {
			text := []byte(strings.Repeat(line, 100<<10/len(line)))
			block := *newBlock().(*[]byte)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				w := blockWriter{dots: true, buf: block[:0], flush: func([]byte) error { return nil }}
				if _, err := w.Write(text); err != nil {
					b.Fatal(err)
				}
				if _, err := w.end(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
