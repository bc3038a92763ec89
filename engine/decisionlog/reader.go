package decisionlog

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
)

// MaxLine bounds a line that is read: the longest input there can be, with all of its octets escaped, is shorter.
const MaxLine = 16 << 20

// LineError is something wrong with one line of a log.
type LineError struct {
	File string
	Line int // from 1
	Err  error
}

// Error is "file:line: what".
func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err) }

// Unwrap is what is wrong.
func (e *LineError) Unwrap() error { return e.Err }

// Reader gives the lines of a log one by one, out of a plain or a gzip-compressed stream. It holds one line in memory. One
// goroutine uses it.
type Reader struct {
	name string
	src  *bufio.Reader
	buf  []byte
	line int
	end  error // after which there is nothing more
}

// NewReader reads from r; name stands for it in errors. What it is compressed with shows in its first octets.
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

// Next is the next line that is not blank, without its end, and its number. The slice is valid until the next call. A line
// that is too long is a *LineError, and reading goes on behind it; a stream that breaks off is one as well, and io.EOF
// follows. whole is false for a last line without an end, which may have been cut off.
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

// errCut is what is wrong with a last line that has no end and cannot be read.
var errCut = errors.New("the line is cut off: the log was copied or the program ended while it was written")

// At words an error of Parser.Parse with its place; whole is as Next gave it.
func (r *Reader) At(line int, whole bool, err error) *LineError {
	if !whole {
		err = errCut
	}
	return &LineError{r.name, line, err}
}
