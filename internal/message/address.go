package message

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// Bounds of RFC 5321 §4.5.3.1, in octets. There is none for the local part alone: bounce addresses (VERP, SRS) and reply tokens are longer than
// the 64 octets of §4.5.3.1.1, and that section asks not to limit what can be handled.
const (
	maxDomain = 255
	maxLabel  = 63
	maxPath   = 256         // with the brackets
	maxLocal  = maxPath - 2 // because a path holds it
)

// Address returns the mailbox as it is written in SMTP: the local part, quoted where it must be, "@" and the domain. An
// unqualified one is the local part only.
func (m Mailbox) Address() string {
	local := m.Local
	if local != "" && !dotString(local) || local == "" && m.Domain != "" {
		local = quote(local)
	}
	if m.Domain == "" {
		return local
	}
	return local + "@" + m.Domain
}

// Key returns the one spelling of Address, for comparing: Unicode NFC with ASCII letters in lower case. Other letters keep their case, because case
// folding depends on the language.
func (m Mailbox) Key() string { return fold8bit(m.Address()) }

// fold8bit returns s in NFC with ASCII letters in lower case. A small letter may compose where its capital does not.
func fold8bit(s string) string {
	if ascii(s) {
		return lower(s)
	}
	return norm.NFC.String(lower(norm.NFC.String(s)))
}

// DomainUnicode returns the domain as people write it, with U-labels (RFC 5890), or "" if it has no A-label that can be read.
func (m Mailbox) DomainUnicode() string {
	if !strings.Contains(m.Domain, "xn--") {
		return ""
	}
	d, err := idna.Lookup.ToUnicode(m.Domain)
	if err != nil || d == m.Domain {
		return ""
	}
	return d
}

// ParseDomain returns the one spelling of a domain or address literal, as in Mailbox.
func ParseDomain(s string) (string, error) {
	r := addrReader{s: s, utf8: true, lenient: true}
	d, err := r.domain()
	if err == nil && r.at < len(s) {
		err = r.unexpected("the end")
	}
	return d, err
}

// LocalForm returns the one spelling of a local part: Unicode NFC.
func LocalForm(local string) string { return norm.NFC.String(local) }

// domainForm returns the one spelling of a domain: A-labels (RFC 5891) with ASCII letters in lower case. It refuses what NFKC changes, such as fullwidth
// letters and ligatures, because only some programs map it to other letters (RFC 5895).
func domainForm(d string) (string, error) {
	if ascii(d) {
		return lower(d), nil
	}
	if composed := norm.NFC.String(d); norm.NFKC.String(composed) != composed {
		return "", fmt.Errorf("the domain %q has characters that programs write in two ways; write it in ordinary letters or as xn--", clean(d, 80))
	}
	a, err := domains.ToASCII(norm.NFC.String(d))
	if err != nil || len(a) > maxDomain {
		return "", fmt.Errorf("the domain %q is no internationalized domain name (RFC 5890)", clean(d, 80))
	}
	return lower(a), nil
}

// domains maps U-labels to A-labels by UTS 46, without the mappings of transitional processing. Underscores and the like are left to addrReader.
var domains = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(), idna.StrictDomainName(false))

// String returns the path as it is written in SMTP, in angle brackets; "<>" is the null path. The zero value is not a path and
// gives "<?>", so that it is not taken for the null path.
func (p Path) String() string {
	switch {
	case p.Unreadable != "":
		return clean(p.Unreadable, maxPath)
	case p.Null:
		return "<>"
	}
	if p.Local == "" && p.Domain == "" {
		return "<?>"
	}
	return "<" + p.Address() + ">"
}

// ParsePath reads the argument of MAIL FROM: or RCPT TO: from its "<" (brackets are required) and returns what follows
// the ">". Source routes are read and dropped (RFC 5321 §4.1.1.3). "<>" gives Null. An address without a domain is
// allowed and has Domain "" (RFC 6409 §4.2; "<postmaster>" is one). 8-bit only with utf8. Bounds of RFC 5321 §4.5.3.1.
// Addresses that exist although the grammar has no place for them are taken: dots at the beginning or end of a local part, or two together
// (Address quotes them), an underscore in a domain, and a dot at its end, which is dropped.
func ParsePath(s string, utf8 bool) (p Path, rest string, err error) {
	if !strings.HasPrefix(s, "<") {
		return p, "", errors.New("an address must be written in angle brackets")
	}
	if strings.HasPrefix(s, "<>") {
		return Path{Null: true}, s[2:], nil
	}
	r := addrReader{s: s, at: 1, utf8: utf8, lenient: true}
	if r.peek() == '@' {
		if err := r.route(); err != nil {
			return p, "", err
		}
	}
	if p.Mailbox, err = r.mailbox(true); err != nil {
		return Path{}, "", err
	}
	if r.peek() != '>' {
		return Path{}, "", r.unexpected("the closing bracket")
	}
	if r.at++; r.at > maxPath || !ascii(s[:r.at]) && len(p.Address())+2 > maxPath {
		return Path{}, "", fmt.Errorf("a path has at most %d octets (RFC 5321 section 4.5.3.1.3)", maxPath)
	}
	return p, s[r.at:], nil
}

