// Package printable writes text from outside so that it cannot harm a log or a terminal. A client chooses most of what Postern logs.
// Control characters move a cursor or start a new line. Bidirectional overrides show a text in another order than it has, and
// characters of no width hide a part of it. All of them are written as escapes of JSON: \u001b, \u202e.
//
// It starts no goroutines.
package printable

import (
	"bytes"
	"io"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// hidden are the characters that are not shown as they are: controls (C0, DEL, C1), format characters (bidirectional marks, embeddings,
// overrides and isolates, zero width, soft hyphen, tags), line and paragraph separators, and other characters that are ignored in
// display (Unicode Standard, chapter 23).
var hidden = []*unicode.RangeTable{unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point}

// Hidden reports whether a character must be escaped.
func Hidden(r rune) bool {
	if r < 0xa0 {
		return r < ' ' || r >= 0x7f
	}
	return unicode.In(r, hidden...)
}

const digits = "0123456789abcdef"

// appendEscape appends \u and four hexadecimal digits, twice for a character beyond U+FFFF (RFC 8259 section 7).
func appendEscape(dst []byte, r rune) []byte {
	if hi, lo := utf16.EncodeRune(r); hi != unicode.ReplacementChar {
		return appendEscape(appendEscape(dst, hi), lo)
	}
	return append(dst, '\\', 'u', digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15])
}

// appendEscaped appends one character, escaped if it is hidden. An octet that is not UTF-8 (RuneError of size 1) becomes \ufffd.
func appendEscaped(dst []byte, r rune, size int) []byte {
	if Hidden(r) || r == utf8.RuneError && size == 1 {
		return appendEscape(dst, r)
	}
	return utf8.AppendRune(dst, r)
}

// AppendJSON appends s as a JSON string with its quotes (RFC 8259 section 7). It escapes hidden characters, and octets that are not UTF-8
// become U+FFFD, as in encoding/json.
func AppendJSON(dst []byte, s string) []byte {
	dst, _ = AppendJSONWithin(dst, s, -1)
	return dst
}

// AppendJSONWithin is AppendJSON for the longest prefix of s that takes at most room octets between the quotes. used is the length of the
// prefix. A negative room is no limit.
func AppendJSONWithin(dst []byte, s string, room int) (out []byte, used int) {
	dst = append(dst, '"')
	begun, start := len(dst), 0
	for i := 0; i < len(s); {
		c, n := s[i], 1
		r := rune(c)
		if c >= utf8.RuneSelf {
			r, n = utf8.DecodeRuneInString(s[i:])
		}
		plain := c != '"' && c != '\\' && !Hidden(r) && (r != utf8.RuneError || n > 1)
		if plain && (room < 0 || len(dst)-begun+i-start+n <= room) {
			i += n
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i
		if plain {
			return append(dst, '"'), i
		}
		before := len(dst)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			dst = appendEscape(dst, r)
		}
		if room >= 0 && len(dst)-begun > room {
			return append(dst[:before], '"'), i
		}
		i += n
		start = i
	}
	return append(append(dst, s[start:]...), '"'), len(s)
}

// Line returns s as one line without hidden characters. Line ends and tabs become spaces. It has at most limit characters of s, and "..." if
// more were cut off; an escape counts as one.
func Line(s string, limit int) string {
	var b []byte
	n := 0
	for i, r := range s {
		if n++; n > limit {
			return string(b) + "..."
		}
		switch {
		case r == '\n', r == '\t':
			b = append(b, ' ')
		case r == utf8.RuneError:
			_, size := utf8.DecodeRuneInString(s[i:])
			b = appendEscaped(b, r, size)
		default:
			b = appendEscaped(b, r, 0)
		}
	}
	return string(b)
}

// Writer escapes all hidden characters except for line ends and tabs in what is written to W. It does not change the value of JSON,
// because JSON has such characters only in strings. It is safe for concurrent use.
type Writer struct {
	W io.Writer
	// Colours lets the escape sequences of colours through, for a terminal: ESC [, numbers of colours and brightness, m (ECMA-48, SGR).
	Colours bool

	mu   sync.Mutex
	half []byte // an incomplete character at the end of the last write
	buf  []byte
}

// Write writes p. It keeps an incomplete character at the end of p until the next Write or Flush.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(p), w.write(p, false)
}

// Flush writes what Write has kept.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.write(nil, true)
}

func (w *Writer) write(p []byte, all bool) error {
	in := p
	if len(w.half) > 0 {
		in = append(w.half, p...)
	}
	out := w.buf[:0]
	i := 0
	for i < len(in) && (all || utf8.FullRune(in[i:])) {
		r, n := utf8.DecodeRune(in[i:])
		if colour := w.colour(in[i:]); colour > 0 {
			out = append(out, in[i:i+colour]...)
			n = colour
		} else if r == '\n' || r == '\t' {
			out = append(out, byte(r))
		} else {
			out = appendEscaped(out, r, n)
		}
		i += n
	}
	w.half = append([]byte(nil), in[i:]...)
	w.buf = out
	if cap(w.buf) > 1<<20 {
		w.buf = nil
	}
	if len(out) == 0 {
		return nil
	}
	_, err := w.W.Write(out)
	return err
}

// colour returns the length of the escape sequence of a colour at the start of p; 0 if there is none. Other effects, such as concealed text (8), are
// no colours.
func (w *Writer) colour(p []byte) int {
	if !w.Colours || len(p) < 3 || p[0] != 0x1b || p[1] != '[' {
		return 0
	}
	end := bytes.IndexByte(p[:min(len(p), 16)], 'm')
	if end < 0 {
		return 0
	}
	for code := range bytes.SplitSeq(p[2:end], []byte(";")) {
		switch string(code) {
		case "", "0", "1", "2", "22", "31", "32", "33", "34", "35", "36", "39", "91", "92", "93", "94", "95", "96":
		default:
			return 0
		}
	}
	return end + 1
}
