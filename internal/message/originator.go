package message

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Ambiguity is one reason why two mail programs could read a header differently (CERT VU#517845).
type Ambiguity struct {
	Kind  string // stable, greppable: "duplicate-from", "group-in-from", "several-authors-no-sender", "unparsable-from", ...
	Field string // the field's key
	Text  string // for people: what is wrong and how to mend it
}

// MaxOriginators is the number of mailboxes that From, Sender, Resent-From and Resent-Sender may name together. Policy looks at the
// rights to each of them, so that a header of many would be expensive for its size.
const MaxOriginators = 50

// Facts are what policy may know about a header. From, Sender and Resent are empty if the header names more than MaxOriginators
// mailboxes, which is ambiguous ("too-many-originators"): a rule about each of them must not pass after it has seen only some.
type Facts struct {
	From, Sender, ReplyTo, To, Cc, Bcc []Mailbox
	// Resent holds the originators of Resent- fields: Resent-From and Resent-Sender, in order.
	Resent      []Mailbox
	Unqualified []Unqualified
	Ambiguous   []Ambiguity
}

// Unqualified is an address field with addresses that lack a domain.
type Unqualified struct {
	Name   string   // as written
	Index  int      // which occurrence of that name, from 1
	Pieces []string // see Addresses.Pieces
}

// maxAlike bounds the ambiguities of one kind in one field: one is enough to refuse a message, and a few help its author to
// mend it. There is no bound over all kinds, because many tolerated ambiguities must not hide one that is not tolerated. There
// are few kinds and fields.
const maxAlike = 3

// maxBlankLines bounds how many fields are reported for a kind that any field can have.
const maxBlankLines = 16

// ReadFacts reads the address fields of h.
func ReadFacts(h *Header) Facts {
	r := factsReader{header: h}
	for i := range h.fields {
		f := &h.fields[i]
		r.blankLine(f)
		switch f.key {
		case "from":
			r.read(f, &r.facts.From)
		case "sender":
			r.read(f, &r.facts.Sender)
		case "reply-to":
			r.read(f, &r.facts.ReplyTo)
		case "to":
			r.read(f, &r.facts.To)
		case "cc":
			r.read(f, &r.facts.Cc)
		case "bcc":
			r.read(f, &r.facts.Bcc)
		case "resent-from", "resent-sender":
			r.read(f, &r.facts.Resent)
		case "resent-to", "resent-cc", "resent-bcc", "resent-reply-to":
			var unused []Mailbox
			r.read(f, &unused)
		}
	}
	r.counts()
	r.authors()
	return r.facts
}

type factsReader struct {
	header      *Header
	facts       Facts
	seen        map[string]int // occurrences so far, where there is more than one
	originators int            // mailboxes of originators so far
	tooMany     bool           // originators, so that no more are read
}

func (r *factsReader) ambiguous(kind, field, format string, a ...any) {
	if alike, _ := r.alike(kind, field); alike < maxAlike {
		r.facts.Ambiguous = append(r.facts.Ambiguous, Ambiguity{kind, field, fmt.Sprintf(format, a...)})
	}
}

// alike counts the ambiguities of a kind that were found so far: in that field, and in all fields.
func (r *factsReader) alike(kind, field string) (here, all int) {
	for i := range r.facts.Ambiguous {
		if a := &r.facts.Ambiguous[i]; a.Kind == kind {
			all++
			if a.Field == field {
				here++
			}
		}
	}
	return here, all
}

// read reads one address field.
func (r *factsReader) read(f *Field, into *[]Mailbox) {
	if r.seen == nil {
		r.seen = make(map[string]int, 8)
	}
	r.seen[f.key]++
	destination := f.key == "bcc" || f.key == "resent-bcc"
	if f.value == "" && destination {
		return // RFC 5322 §3.6.3: Bcc may be empty
	}
	originator, most := originates(f.key), maxMailboxes
	if originator {
		if r.tooMany {
			return
		}
		most = MaxOriginators - r.originators
	}
	a, comments, err := parseAddresses(f.value, most)
	switch {
	case originator && errors.Is(err, errTooMany):
		r.tooManyOriginators(f)
		return
	case err != nil:
		r.ambiguous("unparsable-"+f.key, f.key, "the %s field cannot be read for certain: %s", f.Name(), err)
		return
	}
	*into = append(*into, a.List...)
	if a.Pieces != nil {
		r.facts.Unqualified = append(r.facts.Unqualified, Unqualified{f.Name(), r.seen[f.key], a.Pieces})
	}
	if originator {
		r.originators += len(a.List)
		r.originator(f, a, comments)
	}
}

// originates reports whether a field names an author or sender.
func originates(key string) bool {
	return key == "from" || key == "sender" || key == "resent-from" || key == "resent-sender"
}

// tooManyOriginators forgets what was read of the originators. f is the field that names one too many.
func (r *factsReader) tooManyOriginators(f *Field) {
	r.tooMany = true
	r.facts.From, r.facts.Sender, r.facts.Resent = nil, nil, nil
	r.facts.Unqualified = slices.DeleteFunc(r.facts.Unqualified, func(u Unqualified) bool { return originates(strings.ToLower(u.Name)) })
	r.ambiguous("too-many-originators", f.key, "From, Sender and the Resent- fields name more than %d mailboxes together; name fewer", MaxOriginators)
}

// blankLine looks for a continuation line that consists of white space only. Some readers end the header there, and RFC 5322
// §3.2.2 forbids to generate one.
func (r *factsReader) blankLine(f *Field) {
	if strings.IndexByte(f.raw, '\n') == len(f.raw)-1 {
		return
	}
	for rest := f.raw; ; {
		if rest = rest[strings.IndexByte(rest, '\n')+1:]; rest == "" {
			return
		}
		if strings.HasPrefix(strings.TrimLeft(rest, " \t"), "\r\n") {
			if here, all := r.alike("blank-line-in-header", f.key); here > 0 || all == maxBlankLines {
				return // already reported, or reported for enough fields
			}
			r.ambiguous("blank-line-in-header", f.key, "the %s field has a line of white space, at which some readers end the header; take the line out", f.Name())
			return
		}
	}
}

// originator makes further checks of a field that names an author or sender.
func (r *factsReader) originator(f *Field, a Addresses, comments []string) {
	if a.Group {
		r.ambiguous("group-in-"+f.key, f.key, "the %s field holds a group; name one mailbox", f.Name())
	}
	if len(a.List) == 0 {
		r.ambiguous("empty-"+f.key, f.key, "the %s field names nobody; name one mailbox", f.Name())
	}
	if len(a.List) > 1 && (f.key == "sender" || f.key == "resent-sender") {
		r.ambiguous("several-in-"+f.key, f.key, "the %s field names %d mailboxes; RFC 5322 allows one", f.Name(), len(a.List))
	}
	for _, m := range a.List {
		own := func(key string) bool { return key == m.Key() }
		if other := otherAddress(m.Name, own); other != "" {
			r.ambiguous("address-in-display-name", f.key, "the name %q in the %s field looks like another address than %s; take it out",
				clean(m.Name, 80), f.Name(), clean(m.Address(), 80))
		}
		if strings.ContainsAny(m.Local, "@<>()[],;:\\\"") {
			r.ambiguous("specials-in-local-part", f.key, "the address %q in the %s field quotes characters that end an address elsewhere; use another address",
				clean(m.Address(), 80), f.Name())
		}
	}
	if what := foldedInside(f.raw[f.name+1:]); what != "" {
		r.ambiguous("folded-in-"+f.key, f.key, "the %s field has a line end inside a %s, at which some readers end it and take what follows for an address; put it on one line",
			f.Name(), what)
	}
	if len(comments) == 0 {
		return
	}
	// Some readers show a comment as the display name.
	own := make(map[string]bool, len(a.List))
	for _, m := range a.List {
		own[m.Key()] = true
	}
	for _, c := range comments {
		if other := otherAddress(visible(c), func(key string) bool { return own[key] }); other != "" {
			r.ambiguous("address-in-display-name", f.key, "a comment in the %s field holds the address %s; take it out", f.Name(), clean(other, 80))
		}
	}
}

// foldedInside looks for a quoted string or comment that is folded and holds characters which have a meaning outside of it.
// Python's email.utils gets fields with their line ends and ends both at a CR: of the lines `From: "Al` and
// ` ceo@x.y" <al@x.y>` it reads two addresses, and ceo@x.y is the first. raw is a value that could be parsed.
func foldedInside(raw string) string {
	for i := 0; i < len(raw); i++ {
		if raw[i] != '"' && raw[i] != '(' {
			continue
		}
		start, what, depth := i, "quoted name", 0
		if raw[i] == '(' {
			what, depth = "comment", 1
		}
		for i++; i < len(raw); i++ {
			c := raw[i]
			if c == '"' && depth == 0 || c == ')' && depth == 1 {
				break
			}
			switch {
			case c == '\\':
				i++
			case c == '(' && depth > 0:
				depth++
			case c == ')' && depth > 0:
				depth--
			}
		}
		if inside := raw[start:min(i, len(raw))]; strings.Contains(inside, "\r\n") && strings.ContainsAny(inside, "@<>,;:") {
			return what
		}
	}
	return ""
}

// once has the fields that RFC 5322 §3.6 allows one time only, and the MIME fields that say how to read a body (RFC 2045 §3).
var once = []struct{ key, name string }{
	{"from", "From"}, {"sender", "Sender"}, {"reply-to", "Reply-To"}, {"to", "To"}, {"cc", "Cc"}, {"date", "Date"},
	{"message-id", "Message-ID"}, {"subject", "Subject"}, {"in-reply-to", "In-Reply-To"}, {"references", "References"},
	{"bcc", "Bcc"}, {"mime-version", "MIME-Version"}, {"content-type", "Content-Type"}, {"content-transfer-encoding", "Content-Transfer-Encoding"},
}

func (r *factsReader) counts() {
	for _, f := range once {
		if n := r.header.Count(f.key); n > 1 {
			r.ambiguous("duplicate-"+f.key, f.key, "there are %d %s fields and readers differ in which they show; send one", n, f.name)
		}
	}
	if r.header.Count("from") == 0 {
		r.ambiguous("missing-from", "from", "there is no From field; say who the author is")
	}
	if r.resent() && r.header.Count("resent-from") == 0 {
		r.ambiguous("missing-resent-from", "resent-from", "there are Resent- fields but no Resent-From; say who sends it again (RFC 5322 section 3.6.6)")
	}
}

// resent reports whether the header has an address field of a resent block.
func (r *factsReader) resent() bool {
	for _, key := range [...]string{"resent-sender", "resent-to", "resent-cc", "resent-bcc", "resent-reply-to"} {
		if r.seen[key] > 0 {
			return true
		}
	}
	return false
}

func (r *factsReader) authors() {
	if len(r.facts.From) > 1 && r.header.Count("sender") == 0 && r.header.Count("from") == 1 {
		r.ambiguous("several-authors-no-sender", "from", "the From field names %d authors, so a Sender field must say who sent it (RFC 5322 section 3.6.2)", len(r.facts.From))
	}
}

// otherAddress returns the first address in a display name or comment that differs from the mailbox's own: a word of atext and
// dots on both sides of an @, with a dot in the domain; "" where there is none. It also decodes encoded words inside a quoted
// string, because some readers do.
func otherAddress(text string, own func(key string) bool) string {
	for _, s := range [...]string{text, decodeWords(text)} {
		for from := 0; ; {
			at := strings.IndexByte(s[from:], '@')
			if at < 0 {
				break
			}
			at += from
			from = at + 1
			if found := addressAround(s, at); found != "" && !own(lower(found)) {
				return found
			}
		}
		if !strings.Contains(text, "=?") {
			break
		}
	}
	return ""
}

// addressAround is the address whose @ is s[at]. It looks no further than the longest possible address,
// so that a name of many @ and letters takes linear time.
func addressAround(s string, at int) string {
	start, end := at, at+1
	for start > max(0, at-maxLocal) && (atext(s[start-1]) || s[start-1] == '.') && s[start-1] != '\'' {
		start--
	}
	for end < min(len(s), at+maxDomain) && (letterDigit(s[end]) || s[end] == '-' || s[end] == '.' || s[end] >= 0x80) {
		end++
	}
	if start == at || !strings.Contains(strings.Trim(s[at+1:end], "."), ".") {
		return ""
	}
	return strings.Trim(s[start:end], ".")
}