// ParseMailbox reads one bare addr-spec ("alice@example.com", `"a b"@[192.0.2.1]`) strictly; all of s must be used, and a
// domain must be there.
func ParseMailbox(s string, utf8 bool) (Mailbox, error) {
	r := addrReader{s: s, utf8: utf8}
	m, err := r.mailbox(false)
	if err == nil && r.at < len(s) {
		err = r.unexpected("the end")
	}
	if err != nil {
		return Mailbox{}, err
	}
	return m, nil
}

// addrReader reads the grammar of RFC 5321 §4.1.2 and RFC 6531 §3.3, without white space or comments.
type addrReader struct {
	s       string
	at      int
	utf8    bool
	lenient bool // take dots anywhere in a local part, underscores and a last dot in a domain
}

func (r *addrReader) peek() byte {
	if r.at < len(r.s) {
		return r.s[r.at]
	}
	return 0
}

func (r *addrReader) unexpected(want string) error {
	if r.at >= len(r.s) {
		return fmt.Errorf("the address ends where %s should be", want)
	}
	return fmt.Errorf("%q at octet %d where %s should be", clean(r.s[r.at:min(len(r.s), r.at+8)], 8), r.at+1, want)
}

// route reads "@a,@b:" and drops it.
func (r *addrReader) route() error {
	for {
		if r.peek() != '@' {
			return r.unexpected("a source route")
		}
		r.at++
		if _, err := r.domain(); err != nil {
			return err
		}
		switch r.peek() {
		case ',':
			r.at++
		case ':':
			r.at++
			return nil
		default:
			return r.unexpected("the colon of a source route")
		}
	}
}

func (r *addrReader) mailbox(unqualified bool) (m Mailbox, err error) {
	if m.Local, err = r.local(); err != nil {
		return m, err
	}
	if r.peek() != '@' {
		if m.Local == "" {
			return m, errors.New("the local part is empty between its quotes")
		}
		if unqualified {
			return m, nil
		}
		return m, r.unexpected("the @")
	}
	r.at++
	m.Domain, err = r.domain()
	return m, err
}

// local reads a Local-part; the result is without quoting.
func (r *addrReader) local() (string, error) {
	local, err := "", error(nil)
	if r.peek() == '"' {
		local, err = r.quoted()
	} else {
		start := r.at
		for r.at < len(r.s) && (atext(r.s[r.at]) || r.s[r.at] == '.') {
			r.at++
		}
		if local = r.s[start:r.at]; local == "" {
			return "", r.unexpected("a local part")
		}
		if !dotString(local) && !r.lenient {
			return "", fmt.Errorf("the local part %q begins or ends with a dot, or has two dots together; quote it", clean(local, maxLocal))
		}
	}
	switch {
	case err != nil:
		return "", err
	case len(local) > maxLocal:
		return "", fmt.Errorf("a local part has at most %d octets (RFC 5321 section 4.5.3.1.3)", maxLocal)
	}
	return local, r.check8bit(local, "local part")
}

// quoted reads a Quoted-string.
func (r *addrReader) quoted() (string, error) {
	var b strings.Builder
	for r.at++; r.at < len(r.s) && b.Len() <= maxLocal; r.at++ {
		switch c := r.s[r.at]; {
		case c == '"':
			r.at++
			return b.String(), nil
		case c == '\\':
			if r.at++; r.at >= len(r.s) || r.s[r.at] < ' ' || r.s[r.at] >= 0x7f {
				return "", errors.New("a backslash that is not followed by a printable character")
			}
			b.WriteByte(r.s[r.at])
		case c < ' ' || c == 0x7f:
			return "", fmt.Errorf("the control character %#02x in a quoted local part", c)
		default:
			b.WriteByte(c)
		}
	}
	if b.Len() > maxLocal {
		return "", fmt.Errorf("a local part has at most %d octets (RFC 5321 section 4.5.3.1.3)", maxLocal)
	}
	return "", errors.New("a quoted local part without its closing quote")
}

