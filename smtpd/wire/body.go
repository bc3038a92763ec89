package wire

import (
	"bytes"
	"errors"
	"io"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

var (
	// ErrEndless means that a message was too large and went on beyond the bound up to which it is read.
	ErrEndless = errors.New("the message does not end")
	// ErrLine means that a line of the message is too long.
	ErrLine = errors.New("a line is too long")
)

// Body takes the octets of one message after they have been checked. Three failures do not stop the reading: a full disk, a
// message that is too large, and a line that is too long. The client must be able to read the reply to them after the end of its
// data. What was stored is then given up at once, to make room for others.
type Body struct {
	Store   io.WriteCloser
	Max     int64 // octets of the message
	Line    int   // octets of the longest line, CRLF included
	Endless int64 // octets after which the reading of a message that is larger than Max stops

	size    int64 // octets taken, including those that did not fit
	err     error
	refused error // a fault in the octets themselves
	lines   lineCheck
}

// Size is the number of octets of the message so far, including those beyond Max.
func (b *Body) Size() int64 { return b.size }

// Err is the first failure to store the message: message.ErrTooLarge, ErrLine, or an error of Store.
func (b *Body) Err() error { return b.err }

// EndLine ends the last line of a message that came in chunks, where it has no end (RFC 3030 §4.2). The next hop gets the message
// by DATA, where lines must have ends. So policy sees the end of the line too, and Size counts it. DKIM signatures stay valid (RFC
// 6376 §3.4.3). ErrBareCR means that the message ends in a CR.
func (b *Body) EndLine() error {
	switch {
	case b.lines.cr:
		return ErrBareCR
	case b.lines.length > 0:
		b.endOfLine(b.lines.length + 2)
		if _, err := b.Store.Write([]byte("\r\n")); err != nil {
			b.fail(err)
		}
	}
	return nil
}

func (b *Body) fail(err error) {
	if b.err == nil {
		b.err = err
		b.Store.Close()
	}
}

// endOfLine checks a line of n octets, or the first n octets of one.
func (b *Body) endOfLine(n int) {
	if n > b.Line {
		b.fail(ErrLine)
	}
}

// put stores octets. Its errors end the reading.
func (b *Body) put(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if bytes.IndexByte(p, 0) >= 0 {
		return ErrNUL
	}
	if b.size += int64(len(p)); b.size > b.Max {
		b.fail(message.ErrTooLarge)
		if b.size > b.Endless {
			return ErrEndless
		}
	}
	if b.err == nil {
		if _, err := b.Store.Write(p); err != nil {
			b.fail(err)
		}
	}
	return nil
}

// ReadData reads a message by DATA into b, up to CRLF.CRLF, which is its only end (RFC 5321 §4.1.1.4). It removes
// dot-stuffing (§4.5.2). A bare CR, a bare LF and a NUL are errors (§2.3.8), because other servers read them in other ways, and
// messages are smuggled by such differences. Lines may be longer than 1000 octets, as §4.5.3.1.6 allows.
//
// After an error nothing more can be read.
func (c *Conn) ReadData(b *Body, p *Pace) error {
	c.enlarge()
	defer c.shrink()
	for line := 0; ; {
		n, ended, err := c.dataBlock(b, &line)
		if err != nil {
			c.rerr = err
		}
		if ended || err != nil {
			return err
		}
		if err := c.fill(p.deadline(n), false); err != nil {
			return err
		}
	}
}

// dataBlock takes what it can from the buffer and returns how many octets that were. line is, before and after, the length of the
// line in the middle of which the unread octets begin; 0: they begin a line.
func (c *Conn) dataBlock(b *Body, line *int) (n int, ended bool, err error) {
	buf := c.in[c.r:c.w]
	pos, run := 0, 0 // buf[run:pos] is checked and not stored yet
	for pos < len(buf) {
		start := pos
		if *line == 0 && buf[pos] == '.' {
			rest := buf[pos:]
			if bytes.HasPrefix(rest, []byte(".\r\n")) {
				c.r += pos + 3
				return pos + 3, true, b.put(buf[run:pos])
			}
			if len(rest) == 1 || len(rest) == 2 && rest[1] == '\r' {
				break // perhaps the end: the next block decides
			}
			if err := b.put(buf[run:pos]); err != nil {
				return 0, false, err
			}
			start, run = pos+1, pos+1
		}
		next, whole, err := lineIn(buf, start)
		if err != nil {
			return 0, false, err
		}
		*line += next - start
		b.endOfLine(*line)
		pos = next
		if !whole {
			break
		}
		*line = 0
	}
	c.r += pos
	return pos, false, b.put(buf[run:pos])
}

// lineIn checks the line of buf that begins, or goes on, at start, and returns where the next line begins. If buf does not have
// the end of the line, next is the end of what is known to be good, which excludes a final CR.
func lineIn(buf []byte, start int) (next int, whole bool, err error) {
	i := bytes.IndexByte(buf[start:], '\n')
	line := buf[start:]
	switch {
	case i == 0, i > 0 && line[i-1] != '\r':
		return 0, false, ErrBareLF
	case i > 0:
		next, whole, line = start+i+1, true, line[:i-1]
	case len(line) > 0 && line[len(line)-1] == '\r':
		next, line = len(buf)-1, line[:len(line)-1]
	default:
		next = len(buf)
	}
	if bytes.IndexByte(line, '\r') >= 0 {
		return 0, false, ErrBareCR
	}
	return next, whole, nil
}

// ReadChunk reads the n octets of a chunk (RFC 3030) into b; nil: the chunk is discarded. All of them are read even if the
// message is refused, because the next command comes after them.
//
// After an error nothing more can be read. A bare CR, a bare LF, a NUL and ErrEndless are reported after the whole chunk.
func (c *Conn) ReadChunk(n int64, b *Body, p *Pace) error {
	c.enlarge()
	defer c.shrink()
	for n > 0 {
		if c.Buffered() == 0 {
			if err := c.fill(p.deadline(0), false); err != nil {
				return err
			}
			p.deadline(c.Buffered())
		}
		block := c.in[c.r:c.w]
		if int64(len(block)) > n {
			block = block[:n]
		}
		c.r += len(block)
		n -= int64(len(block))
		if b != nil && b.refused == nil {
			if b.refused = b.lines.check(block, b); b.refused == nil {
				b.refused = b.put(block)
			}
		}
	}
	if b != nil && b.refused != nil {
		c.rerr = b.refused
		return b.refused
	}
	return nil
}

// lineCheck checks that CR and LF come only as CRLF in octets that arrive in pieces.
type lineCheck struct {
	cr     bool // the last octet was a CR
	length int  // of the line that has not ended
}

// check takes the next octets, and gives b the lengths of the lines in them.
func (l *lineCheck) check(p []byte, b *Body) error {
	if len(p) == 0 {
		return nil
	}
	if l.cr {
		if p[0] != '\n' {
			return ErrBareCR
		}
		b.endOfLine(l.length + 1)
		l.cr, l.length, p = false, 0, p[1:]
	}
	for len(p) > 0 {
		next, whole, err := lineIn(p, 0)
		if err != nil {
			return err
		}
		if !whole {
			l.length, l.cr = l.length+len(p), next < len(p)
			b.endOfLine(l.length)
			break
		}
		b.endOfLine(l.length + next)
		l.length, p = 0, p[next:]
	}
	return nil
}

// Pace bounds the time of a message: each Window must bring at least minProgress octets, and all of it must have come by End. So a
// slow but steady client is not cut off, a client that sends an octet now and then is, and no message goes on for ever.
type Pace struct {
	Window time.Duration
	End    time.Time // zero: none

	until time.Time
	got   int
}

const minProgress = 1024

func (p *Pace) deadline(got int) time.Time {
	p.got += got
	if p.until.IsZero() || p.got >= minProgress {
		p.until, p.got = time.Now().Add(p.Window), 0
		if !p.End.IsZero() && p.until.After(p.End) {
			p.until = p.End
		}
	}
	return p.until
}
