package message

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrTooLarge says that a message has outgrown its bound.
var ErrTooLarge = errors.New("message too large")

// Spool holds one message: in memory up to a bound, beyond it in an unlinked temporary file (0600). One goroutine writes;
// once writing is over, any number may read.
type Spool struct {
	dir         string
	memory, max int64
	buf         []byte
	file        *os.File // nil while all is in buf
	size        int64
	err         error
}

// NewSpool: at most memory octets in RAM and max in all; a Write beyond max fails with ErrTooLarge. dir "": os.TempDir.
func NewSpool(dir string, memory, max int64) *Spool {
	return &Spool{dir: dir, memory: memory, max: max}
}

// Write appends. Errors are sticky.
func (s *Spool) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.size+int64(len(p)) > s.max {
		s.err = ErrTooLarge
		return 0, s.err
	}
	if s.file == nil && s.size+int64(len(p)) <= s.memory {
		s.buf = append(s.buf, p...)
		s.size += int64(len(p))
		return len(p), nil
	}
	if s.file == nil {
		if s.err = s.spill(); s.err != nil {
			return 0, s.err
		}
	}
	n, err := s.file.Write(p)
	s.size += int64(n)
	if err != nil {
		s.err = fmt.Errorf("spool file: %w", err)
	}
	return n, s.err
}

// spill moves what is in memory to a file that has no name any more, so that nothing is left behind whatever happens.
func (s *Spool) spill() error {
	f, err := os.CreateTemp(s.dir, "postern-spool-")
	if err != nil {
		return fmt.Errorf("spool file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return fmt.Errorf("spool file: %w", err)
	}
	if _, err := f.Write(s.buf); err != nil {
		f.Close()
		return fmt.Errorf("spool file: %w", err)
	}
	s.file, s.buf = f, nil
	return nil
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

// Close frees the memory and the file. Closing twice is harmless.
func (s *Spool) Close() error {
	f := s.file
	s.buf, s.file, s.size = nil, nil, 0
	s.err = os.ErrClosed
	if f == nil {
		return nil
	}
	return f.Close()
}
