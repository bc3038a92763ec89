package smtpd

import (
	"bytes"
	"errors"
	"io"

	"github.com/postern-mail/postern/internal/message"
)

// errEndless: a message that was too large went on and on.
var errEndless = errors.New("the message does not end")

// errLine: a line of the message is too long.
var errLine = errors.New("a line is too long")

// sink takes the octets of a message as they are checked. A failure (a full disk, a message too large, a line too long) does
// not stop the reading: the client must be able to hear of it at the end of its data, where it listens. What has been kept is
// given up at once, for the others.
type sink struct {
	dst     io.WriteCloser
	size    int64 // octets taken, those that did not fit included
	max     int64
	line    int   // of the longest line
	err     error // first failure
	endless int64 // bound on size
}

func (s *sink) fail(err error) {
	if s.err == nil {
		s.err = err
		s.dst.Close()
	}
}

// lineOf n octets, with its end, has come, or so much of it.
func (s *sink) lineOf(n int) {
	if n > s.line {
		s.fail(errLine)
	}
}

func (s *sink) put(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if bytes.IndexByte(p, 0) >= 0 {
		return errNUL
	}
	if s.size += int64(len(p)); s.size > s.max {
		s.fail(message.ErrTooLarge)
		if s.size > s.endless {
			return errEndless
		}
	}
	if s.err == nil {
		if _, err := s.dst.Write(p); err != nil {
			s.fail(err)
		}
	}
	return nil
}

// readData copies a message to s up to CRLF.CRLF, the only end there is (RFC 5321 §4.1.1.4), dot-stuffing undone
// (§4.5.2). A bare CR, bare LF or NUL is an error at once (§2.3.8): what other servers make of it is how messages are
// smuggled. Lines may be longer than 1000 octets (§4.5.3.1.6 lets a server take them): nothing is kept of a line.
func (w *wire) readData(s *sink, p *pace) error {
	w.enlarge()
	defer w.shrink()
	for line := 0; ; {
		n, ended, err := w.dataBlock(s, &line)
		if ended || err != nil {
			return err
		}
		if err := w.fill(p.deadline(n), false); err != nil {
			return err
		}
	}
}

// dataBlock takes what it can of the buffer and returns how much that was. line is, before and after, how much of the line
// has come that the unread octets are in the middle of; 0: they begin one.
func (w *wire) dataBlock(s *sink, line *int) (n int, ended bool, err error) {
	buf := w.in[w.r:w.w]
	pos, run := 0, 0 // buf[run:pos] is checked and not yet put
	for pos < len(buf) {
		start := pos
		if *line == 0 && buf[pos] == '.' {
			rest := buf[pos:]
			if bytes.HasPrefix(rest, []byte(".\r\n")) {
				w.r += pos + 3
				return pos + 3, true, s.put(buf[run:pos])
			}
			if len(rest) == 1 || len(rest) == 2 && rest[1] == '\r' {
				break // perhaps the end: the next block will tell
			}
			if err := s.put(buf[run:pos]); err != nil {
				return 0, false, err
			}
			start, run = pos+1, pos+1
		}
		next, whole, err := lineIn(buf, start)
		if err != nil {
			return 0, false, err
		}
		*line += next - start
		s.lineOf(*line)
		pos = next
		if !whole {
			break
		}
		*line = 0
	}
	w.r += pos
	return pos, false, s.put(buf[run:pos])
}

// lineIn checks the line of buf that begins at start, or goes on there, and returns where the next one begins. Where
// buf has no end of it, next is as far as it is known to be good: before a final CR.
func lineIn(buf []byte, start int) (next int, whole bool, err error) {
	i := bytes.IndexByte(buf[start:], '\n')
	line := buf[start:]
	switch {
	case i == 0, i > 0 && line[i-1] != '\r':
		return 0, false, errBareLF
	case i > 0:
		next, whole, line = start+i+1, true, line[:i-1]
	case len(line) > 0 && line[len(line)-1] == '\r':
		next, line = len(buf)-1, line[:len(line)-1]
	default:
		next = len(buf)
	}
	if bytes.IndexByte(line, '\r') >= 0 {
		return 0, false, errBareCR
	}
	return next, whole, nil
}

// lineEnds checks that CR and LF come only as CRLF in octets that arrive in pieces (RFC 3030: BDAT).
type lineEnds struct {
	cr   bool // the last octet was a CR
	line int  // octets of the line that has not ended
}

// check takes the next octets, and tells s of the lines in them.
func (l *lineEnds) check(p []byte, s *sink) error {
	if len(p) == 0 {
		return nil
	}
	if l.cr {
		if p[0] != '\n' {
			return errBareCR
		}
		s.lineOf(l.line + 1)
		l.cr, l.line, p = false, 0, p[1:]
	}
	for len(p) > 0 {
		next, whole, err := lineIn(p, 0)
		if err != nil {
			return err
		}
		if !whole {
			l.line, l.cr = l.line+len(p), next < len(p)
			s.lineOf(l.line)
			break
		}
		s.lineOf(l.line + next)
		l.line, p = 0, p[next:]
	}
	return nil
}

// readChunk copies the n octets of a chunk to s. They are all taken, even where one is refused, unless the connection
// fails: what follows a chunk is a command, and its place must not be lost.
func (w *wire) readChunk(n int64, s *sink, ends *lineEnds, p *pace) (refused, err error) {
	w.enlarge()
	defer w.shrink()
	for n > 0 {
		if w.buffered() == 0 {
			if err := w.fill(p.deadline(0), false); err != nil {
				return refused, err
			}
			p.deadline(w.buffered())
		}
		block := w.in[w.r:w.w]
		if int64(len(block)) > n {
			block = block[:n]
		}
		w.r += len(block)
		n -= int64(len(block))
		if refused == nil && s != nil {
			if refused = ends.check(block, s); refused == nil {
				refused = s.put(block)
			}
		}
	}
	return refused, nil
}
