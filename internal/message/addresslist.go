package message

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
)

// Bounds of an address field.
const (
	maxAddressField = 64 << 10
	maxMailboxes    = 1000
)

// Addresses is the content of one address field (RFC 5322 §3.4), read strictly: comments and folding are skipped, and obsolete
// forms that mail programs read differently are refused.
type Addresses struct {
	List  []Mailbox
	Group bool // group syntax was used (its members are in List)
	// Pieces is the unfolded value cut where a domain is missing: joining it with "@" + domain completes every
	// unqualified address. nil where all are qualified.
	Pieces []string
}

// AddressError says what in an address field cannot be read, and where.
type AddressError struct {
	Offset int // in octets, from 0, of the unfolded value
	What   string
	cause  error // errTooMany, or nil
}

func (e *AddressError) Error() string { return fmt.Sprintf("%s at octet %d", e.What, e.Offset+1) }

func (e *AddressError) Unwrap() error { return e.cause }

// errTooMany is the cause of the error about more mailboxes than may be.
var errTooMany = errors.New("too many mailboxes")

// ParseAddresses reads the value of an address field. Errors are *AddressError. It takes time linear in the length of value: it reads
// nothing twice, and counts nested comments without recursion.
func ParseAddresses(value string) (Addresses, error) {
	l := listReader{s: value, most: maxMailboxes}
	err := l.read()
	if err != nil {
		return Addresses{}, err
	}
	return l.out, nil
}

// parseOriginators reads the value of a field that names authors or senders. Text that is not UTF-8 is read as windows-1252 if it stands in names
// only. In a character set of single octets it cannot hide an address there. It reads at most the given number of mailboxes; if there are more,
// the error is errTooMany.
func parseOriginators(value string, most int) (*listReader, error) {
	l := &listReader{s: value, most: most}
	if utf8.ValidString(value) || len(value) > maxAddressField {
		return l, l.read()
	}
	l.undeclared = true
	l.s, _ = charmap.Windows1252.NewDecoder().String(value)
	if err := l.read(); err != nil {
		return l, err
	}
	for _, m := range l.out.List {
		if !ascii(m.Address()) {
			return l, l.fail("8-bit text that is not UTF-8")
		}
	}
	return l, nil
}

// listReader reads address-list with its cursor at.
type listReader struct {
	s    string
	at   int
	most int // mailboxes
	// anySize is set for fields that are bounded by the limits of the header only.
	anySize bool
	lenient bool // see addrReader
	out     Addresses
	cuts    []int // where a domain is missing

	comments   []string      // as written, without their outer brackets
	names      []mailboxName // of out.List
	undeclared bool          // s was 8-bit text of an unknown character set
}

// mailboxName is what stands beside the address of a mailbox.
type mailboxName struct {
	phrase   phrase
	bare     bool // one word, which is a mailbox only if a domain completes it
	comments int  // how many comments the field has up to the end of the address
}

// read reads the whole value.
func (l *listReader) read() error {
	if len(l.s) > maxAddressField && !l.anySize {
		return l.fail("more than %d octets", maxAddressField)
	}
	if !utf8.ValidString(l.s) {
		return l.fail("8-bit text that is not UTF-8")
	}
	if err := l.list(); err != nil {
		return err
	}
	if l.cuts != nil {
		from := 0
		for _, cut := range l.cuts {
			l.out.Pieces = append(l.out.Pieces, l.s[from:cut])
			from = cut
		}
		l.out.Pieces = append(l.out.Pieces, l.s[from:])
	}
	return nil
}

func (l *listReader) fail(format string, a ...any) error {
	return &AddressError{Offset: l.at, What: fmt.Sprintf(format, a...)}
}

func (l *listReader) peek() byte {
	if l.at < len(l.s) {
		return l.s[l.at]
	}
	return 0
}

// list reads address *("," address).
func (l *listReader) list() error {
	for {
		if err := l.address(); err != nil {
			return err
		}
		if l.at == len(l.s) {
			return nil
		}
		if l.peek() != ',' {
			return l.fail("%s where a comma should be", l.here())
		}
		l.at++
	}
}

func (l *listReader) here() string {
	if l.at >= len(l.s) {
		return "the end"
	}
	r, _ := utf8.DecodeRuneInString(l.s[l.at:])
	return fmt.Sprintf("%q", r)
}

