package message

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrTooLarge says that a message has outgrown its bound.
var ErrTooLarge = errors.New("message too large")

// ErrNoRoom says that a message would take more of the disk than there is for all of them.
var ErrNoRoom = errors.New("no room for the message")

// Place is where messages wait: in memory, and beyond that on disk. Its zero value is os.TempDir for all of it.
type Place struct {
	Dir    string // of files; "": os.TempDir
	Memory int64  // octets of one message held in memory
	// InMemory and OnDisk are for all messages together; nil: no end.
	InMemory, OnDisk *Budget
}

// Spool holds one message: in memory up to a bound, beyond it in an unlinked temporary file (0600). One goroutine writes;
// once writing is over, any number may read.
type Spool struct {
	place *Place
	max   int64
	buf   []byte   // its capacity is what was taken of InMemory
	file  *os.File // nil while all is in buf
	size  int64
	disk  int64 // taken of OnDisk
	short bool  // other messages have the memory that it could have had
	err   error
}

// NewSpool makes room for a message of max octets: a Write beyond that fails with ErrTooLarge, one for which there is no room
// with ErrNoRoom.
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
		s.buf = append(s.buf, p...)
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

// leastBuffer is the smallest buffer of a message.
const leastBuffer = 4 << 10

// grow makes buf hold n octets, if that much may be in memory.
func (s *Spool) grow(n int64) bool {
	have := int64(cap(s.buf))
	if n <= have {
		return true
	}
	if n > s.place.Memory {
		return false
	}
	want := min(max(n, 2*have, leastBuffer), s.place.Memory)
	if !s.place.InMemory.Take(want - have) {
		s.short = true
		return false
	}
	buf := make([]byte, len(s.buf), want)
	copy(buf, s.buf)
	s.buf = buf
	return true
}

// take takes n octets of the disk.
func (s *Spool) take(n int64) error {
	if !s.place.OnDisk.Take(n) {
		return ErrNoRoom
	}
	s.disk += n
	return nil
}

// spill moves what is in memory to a file that has no name any more, so that nothing is left behind whatever happens.
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
	if _, err := f.Write(s.buf); err != nil {
		return fmt.Errorf("spool file: %w", err)
	}
	s.forget()
	return nil
}

// forget gives the memory back.
func (s *Spool) forget() {
	s.place.InMemory.Give(int64(cap(s.buf)))
	s.buf = nil
}

// Size in octets.
func (s *Spool) Size() int64 { return s.size }

// Section returns a reader from offset off to the end; any number may be in use. It also implements io.WriterTo.
func (s *Spool) Section(off int64) io.Reader {
	off = min(max(off, 0), s.size)
	if s.file == nil {
		return &memorySection{s.buf[off:]}
	}
	return fileSection{io.NewSectionReader(s.file, off, s.size-off)}
}

// spoolBlock is how much of the file is read at once on the way to a next hop.
const spoolBlock = 64 << 10

// fileSection reads the file from its own offset, so that sections do not disturb each other.
type fileSection struct{ *io.SectionReader }

func (f fileSection) WriteTo(w io.Writer) (int64, error) {
	// Copying must not find this method again, nor a ReadFrom of w that brings a smaller buffer.
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{f.SectionReader}, make([]byte, min(spoolBlock, max(f.Size(), 1))))
}

// memorySection writes what is left in one piece, which spares a copy on the way to a next hop.
type memorySection struct{ rest []byte }

func (m *memorySection) Read(p []byte) (int, error) {
	if len(m.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, m.rest)
	m.rest = m.rest[n:]
	return n, nil
}

func (m *memorySection) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(m.rest)
	m.rest = m.rest[n:]
	return int64(n), err
}

// MemoryShort says that the message went to disk because others had the memory.
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
