package message

import (
	"errors"
	"math"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
)

// Unreadable is a field that names recipients or where answers go, and cannot be read strictly. Such a field authorises nothing, so the message
// can be relayed with it.
type Unreadable struct {
	Name   string // of the field, as written
	Index  int    // which occurrence of that name, from 1
	Nobody bool   // it names nobody: white space, commas, semicolons and <> only
	Text   string // for people: what is wrong, and where
}

// recipients is what could be read in a field that names recipients.
type recipients struct {
	list   []Mailbox
	pieces []string // as in Addresses
	empty  bool
	fault  error // why it cannot be read strictly, or nil
}

// readRecipients reads the value of To, Cc, Bcc, Reply-To and the like. Where it does not fit the grammar, it takes what programs mean that
// write such fields: doubled commas, semicolons, names without quotes, "mailto:" and the like. Takes time linear in the length of value.
func readRecipients(value string) recipients {
	if strings.Trim(value, " \t,;<>") == "" {
		return recipients{empty: true, fault: errors.New("the field names nobody; leave it out")}
	}
	if !utf8.ValidString(value) {
		text, _ := charmap.Windows1252.NewDecoder().String(value)
		out := readRecipients(text)
		out.pieces, out.fault = nil, errors.New("8-bit text that is not UTF-8")
		return out
	}
	l := listReader{s: value, most: math.MaxInt, anySize: true}
	if err := l.read(); err != nil {
		return recipients{list: lenientList(value), fault: err}
	}
	if list, found := withoutNames(&l); found {
		return recipients{list: list, fault: errors.New("a name with a comma needs quotes")}
	}
	return recipients{list: l.out.List, pieces: l.out.Pieces}
}

// withoutNames looks for the pieces of names with a comma and no quotes: in "Smith, Bob <bob@example.net>", "Smith" is a mailbox by the grammar,
// but nobody means it. It returns the mailboxes without these pieces.
func withoutNames(l *listReader) (list []Mailbox, found bool) {
	all := l.out.List
	drop := make([]bool, len(all)+1)
	for i := len(all) - 2; i >= 0; i-- {
		next := l.names[i+1].phrase.words
		drop[i] = l.names[i].bare && (drop[i+1] || len(next) > 0 && !next[0].quoted)
		found = found || drop[i]
	}
	if !found {
		return nil, false
	}
	for i, m := range all {
		if !drop[i] {
			list = append(list, m)
		}
	}
	return list, true
}

// lenientList reads what can be read in a value that does not fit the grammar.
func lenientList(value string) (list []Mailbox) {
	for rest, more := value, true; more; {
		var piece string
		piece, rest, more = cutPiece(rest)
		if m, ok := lenientMailbox(strings.Trim(piece, " \t")); ok {
			list = append(list, m)
		}
	}
	return list
}

// cutPiece cuts a list at its first comma or semicolon that is not in quotes, in a comment or in angle brackets. Quotes and brackets that are
// not closed have no meaning.
func cutPiece(s string) (piece, rest string, more bool) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case ',', ';':
			return s[:i], s[i+1:], true
		case '"', '(', '<':
			if n := enclosed(s[i:]); n > 0 {
				i += n - 1
			}
		}
	}
	return s, "", false
}

// maxEnclosed bounds how far the end of a quoted string, comment or angle bracket is looked for, so that many open ones take linear time.
const maxEnclosed = 512

// enclosed returns the length of the quoted string, comment or angle brackets at the start of s, or 0 if it is not closed.
func enclosed(s string) int {
	closing := s[0]
	switch s[0] {
	case '(':
		closing = ')'
	case '<':
		closing = '>'
	}
	s = s[:min(len(s), maxEnclosed)]
	if strings.IndexByte(s[1:], closing) < 0 {
		return 0
	}
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == closing:
			return i + 1
		case s[i] == '\\' && closing != '>':
			i++
		}
	}
	return 0
}

// lenientMailbox reads one mailbox of a list without grammar: what is in its last angle brackets, or its last word, or all of it.
func lenientMailbox(piece string) (Mailbox, bool) {
	l := listReader{s: piece, most: 1, anySize: true, lenient: true}
	if err := l.read(); err == nil && len(l.out.List) == 1 && l.out.List[0].Domain != "" {
		return l.out.List[0], true
	}
	name, address := "", piece
	if open := strings.LastIndexByte(piece, '<'); open >= 0 {
		name, address = piece[:open], piece[open+1:]
		address, _, _ = strings.Cut(address, ">")
	} else if space := strings.LastIndexAny(piece, " \t"); space >= 0 {
		name, address = piece[:space], piece[space+1:]
	}
	address = strings.Trim(address, " \t")
	for _, prefix := range [...]string{"mailto:", "smtp:"} {
		if len(address) > len(prefix) && strings.EqualFold(address[:len(prefix)], prefix) {
			address = address[len(prefix):]
		}
	}
	p, rest, err := ParsePath("<"+address+">", true)
	if err != nil || rest != "" || p.Null || p.Domain == "" {
		return Mailbox{}, false
	}
	text, _ := decodeWords(strings.Trim(name, " \t\"<"))
	p.Name = visible(text)
	return p.Mailbox, true
}
