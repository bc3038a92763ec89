package message

import (
	"strings"
	"unicode"
)

// maxComments bounds the nesting of comments. Ordinary mail does not nest them; deep nesting is an attack on readers that recurse.
const maxComments = 8

// word of a phrase: an atom (dots allowed) or a quoted string.
type word struct {
	text       string // unquoted
	quoted     bool
	start, end int
}

type phrase struct{ words []word }

// text is the display name: words with one space between them, encoded words decoded (RFC 2047 §5).
func (p phrase) text() string {
	text, fault := decodeWords(p.written())
	if fault&wordUnknownCharset != 0 || len(p.words) == 1 && p.words[0].quoted { // RFC 2047 §5 (3): no encoded word in a quoted string
		text = p.written()
	}
	return visible(text)
}

// written joins the words, unquoted, with one space between them.
func (p phrase) written() string {
	if len(p.words) == 1 {
		return p.words[0].text
	}
	var b strings.Builder
	for i, w := range p.words {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(w.text)
	}
	return b.String()
}

// phrase reads words up to the character that ends them. It skips white space and comments between them.
func (l *listReader) phrase() (p phrase, err error) {
	for {
		if err := l.skip(); err != nil {
			return p, err
		}
		start := l.at
		switch c := l.peek(); {
		case c == '"':
			text, err := l.quoted()
			if err != nil {
				return p, err
			}
			p.words = append(p.words, word{text, true, start, l.at})
		case atext(c) || c == '.':
			for l.at < len(l.s) && (atext(l.s[l.at]) || l.s[l.at] == '.') {
				l.at++
			}
			p.words = append(p.words, word{l.s[start:l.at], false, start, l.at})
			if err := l.printable(start); err != nil {
				return p, err
			}
		default:
			return p, nil
		}
	}
}

// printable refuses control characters and invisible ones in an atom.
func (l *listReader) printable(start int) error {
	for _, r := range l.s[start:l.at] {
		if r >= 0x80 && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.IsSpace(r)) {
			return l.fail("the invisible character %U", r)
		}
	}
	return nil
}

// skip moves the cursor past white space and comments (RFC 5322 §3.2.2).
func (l *listReader) skip() error {
	depth, open := 0, 0
	for ; l.at < len(l.s); l.at++ {
		switch c := l.s[l.at]; {
		case c == '(':
			if depth++; depth > maxComments {
				return l.fail("comments nested more than %d deep", maxComments)
			}
			if depth == 1 {
				open = l.at + 1
			}
		case c == ')' && depth > 0:
			if depth--; depth == 0 {
				l.comments = append(l.comments, l.s[open:l.at])
			}
		case depth > 0 && c == '\\':
			if l.at++; l.at < len(l.s) && (l.s[l.at] < ' ' || l.s[l.at] == 0x7f) {
				return l.fail("a backslash that is not followed by a printable character")
			}
		case c < ' ' && c != '\t' || c == 0x7f:
			return l.fail("the control character %#02x", c)
		case depth == 0 && !wsp(c):
			return nil
		}
	}
	if depth > 0 {
		l.at = len(l.s)
		return l.fail("a comment without its closing bracket")
	}
	l.at = min(l.at, len(l.s))
	return nil
}

// quoted reads a quoted-string with its cursor on the opening quote.
func (l *listReader) quoted() (string, error) {
	var b strings.Builder
	for l.at++; l.at < len(l.s); l.at++ {
		switch c := l.s[l.at]; {
		case c == '"':
			l.at++
			return b.String(), nil
		case c == '\\':
			if l.at++; l.at >= len(l.s) || l.s[l.at] < ' ' || l.s[l.at] == 0x7f {
				return "", l.fail("a backslash that is not followed by a printable character")
			}
			b.WriteByte(l.s[l.at])
		case c < ' ' && c != '\t' || c == 0x7f:
			return "", l.fail("the control character %#02x in a quoted string", c)
		default:
			b.WriteByte(c)
		}
	}
	return "", l.fail("a quoted string without its closing quote")
}
