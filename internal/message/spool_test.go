package message

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"testing/iotest"
	"time"
)

func TestSpool(t *testing.T) {
	for _, memory := range []int64{0, 10, 1000} {
		dir := t.TempDir()
		s := (&Place{Dir: dir, Memory: memory}).NewSpool(100)
		var want []byte
		for i := range 10 {
			part := bytes.Repeat([]byte{byte('a' + i)}, 10)
			want = append(want, part...)
			if n, err := s.Write(part); n != 10 || err != nil {
				t.Fatal(n, err)
			}
		}
		for _, off := range []int64{0, 7, 100, 200} {
			got, err := io.ReadAll(s.Section(off))
			if err != nil || !bytes.Equal(got, want[min(off, 100):]) {
				t.Errorf("memory %d, from %d: %q, %v", memory, off, got, err)
			}
			var b bytes.Buffer
			if _, err := io.Copy(&b, s.Section(off)); err != nil || !bytes.Equal(b.Bytes(), want[min(off, 100):]) {
				t.Errorf("memory %d, from %d, copied: %q, %v", memory, off, b.Bytes(), err)
			}
		}
		if names, _ := os.ReadDir(dir); len(names) != 0 {
			t.Errorf("memory %d: the file has a name: %v", memory, names)
		}
		if _, err := s.Write([]byte("x")); !errors.Is(err, ErrTooLarge) {
			t.Errorf("memory %d: beyond the bound: %v", memory, err)
		}
		if _, err := s.Write(nil); !errors.Is(err, ErrTooLarge) {
			t.Errorf("memory %d: the error does not stick: %v", memory, err)
		}
		if s.Size() != 100 || s.Close() != nil || s.Close() != nil {
			t.Errorf("memory %d: size %d", memory, s.Size())
		}
	}
	s := (&Place{Dir: "/nowhere/at/all", Memory: 1}).NewSpool(100)
	if _, err := s.Write([]byte("xx")); err == nil {
		t.Error("a spool without a directory took a message")
	}
}

// TestSpoolBlocks: what is in memory in several blocks is read from any place and in pieces of any size as it was written, and takes
// no more than what was written and one block.
func TestSpoolBlocks(t *testing.T) {
	want := make([]byte, 60_000)
	for i := range want {
		want[i] = byte(i>>8*31 + i)
	}
	for _, step := range []int{1000, 4096, 4097, 32 << 10, len(want)} {
		p := &Place{Dir: t.TempDir(), Memory: 64 << 10, InMemory: &Budget{Max: 1 << 20}}
		s := p.NewSpool(1 << 20)
		for at := 0; at < len(want); at += step {
			if _, err := s.Write(want[at:min(at+step, len(want))]); err != nil {
				t.Fatal(err)
			}
		}
		if s.file != nil || p.InMemory.Used() > int64(len(want))+largestBlock {
			t.Errorf("step %d: in a file: %v; %d octets of memory", step, s.file != nil, p.InMemory.Used())
		}
		for _, off := range []int64{0, 1, firstBlock - 1, firstBlock, 2 * firstBlock, 4*firstBlock + 1, int64(len(want)) - 1, int64(len(want))} {
			var copied bytes.Buffer
			if n, err := io.Copy(&copied, s.Section(off)); err != nil || n != int64(len(want))-off || !bytes.Equal(copied.Bytes(), want[off:]) {
				t.Errorf("step %d, from %d: %d octets copied, %v", step, off, n, err)
			}
			if err := iotest.TestReader(struct{ io.Reader }{s.Section(off)}, want[off:]); err != nil {
				t.Errorf("step %d, from %d: %v", step, off, err)
			}
		}
		s.Close()
	}
}

func TestDates(t *testing.T) {
	if got := NewMessageID(fixedTime(), "4F2-a", "mail.example.com"); got != "<20260601120000.000000.4F2-a@mail.example.com>" {
		t.Error(got)
	}
	for _, host := range []string{"", "..", "a b\r\n", "<>"} {
		if got := NewMessageID(fixedTime(), "x\r\n>y", host); bytes.ContainsAny([]byte(got), "\r\n ") || got[len(got)-1] != '>' {
			t.Errorf("%q", got)
		}
	}
	if got := FormatDate(fixedTime()); got != "Mon, 01 Jun 2026 12:00:00 +0000" {
		t.Error(got)
	}
}

func fixedTime() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }
