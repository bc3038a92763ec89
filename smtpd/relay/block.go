package relay

import (
	"bytes"
	"errors"
	"io"
)

// errLineEnd is returned for a CR or LF that is not part of a CRLF. Two servers could end such a message at different places
// (RFC 5321 §2.3.8, CVE-2023-51764), so it is never sent.
var errLineEnd = errors.New("the message has a bare CR or LF")

// Sizes in octets. A block is collected before it is written; most messages fit into one. A piece is checked before it is
// added to a block; dots make it at most a third longer.
const (
	blockSize = 64 << 10
	pieceSize = 16 << 10
)

// newBlock makes an empty block (*[]byte) with room for the end of data.
func newBlock() any {
	b := make([]byte, 0, blockSize+8)
	return &b
}

// blockWriter writes a message in blocks. With dots it writes the form that follows DATA: one more dot in front of each line
// that begins with a dot (RFC 5321 §4.5.2), and the end of data. It checks that every CR and LF is part of a CRLF before it
// flushes them; after an error it flushes nothing more.
type blockWriter struct {
	dots  bool
	flush func(block []byte) error // writes a block
	buf   []byte                   // of a capacity of at least blockSize
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

// add checks a piece and appends it to the block. Each LF must follow a CR, and except for one at the end there must be no more
// CRs than LFs. So one fast search for each line and one count are enough.
func (w *blockWriter) add(p []byte) error {
	crs := bytes.Count(p, []byte{'\r'})
	if w.cr {
		crs++
	}
	start := 0 // of the part that is not copied yet
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

// end returns the last block, with dots and the end of data. A last line without CRLF gets one.
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

// hasEightBit reports whether the message that r reads has an octet above 127.
func hasEightBit(r io.Reader) (bool, error) {
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

// headerReader reads a message up to its first empty line.
type headerReader struct {
	r    io.Reader
	line int  // octets of the line that has not ended, CR not counted
	over bool // the empty line has been read
}

func (h *headerReader) Read(p []byte) (int, error) {
	if h.over {
		return 0, io.EOF
	}
	n, err := h.r.Read(p)
	for i, c := range p[:n] {
		switch {
		case c == '\n' && h.line == 0:
			h.over = true
			return i + 1, nil
		case c == '\n':
			h.line = 0
		case c != '\r':
			h.line++
		}
	}
	return n, err
}
