package message

import "strings"

// Canonical is an originator field in a form that every program reads alike: display names in UTF-8 as atoms, a quoted string or encoded words
// (RFC 2047), plain addresses, no comments.
type Canonical struct {
	Name   string   // of the field, as written
	Index  int      // which occurrence of that name, from 1
	Pieces []string // the value, cut where a domain is missing, as in Unqualified
}

// canonical returns the pieces of the canonical value of an originator field, or nil if it has only plain phrases and addresses already.
func (l *listReader) canonical() []string {
	plain := len(l.comments) == 0 && !l.undeclared
	for i := range l.names {
		plain = plain && plainName(l.s, l.names[i].phrase)
	}
	if plain {
		return nil
	}
	pieces := l.write(l.shownName)
	size := 0
	for _, p := range pieces {
		size += len(p)
	}
	if size > maxCanonical {
		return l.write(func(int) string { return "" }) // one message has no room for that many long names
	}
	return pieces
}

// maxCanonical bounds a canonical value in octets, so that an edit can hold it with its domains.
const maxCanonical = maxEditValue / 2

// write writes the mailboxes with the names that name returns.
func (l *listReader) write(name func(i int) string) []string {
	pieces := []string{}
	var b strings.Builder
	for i, m := range l.out.List {
		if i > 0 {
			b.WriteString(", ")
		}
		if shown := name(i); shown != "" {
			b.WriteString(encodeName(shown))
			b.WriteByte(' ')
		}
		b.WriteByte('<')
		b.WriteString(m.Address())
		if m.Domain == "" {
			pieces = append(pieces, b.String())
			b.Reset()
		}
		b.WriteByte('>')
	}
	return append(pieces, b.String())
}

// shownName is the clean display name of mailbox i. A comment is the name of a mailbox that has no other (RFC 5322 section 3.4 mentions this use).
func (l *listReader) shownName(i int) string {
	text, _ := decodeWords(l.names[i].phrase.written())
	if name := cleanName(text); name != "" {
		return name
	}
	from, to := 0, l.names[i].comments
	if i > 0 {
		from = l.names[i-1].comments
	}
	if i == len(l.names)-1 {
		to = len(l.comments)
	}
	for _, c := range l.comments[from:to] {
		text, _ := decodeWords(unescape(c))
		if name := cleanName(text); name != "" {
			return name
		}
	}
	return ""
}

// unescape undoes the quoted pairs of a comment (RFC 5322 section 3.2.1).
func unescape(comment string) string {
	if strings.IndexByte(comment, '\\') < 0 {
		return comment
	}
	var b strings.Builder
	for i := 0; i < len(comment); i++ {
		if comment[i] == '\\' && i+1 < len(comment) {
			i++
		}
		b.WriteByte(comment[i])
	}
	return b.String()
}