// domain reads a Domain or an address literal and returns it with ASCII letters in lower case.
func (r *addrReader) domain() (string, error) {
	if r.peek() == '[' {
		return r.literal()
	}
	start := r.at
	for r.at < len(r.s) && (letterDigit(r.s[r.at]) || r.s[r.at] == '-' || r.s[r.at] == '.' || r.s[r.at] >= 0x80 || r.lenient && r.s[r.at] == '_') {
		r.at++
	}
	d := r.s[start:r.at]
	if r.lenient && len(d) > 1 {
		d = strings.TrimSuffix(d, ".")
	}
	if d == "" {
		return "", r.unexpected("a domain")
	}
	if len(d) > maxDomain {
		return "", fmt.Errorf("a domain has at most %d octets (RFC 5321 section 4.5.3.1.2)", maxDomain)
	}
	for label := range strings.SplitSeq(d, ".") {
		switch {
		case label == "":
			return "", fmt.Errorf("the domain %q has an empty label", clean(d, 80))
		case len(label) > maxLabel && label[0] < 0x80:
			return "", fmt.Errorf("the domain %q has a label of more than %d octets", clean(d, 80), maxLabel)
		case label[0] == '-' || label[len(label)-1] == '-':
			return "", fmt.Errorf("the domain %q has a label that begins or ends with a hyphen", clean(d, 80))
		}
	}
	if err := r.check8bit(d, "domain"); err != nil {
		return "", err
	}
	return domainForm(d)
}

// literal reads "[192.0.2.1]" or "[IPv6:2001:db8::1]" (RFC 5321 §4.1.3).
func (r *addrReader) literal() (string, error) {
	end := strings.IndexByte(r.s[r.at:], ']')
	if end < 0 || end > 64 {
		return "", errors.New("an address literal without its closing bracket")
	}
	text := r.s[r.at+1 : r.at+end]
	v6, isV6 := text, false
	if len(text) > 5 && strings.EqualFold(text[:5], "IPv6:") {
		v6, isV6 = text[5:], true
	}
	ip, err := netip.ParseAddr(v6)
	if err != nil || ip.Zone() != "" || ip.Is4() == isV6 {
		return "", fmt.Errorf("the address literal [%s] is neither [IPv4] nor [IPv6:...]", clean(text, 64))
	}
	r.at += end + 1
	if isV6 {
		return "[IPv6:" + lower(v6) + "]", nil
	}
	return "[" + text + "]", nil
}

func (r *addrReader) check8bit(s, what string) error {
	for i := range len(s) {
		if s[i] < 0x80 {
			continue
		}
		switch {
		case !r.utf8:
			return fmt.Errorf("the %s is not ASCII; that takes SMTPUTF8 (RFC 6531)", what)
		case !utf8.ValidString(s):
			return fmt.Errorf("the %s is not valid UTF-8", what)
		}
		for _, c := range s {
			if !unicode.IsPrint(c) { // white space, controls, format characters, what is not assigned
				return fmt.Errorf("the %s has the invisible character %U", what, c)
			}
			// A U-label has letters, marks and digits in lower case (RFC 5890 §2.3.2.1). Programs that map a domain before they
			// look it up read the Kelvin sign as "k" and the ideographic full stop as ".".
			if what == "domain" && c >= 0x80 && (!unicode.In(c, unicode.L, unicode.M, unicode.Nd) || unicode.ToLower(c) != c) {
				return fmt.Errorf("%U cannot stand in a domain; write it in lower case or as xn--", c)
			}
		}
		return nil
	}
	return nil
}

// atext of RFC 5322 §3.2.3 and RFC 6532 §3.2.
func atext(c byte) bool {
	return letterDigit(c) || c >= 0x80 || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

func letterDigit(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// dotString reports whether s is atoms with single dots between them.
func dotString(s string) bool {
	dot := true // a dot may not come next
	for i := range len(s) {
		switch {
		case s[i] == '.' && dot:
			return false
		case s[i] != '.' && !atext(s[i]):
			return false
		}
		dot = s[i] == '.'
	}
	return !dot
}

// quote returns s as a Quoted-string.
func quote(s string) string {
	b := append(make([]byte, 0, len(s)+2), '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return string(append(b, '"'))
}
