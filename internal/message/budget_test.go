package message

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
)

// TestBudget: many goroutines together never take more than the maximum, and all of it is given back.
func TestBudget(t *testing.T) {
	b := &Budget{Max: 10}
	if !b.Take(10) || b.Take(1) || b.Used() != 10 || b.Left() != 0 {
		t.Errorf("%d are taken, %d left", b.Used(), b.Left())
	}
	b.Give(10)
	var got sync.Map
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 1000 {
				if !b.Take(3) {
					continue
				}
				if b.Used() > b.Max {
					got.Store(i, b.Used())
				}
				b.Give(3)
			}
		})
	}
	all.Wait()
	got.Range(func(_, used any) bool { t.Errorf("%v of %d are taken", used, b.Max); return true })
	if b.Used() != 0 {
		t.Errorf("%d are left taken", b.Used())
	}
	var none *Budget
	if !none.Take(1<<62) || none.Used() != 0 || none.Left() < 1<<62 {
		t.Error("a nil Budget has an end")
	}
	none.Give(1)
}

// TestSpoolBudgets: what memory there is for all is used first, then the disk; where that is full the spool fails with ErrNoRoom,
// and the others go on. Close gives everything back, also after a failure, and only once.
func TestSpoolBudgets(t *testing.T) {
	p := &Place{Dir: t.TempDir(), Memory: 8 << 10, InMemory: &Budget{Max: 8 << 10}, OnDisk: &Budget{Max: 10_000}}
	block := bytes.Repeat([]byte("x"), 5000)
	first, second, third := p.NewSpool(1<<20), p.NewSpool(1<<20), p.NewSpool(1<<20)
	for _, s := range []*Spool{first, second} {
		if _, err := s.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if p.InMemory.Used() == 0 || p.InMemory.Used() > 8<<10 || p.OnDisk.Used() != 5000 || first.file != nil || second.file == nil {
		t.Errorf("memory %d, disk %d", p.InMemory.Used(), p.OnDisk.Used())
	}
	if _, err := third.Write(bytes.Repeat([]byte("x"), 5001)); !errors.Is(err, ErrNoRoom) {
		t.Errorf("beyond the disk: %v", err)
	}
	if _, err := second.Write(block); err != nil {
		t.Errorf("the others: %v", err)
	}
	if _, err := second.Write([]byte("x")); !errors.Is(err, ErrNoRoom) {
		t.Errorf("beyond the disk: %v", err)
	}
	if _, err := first.Write(block); !errors.Is(err, ErrNoRoom) { // what is in memory has no place to go to
		t.Errorf("spilling: %v", err)
	}
	for _, s := range []*Spool{first, second, third, first, second} {
		s.Close()
	}
	if p.InMemory.Used() != 0 || p.OnDisk.Used() != 0 {
		t.Errorf("memory %d, disk %d are left taken", p.InMemory.Used(), p.OnDisk.Used())
	}
}

// TestSpoolAccounts: for all sizes of writes, a spool holds no more memory than it took from the budget, and gives it back when it goes to disk.
func TestSpoolAccounts(t *testing.T) {
	for _, step := range []int{1, 100, 4096, 4097, 50_000} {
		p := &Place{Dir: t.TempDir(), Memory: 100_000, InMemory: &Budget{Max: 1 << 20}, OnDisk: &Budget{Max: 1 << 20}}
		s := p.NewSpool(1 << 20)
		for size := 0; size < 120_000; size += step {
			if _, err := s.Write(make([]byte, step)); err != nil {
				t.Fatal(err)
			}
			held := 0
			for _, b := range s.mem {
				held += cap(b)
			}
			if int64(held) != p.InMemory.Used() || s.file != nil && p.OnDisk.Used() != s.Size() {
				t.Fatalf("step %d: %d octets in memory, %d taken; %d of %d on disk", step, held, p.InMemory.Used(), p.OnDisk.Used(), s.Size())
			}
		}
		if s.file == nil {
			t.Error("it is still in memory")
		}
		s.Close()
	}
}

// TestSpoolNoDirectory: a spill that fails takes nothing.
func TestSpoolNoDirectory(t *testing.T) {
	p := &Place{Dir: "/nowhere/at/all", Memory: 10, InMemory: &Budget{Max: 100}, OnDisk: &Budget{Max: 100}}
	s := p.NewSpool(100)
	if _, err := s.Write([]byte("12345678901")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	s.Close()
	if p.InMemory.Used() != 0 || p.OnDisk.Used() != 0 {
		t.Errorf("memory %d, disk %d are left taken", p.InMemory.Used(), p.OnDisk.Used())
	}
}

// TestHeaderWithin: what it takes, ParseHeader's limits take, and the other way round.
func TestHeaderWithin(t *testing.T) {
	l := Limits{Bytes: 200, Fields: 3, FieldBytes: 50}
	for block, want := range map[string]string{
		"": "", "A: b\r\n\r\n": "", "A: b\r\n c\r\nB: c\r\nC: d\r\n\r\n": "", "A: b\r\nB: c\r\nC: d\r\nD: e\r\n\r\n": LimitFields,
		"A: " + strings.Repeat("x", 45) + "\r\n\r\n": "", "A: " + strings.Repeat("x", 46) + "\r\n\r\n": LimitFieldBytes,
		"A: b\r\n " + strings.Repeat("x", 50) + "\r\n\r\n": LimitFieldBytes, "A: " + strings.Repeat("x", 200) + "\r\n\r\n": LimitBytes,
		"A: b\r\n\r\n" + strings.Repeat("x", 300): "", "A: b\r\n" + strings.Repeat(" "+strings.Repeat("x", 20)+"\r\n", 2) + "\r\n": LimitFieldBytes,
	} {
		if end, whole := HeaderEnd([]byte(block)); whole {
			block = block[:end]
		}
		for name, err := range map[string]error{"HeaderWithin": HeaderWithin([]byte(block), l), "ParseHeader": parseError(block, l)} {
			var h *HeaderError
			if got := errors.As(err, &h); got != (want != "") || got && h.Limit != want {
				t.Errorf("%s of %.40q: %v, want the limit %q", name, block, err, want)
			}
		}
	}
}

func parseError(block string, l Limits) error {
	_, err := ParseHeader([]byte(block), l)
	return err
}
