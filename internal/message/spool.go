package message

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrTooLarge is the error of a message that is larger than its limit.
var ErrTooLarge = errors.New("message too large")

// ErrNoRoom is the error of a message for which the disk space of all messages together does not suffice.
var ErrNoRoom = errors.New("no room for the message")

// Place says where messages are stored: in memory up to a limit, and beyond it on disk. The zero value stores all of them in
// os.TempDir.
type Place struct {
	Dir    string // directory of the files; "": os.TempDir
	Memory int64  // octets of one message held in memory
	// InMemory and OnDisk limit all messages together; nil: no limit.
	InMemory, OnDisk *Budget
}

// Spool holds one message: in memory up to a bound, beyond it in an unlinked temporary file (0600). One goroutine writes;
// once writing is over, any number may read.
type Spool struct {
	place *Place
	max   int64
	mem   [][]byte // all blocks but the last are full
	have  int64    // capacity of mem, and what was taken of InMemory
	file  *os.File // nil while all is in mem
	size  int64
	disk  int64 // taken of OnDisk
	short bool  // went to disk because other messages use the memory
	err   error
}

// NewSpool returns a Spool for a message of at most max octets. A Write beyond that fails with ErrTooLarge, and one for which
// there is no space with ErrNoRoom.
func (p *Place) NewSpool(max int64) *Spool { return &Spool{place: p, max: max} }

// Write appends. Errors are sticky.
func (s *Spool) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.size+int64(len(p)) > s.max {
		s.err = ErrTooLarge
		return 0, s.err
	}
	if s.file == nil && s.grow(s.size+int64(len(p))) {
		s.keep(p)
		s.size += int64(len(p))
		return len(p), nil
	}
	if s.file == nil {
		if s.err = s.spill(); s.err != nil {
			return 0, s.err
		}
	}
	if s.err = s.take(int64(len(p))); s.err != nil {
		return 0, s.err
	}
	n, err := s.file.Write(p)
	s.size += int64(n)
	if err != nil {
		s.err = fmt.Errorf("spool file: %w", err)
	}
	return n, s.err
}

// A message is kept in blocks, so that it is not copied while it grows. Each block is as large as all before it, up to a bound.
// Blocks are not reused for other messages, because an abandoned evaluation may still read this one.
const (
	firstBlock   = 4 << 10
	largestBlock = 16 << 10
)

// grow extends mem to n octets in all, if that much may be in memory.
func (s *Spool) grow(n int64) bool {
	if n <= s.have {
		return true
	}
	most := s.place.Memory
	if n > most {
		return false
	}
	want := s.have
	for want < n {
		want = min(want+blockAfter(want), most)
	}
	if !s.place.InMemory.Take(want - s.have) {
		s.short = true
		return false
	}
	for s.have < want {
		size := min(blockAfter(s.have), want-s.have)
		s.mem = append(s.mem, make([]byte, 0, size))
		s.have += size
	}
	return true
}

// blockAfter returns the size of the next block where the blocks so far hold have octets.
func blockAfter(have int64) int64 { return min(max(have, firstBlock), largestBlock) }

// keep appends p to mem, which has room for it.
func (s *Spool) keep(p []byte) {
	at := 0
	for at < len(s.mem)-1 && len(s.mem[at]) == cap(s.mem[at]) {
		at++
	}
	for ; len(p) > 0; at++ {
		b := s.mem[at]
		n := min(len(p), cap(b)-len(b))
		s.mem[at] = append(b, p[:n]...)
		p = p[n:]
	}
}

// take reserves n octets on the disk.
func (s *Spool) take(n int64) error {
	if !s.place.OnDisk.Take(n) {
		return ErrNoRoom
	}
	s.disk += n
	return nil
}

// spill moves the message to a file whose name is removed at once, so that no file can be left behind.
func (s *Spool) spill() error {
	if err := s.take(s.size); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.place.Dir, "postern-spool-")
	if err != nil {
		return fmt.Errorf("spool file: %w", err)
	}
	s.file = f
	if err := os.Remove(f.Name()); err != nil {
		return fmt.Errorf("spool file: %w", err)
	}
	for _, b := range s.mem {
		if _, err := f.Write(b); err != nil {
			return fmt.Errorf("spool file: %w", err)
		}
	}
	s.forget()
	return nil
}

// forget releases the memory.
func (s *Spool) forget() {
	s.place.InMemory.Give(s.have)
	s.mem, s.have = nil, 0
}

// Size in octets.
func (s *Spool) Size() int64 { return s.size }

// Section returns a reader from offset off to the end; any number may be in use. It also implements io.WriterTo.
func (s *Spool) Section(off int64) io.Reader {
	off = min(max(off, 0), s.size)
	if s.file == nil {
		m := &memorySection{rest: s.mem}
		m.skip(off)
		return m
	}
	return fileSection{io.NewSectionReader(s.file, off, s.size-off)}
}

// spoolBlock is how much of the file is read at a time for a next hop.
const spoolBlock = 64 << 10

// fileSection reads the file from an offset of its own, so that several sections can be read at the same time.
type fileSection struct{ *io.SectionReader }

func (f fileSection) WriteTo(w io.Writer) (int64, error) {
	// Copying must not find this method again, nor a ReadFrom of w that brings a smaller buffer.
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{f.SectionReader}, make([]byte, min(spoolBlock, max(f.Size(), 1))))
}

// memorySection writes whole blocks, which saves a copy for a next hop.
type memorySection struct {
	rest [][]byte
	at   int // of rest[0]
}

// skip moves n octets on; there are at least n.
func (m *memorySection) skip(n int64) {
	for len(m.rest) > 0 && n >= int64(len(m.rest[0])-m.at) {
		n -= int64(len(m.rest[0]) - m.at)
		m.rest, m.at = m.rest[1:], 0
	}
	m.at += int(n)
}

func (m *memorySection) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n := 0
	for n < len(p) && len(m.rest) > 0 {
		k := copy(p[n:], m.rest[0][m.at:])
		n += k
		m.skip(int64(k))
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (m *memorySection) WriteTo(w io.Writer) (int64, error) {
	var written int64
	for len(m.rest) > 0 {
		n, err := w.Write(m.rest[0][m.at:])
		written += int64(n)
		m.skip(int64(n))
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// MemoryShort reports whether the message went to disk because other messages use the memory.
func (s *Spool) MemoryShort() bool { return s.short }

// Close frees the memory and the file. Closing twice is harmless.
func (s *Spool) Close() error {
	f := s.file
	s.forget()
	s.place.OnDisk.Give(s.disk)
	s.file, s.size, s.disk, s.err = nil, 0, 0, os.ErrClosed
	if f == nil {
		return nil
	}
	return f.Close()
}
