package decisionlog

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
)

// MaxLine bounds a line that is read. The longest possible input is shorter, even with every octet escaped.
const MaxLine = 16 << 20

// LineError is an error in one line of a log.
type LineError struct {
	File string
	Line int // from 1
	Err  error
}

// Error returns "file:line: error".
func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err) }

// Unwrap returns the error without its place.
func (e *LineError) Unwrap() error { return e.Err }

// Reader reads the lines of a log one by one from a plain or gzip-compressed stream. It holds one line in memory. One
// goroutine uses it.
type Reader struct {
	name string
	src  *bufio.Reader
	buf  []byte
	line int
	end  error // after which there is nothing more
}

// NewReader returns a Reader of r. name is the file name in errors. The first octets of r show whether it is compressed.
func NewReader(name string, r io.Reader) (*Reader, error) {
	src := bufio.NewReaderSize(r, 256<<10)
	if magic, _ := src.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) { // RFC 1952 §2.3.1
		z, err := gzip.NewReader(src)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		src = bufio.NewReaderSize(z, 256<<10)
	}
	return &Reader{name: name, src: src}, nil
}

// Next returns the next line that is not blank, without its line end, and its number. The slice is valid until the next call. A
// line that is too long gives a *LineError, and the next call reads the line after it. A stream that breaks off gives a *LineError
// and then io.EOF. whole is false for a last line without a line end, which may be incomplete.
func (r *Reader) Next() (text []byte, line int, whole bool, err error) {
	for r.end == nil {
		r.buf = r.buf[:0]
		r.line++
		long := false
		var chunk []byte
		for {
			chunk, err = r.src.ReadSlice('\n')
			if long = long || len(r.buf)+len(chunk) > MaxLine; !long {
				r.buf = append(r.buf, chunk...)
			}
			if err != bufio.ErrBufferFull {
				break
			}
		}
		r.end = err
		switch {
		case err != nil && err != io.EOF:
			return nil, r.line, false, &LineError{r.name, r.line, fmt.Errorf("the log breaks off: %w", err)}
		case long:
			return nil, r.line, false, &LineError{r.name, r.line, fmt.Errorf("the line is longer than %d MiB", MaxLine>>20)}
		}
		if text = bytes.TrimSpace(r.buf); len(text) > 0 {
			return text, r.line, err == nil, nil
		}
	}
	return nil, r.line, false, io.EOF
}

// errCut is the error of a last line that has no line end and cannot be read.
var errCut = errors.New("the line is cut off: the log was copied or the program ended while it was written")

// At adds the place to an error of Parser.Parse. whole is the value that Next returned.
func (r *Reader) At(line int, whole bool, err error) *LineError {
	if !whole {
		err = errCut
	}
	return &LineError{r.name, line, err}
}
