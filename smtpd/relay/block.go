package relay

import (
	"bytes"
	"errors"
	"io"
)

// errLineEnd: a CR or LF that is not part of a CRLF. Two servers could end such a message at different places
// (RFC 5321 §2.3.8, CVE-2023-51764), so it never leaves.
var errLineEnd = errors.New("the message has a bare CR or LF")

// blockSize is what is gathered before a write: large enough for one system call to carry most messages. pieceSize is
// what is checked before any of it is gathered; dots at worst make it a third longer.
const (
	blockSize = 64 << 10
	pieceSize = 16 << 10
)

// newBlock makes an empty block with room for the end of data.
func newBlock() any {
	b := make([]byte, 0, blockSize+8)
	return &b
}

// blockWriter writes a message in blocks, copied as such and not octet by octet. With dots it is as it goes after DATA: a
// dot in front of each line that begins with one (RFC 5321 §4.5.2), and the end of data. It checks that every CR and LF is part of a CRLF, before the octet is
// flushed; after an error nothing more is.
type blockWriter struct {
	dots  bool
	flush func(block []byte) error // writes a block
	buf   []byte                   // capacity blockSize at least
	n     int64                    // octets of the message, dots not counted
	mid   bool                     // the last octet was not the LF of a CRLF
	cr    bool                     // the last octet was a CR
	err   error
}

// Write takes the next octets of the message.
func (w *blockWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && w.err == nil {
		if w.cr && p[0] != '\n' {
			w.err = errLineEnd
			break
		}
		piece := p[:min(len(p), pieceSize)]
		p = p[len(piece):]
		if len(w.buf)+2*len(piece) > blockSize {
			if w.err = w.flush(w.buf); w.err != nil {
				break
			}
			w.buf = w.buf[:0]
		}
		w.err = w.add(piece)
	}
	if w.err != nil {
		return 0, w.err
	}
	w.n += int64(n)
	return n, nil
}

// add checks a piece and appends it to the block. Each LF must follow a CR, and there must be no more CRs than LFs, but
// for one at the end: so one fast search a line and one count do.
func (w *blockWriter) add(p []byte) error {
	crs := bytes.Count(p, []byte{'\r'})
	if w.cr {
		crs++
	}
	start := 0 // of what is not yet copied
	for i := 0; i < len(p); {
		if p[i] == '.' && !w.mid && w.dots {
			w.buf = append(append(w.buf, p[start:i]...), '.')
			start = i
		}
		w.mid = true
		lf := bytes.IndexByte(p[i:], '\n')
		if lf < 0 {
			break
		}
		i += lf
		if i > 0 && p[i-1] != '\r' || i == 0 && !w.cr {
			return errLineEnd
		}
		crs--
		i++
		w.mid = false
	}
	w.cr = p[len(p)-1] == '\r'
	if w.cr {
		crs--
	}
	if crs != 0 {
		return errLineEnd
	}
	w.buf = append(w.buf, p[start:]...)
	return nil
}

// end gives the last block: what is left, with dots the end of data too. A last line without CRLF gets one.
func (w *blockWriter) end() ([]byte, error) {
	if w.err == nil && w.cr {
		w.err = errLineEnd
	}
	if w.err != nil {
		return nil, w.err
	}
	if w.mid {
		w.buf = append(w.buf, '\r', '\n')
	}
	if w.dots {
		w.buf = append(w.buf, '.', '\r', '\n')
	}
	return w.buf, nil
}

// eightBit reports whether the message that r reads has an octet above 127.
func eightBit(r io.Reader) (bool, error) {
	buf := make([]byte, 16<<10)
	for {
		n, err := r.Read(buf)
		for _, c := range buf[:n] {
			if c >= 0x80 {
				return true, nil
			}
		}
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}
