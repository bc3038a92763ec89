package message

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
)

// BenchmarkParseAddresses is one field of originators or recipients.
func BenchmarkParseAddresses(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		value := strings.TrimSuffix(strings.Repeat("Bob Example <bob@example.net>, ", n), ", ") // unfolded, as fields give it
		for name, text := range map[string]string{"plain": value, "quoted": strings.ReplaceAll(value, "Bob Example", `"Example, \"Bob\""`)} {
			b.Run(fmt.Sprintf("names=%s/addresses=%d", name, n), func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				for b.Loop() {
					if got, err := ParseAddresses(text); err != nil || len(got.List) != n {
						b.Fatal(len(got.List), err)
					}
				}
			})
		}
	}
}

// BenchmarkParsePath is the argument of MAIL or RCPT.
func BenchmarkParsePath(b *testing.B) {
	for name, text := range map[string]string{
		"plain": "<alice.example@mail.example.com> SIZE=4096 BODY=8BITMIME", "quoted": `<"alice > example"@mail.example.com>`, "literal": "<alice@[192.0.2.7]>", "null": "<>",
	} {
		b.Run("path="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := ParsePath(text, false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkHeaderSize is parsing and editing as the number of fields grows.
func BenchmarkHeaderSize(b *testing.B) {
	add, _ := NewEdit(OpAddHeader, "Sender", 0, "Alice <alice@example.com>", false)
	remove, _ := NewEdit(OpRemoveHeader, "X-Field-1", 0, "", false)
	edits, err := Plan([]Edit{add, remove})
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{5, 50, 500} {
		var text strings.Builder
		for i := range n {
			fmt.Fprintf(&text, "X-Field-%d: some value that is not long\r\n", i)
		}
		block := []byte(text.String() + "\r\n")
		b.Run(fmt.Sprintf("do=parse/fields=%d", n), func(b *testing.B) {
			b.SetBytes(int64(len(block)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseHeader(block, Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
		h, err := ParseHeader(block, Limits{})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("do=apply/fields=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h.Apply(edits); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("do=write/fields=%d", n), func(b *testing.B) {
			var out []byte
			b.SetBytes(int64(len(block)))
			b.ReportAllocs()
			for b.Loop() {
				out = h.AppendTo(out[:0])
			}
		})
	}
}

// BenchmarkNewEdit is the check of an edit where it is made.
func BenchmarkNewEdit(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := NewEdit(OpAddHeader, "Sender", 0, "Alice <alice@example.com>", false); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSpool takes a message in and reads it once, in memory and in a file.
func BenchmarkSpool(b *testing.B) {
	piece := bytes.Repeat([]byte(strings.Repeat("x", 76)+"\r\n"), 4096/78)
	for _, c := range []struct {
		kind   string
		octets int
		memory int64
	}{{"memory", 4 << 10, 64 << 10}, {"memory", 64 << 10, 64 << 10}, {"file", 64 << 10, 4 << 10}, {"file", 1 << 20, 64 << 10}} {
		b.Run(fmt.Sprintf("in=%s/octets=%d", c.kind, c.octets), func(b *testing.B) {
			place := Place{Dir: b.TempDir(), Memory: c.memory}
			b.SetBytes(int64(c.octets))
			b.ReportAllocs()
			for b.Loop() {
				s := place.NewSpool(1 << 30)
				for left := c.octets; left > 0; left -= len(piece) {
					if _, err := s.Write(piece[:min(left, len(piece))]); err != nil {
						b.Fatal(err)
					}
				}
				if n, err := io.Copy(io.Discard, s.Section(0)); err != nil || n != int64(c.octets) {
					b.Fatal(n, err)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkManyOriginators is a header that a login can send to make work: 280 KB of Resent-From.
func BenchmarkManyOriginators(b *testing.B) {
	block := []byte("From: a@b.c\r\n" + strings.Repeat("Resent-From: a@b.c"+strings.Repeat(",\r\n somebody@example.com", 340)+"\r\n", 35) + "\r\n")
	b.SetBytes(int64(len(block)))
	b.ReportAllocs()
	for b.Loop() {
		h, err := ParseHeader(block, Limits{})
		if err != nil {
			b.Fatal(err)
		}
		if f := ReadFacts(h); len(f.Ambiguous) != 1 {
			b.Fatal(f.Ambiguous)
		}
	}
}