// address reads mailbox or group.
func (l *listReader) address() error {
	p, err := l.phrase()
	if err != nil {
		return err
	}
	switch l.peek() {
	case '<':
		return l.angle(p)
	case ':':
		return l.group(p)
	case '@':
		return l.bare(p)
	}
	if len(p.words) == 0 {
		return l.fail("%s where an address should be", l.here())
	}
	if len(p.words) == 1 { // RFC 6409 §4.2: a local part that lacks its domain
		return l.unqualified(p)
	}
	return l.fail("%s where an address in angle brackets should follow a name", l.here())
}

// angle reads "<addr-spec>" after a display name.
func (l *listReader) angle(p phrase) error {
	l.at++
	if err := l.noSpace(); err != nil {
		return err
	}
	if c := l.peek(); c == '@' || c == ',' {
		return l.fail("a source route; write the address alone")
	}
	r := addrReader{s: l.s, at: l.at, utf8: true, lenient: l.lenient}
	m, err := r.mailbox(true)
	if err != nil {
		return l.fail("%s", err)
	}
	if err := l.notEncoded(m); err != nil {
		return err
	}
	l.at = r.at
	if err := l.noSpace(); err != nil {
		return err
	}
	if l.peek() != '>' {
		return l.fail("%s where the closing bracket of an address should be", l.here())
	}
	if m.Domain == "" {
		l.cuts = append(l.cuts, l.at)
	}
	l.at++
	m.Name = p.text()
	return l.add(m, p)
}

// noSpace refuses white space and comments inside an address. They are obsolete, and programs read them differently.
func (l *listReader) noSpace() error {
	if c := l.peek(); wsp(c) || c == '(' {
		return l.fail("white space or a comment inside an address")
	}
	return nil
}

// notEncoded refuses an encoded word in an address (RFC 2047 §5 (3)): some readers decode it before they parse.
func (l *listReader) notEncoded(m Mailbox) error {
	if strings.Contains(m.Local, "=?") {
		return l.fail("an encoded word where an address should be")
	}
	return nil
}

// bare reads the rest of an addr-spec without brackets, whose local part is the one word of p.
func (l *listReader) bare(p phrase) error {
	if len(p.words) != 1 {
		return l.fail("an @ where no local part is")
	}
	w := p.words[0]
	if w.end != l.at {
		return l.fail("white space or a comment inside an address")
	}
	r := addrReader{s: l.s, at: w.start, utf8: true, lenient: l.lenient}
	m, err := r.mailbox(false)
	if err != nil {
		return l.fail("%s", err)
	}
	if err := l.notEncoded(m); err != nil {
		return err
	}
	l.at = r.at
	if err := l.skip(); err != nil {
		return err
	}
	return l.add(m, phrase{})
}

// unqualified makes the one word of p an address without a domain.
func (l *listReader) unqualified(p phrase) error {
	w := p.words[0]
	r := addrReader{s: l.s[:w.end], at: w.start, utf8: true, lenient: l.lenient}
	m, err := r.mailbox(true)
	if err != nil {
		return l.fail("%s", err)
	}
	if err := l.notEncoded(m); err != nil {
		return err
	}
	l.cuts = append(l.cuts, w.end)
	before := len(l.names)
	err = l.add(m, phrase{})
	if len(l.names) > before {
		l.names[before].bare = true
	}
	return err
}

// group reads "display-name: [mailbox-list];" with its cursor on the colon.
func (l *listReader) group(p phrase) error {
	if len(p.words) == 0 {
		return l.fail("a group without a name")
	}
	l.out.Group = true
	l.at++
	if err := l.skip(); err != nil {
		return err
	}
	for first := true; l.peek() != ';'; first = false {
		if !first {
			if l.peek() != ',' {
				return l.fail("%s where a comma or the end of the group should be", l.here())
			}
			l.at++
		}
		if err := l.member(); err != nil {
			return err
		}
	}
	l.at++
	return l.skip()
}

// member reads one mailbox of a group; groups do not nest.
func (l *listReader) member() error {
	p, err := l.phrase()
	if err != nil {
		return err
	}
	switch {
	case l.peek() == '<':
		err = l.angle(p)
	case l.peek() == '@':
		err = l.bare(p)
	case len(p.words) == 1 && l.peek() != ':':
		err = l.unqualified(p)
	default:
		err = l.fail("%s where a member of a group should be", l.here())
	}
	return err
}

func (l *listReader) add(m Mailbox, p phrase) error {
	if len(l.out.List) >= l.most {
		return &AddressError{l.at, fmt.Sprintf("more than %d addresses", l.most), errTooMany}
	}
	l.out.List = append(l.out.List, m)
	l.names = append(l.names, mailboxName{phrase: p, comments: len(l.comments)})
	return l.skip()
}
