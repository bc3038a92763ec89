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
	// Address is the address that a display name or comment shows, in lower case, for the kinds with "address-in-display-name" in them.
	Address string
	// Mended reports that the field in its canonical form does not have the fault.
	Mended bool
}

// MaxOriginators is the number of mailboxes that From, Sender, Resent-From and Resent-Sender may name together. Policy looks at the
// rights to each of them, so that a header of many would be expensive for its size.
const MaxOriginators = 50

// Facts are what policy may know about a header. From, Sender and Resent are empty if the header names more than MaxOriginators
// mailboxes, which is ambiguous ("too-many-originators"): a rule about each of them must not pass after it has seen only some.
type Facts struct {
	From, Sender, ReplyTo, To, Cc, Bcc []Mailbox
	// Resent holds the originators of Resent- fields: Resent-From and Resent-Sender, in order.
	Resent []Mailbox
	// ResentBlocks are the blocks of Resent- fields (RFC 5322 §3.6.6), the newest first. Beyond MaxOriginators, the oldest are one block.
	ResentBlocks []ResentBlock
	Unqualified  []Unqualified
	Unreadable   []Unreadable // fields of recipients and answers that cannot be read strictly
	Ambiguous    []Ambiguity
	// Canonical has the originator fields that not every program is sure to read alike.
	Canonical []Canonical
}

// ResentBlock is what one person who sent a message again has put in front of it: Resent- fields that stand together, each name once but those of
// recipients.
type ResentBlock struct {
	From, Sender []Mailbox
	To           []Mailbox // of Resent-To, Resent-Cc and Resent-Bcc
	Date         string    // "" if there is none
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
		r.block(f)
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
		case "resent-from":
			r.resender(f, &r.facts.ResentBlocks[len(r.facts.ResentBlocks)-1].From)
		case "resent-sender":
			r.resender(f, &r.facts.ResentBlocks[len(r.facts.ResentBlocks)-1].Sender)
		case "resent-to", "resent-cc", "resent-bcc":
			r.read(f, &r.facts.ResentBlocks[len(r.facts.ResentBlocks)-1].To)
		case "resent-date":
			r.facts.ResentBlocks[len(r.facts.ResentBlocks)-1].Date = f.value
		case "resent-reply-to":
			var unused []Mailbox
			r.read(f, &unused)
		}
	}
	if r.tooMany {
		r.facts.ResentBlocks = nil
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
	inBlock     []string       // keys of the present block of Resent- fields
}

// block begins a block of Resent- fields where f is the first of one. Any other field ends a block, and so does a name that is there
// already, because each program puts its block in front of those before it.
func (r *factsReader) block(f *Field) {
	if !strings.HasPrefix(f.key, "resent-") {
		r.inBlock = r.inBlock[:0]
		return
	}
	if len(r.inBlock) == 0 || slices.Contains(r.inBlock, f.key) {
		if len(r.facts.ResentBlocks) < MaxOriginators {
			r.facts.ResentBlocks = append(r.facts.ResentBlocks, ResentBlock{})
		}
		r.inBlock = r.inBlock[:0]
	}
	r.inBlock = append(r.inBlock, f.key)
}

// resender reads Resent-From or Resent-Sender.
func (r *factsReader) resender(f *Field, into *[]Mailbox) {
	before := len(*into)
	r.read(f, into)
	if !r.tooMany {
		r.facts.Resent = append(r.facts.Resent, (*into)[before:]...)
	}
}

func (r *factsReader) ambiguous(kind, field, format string, a ...any) {
	r.add(Ambiguity{Kind: kind, Field: field, Text: fmt.Sprintf(format, a...)})
}

func (r *factsReader) add(a Ambiguity) {
	if alike, _ := r.alike(a.Kind, a.Field); alike < maxAlike {
		r.facts.Ambiguous = append(r.facts.Ambiguous, a)
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
	if !originates(f.key) {
		r.recipients(f, into)
		return
	}
	if r.tooMany {
		return
	}
	l, err := parseOriginators(f.value, MaxOriginators-r.originators)
	switch {
	case errors.Is(err, errTooMany):
		r.tooManyOriginators(f)
		return
	case err != nil:
		r.ambiguous("unparsable-"+f.key, f.key, "the %s field cannot be read for certain: %s", f.Name(), err)
		return
	}
	r.found(f, into, l.out.List, l.out.Pieces)
	r.originators += len(l.out.List)
	r.originator(f, l)
}

// recipients reads a field that authorises nothing.
func (r *factsReader) recipients(f *Field, into *[]Mailbox) {
	if f.value == "" && (f.key == "bcc" || f.key == "resent-bcc") {
		return // RFC 5322 §3.6.3: Bcc may be empty
	}
	got := readRecipients(f.value)
	r.found(f, into, got.list, got.pieces)
	if got.fault != nil {
		text := fmt.Sprintf("the %s field cannot be read for certain: %s", f.Name(), got.fault)
		r.add(Ambiguity{Kind: "unparsable-" + f.key, Field: f.key, Text: text})
		if len(r.facts.Unreadable) < maxUnreadable {
			r.facts.Unreadable = append(r.facts.Unreadable, Unreadable{f.Name(), r.seen[f.key], got.empty, text})
		}
	}
}

// maxUnreadable bounds the fields in Facts.Unreadable.
const maxUnreadable = 100

// found adds what was read of a field.
func (r *factsReader) found(f *Field, into *[]Mailbox, list []Mailbox, pieces []string) {
	*into = append(*into, list...)
	if pieces != nil {
		r.facts.Unqualified = append(r.facts.Unqualified, Unqualified{f.Name(), r.seen[f.key], pieces})
	}
}

// originates reports whether a field names an author or sender.
func originates(key string) bool {
	return key == "from" || key == "sender" || key == "resent-from" || key == "resent-sender"
}

// tooManyOriginators forgets what was read of the originators. f is the field that names one too many.
func (r *factsReader) tooManyOriginators(f *Field) {
	r.tooMany = true
	r.facts.From, r.facts.Sender, r.facts.Resent, r.facts.Canonical = nil, nil, nil, nil
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
func (r *factsReader) originator(f *Field, l *listReader) {
	list := l.out.List
	if l.out.Group {
		r.ambiguous("group-in-"+f.key, f.key, "the %s field holds a group; name one mailbox", f.Name())
	}
	if len(list) == 0 {
		r.ambiguous("empty-"+f.key, f.key, "the %s field names nobody; name one mailbox", f.Name())
	}
	if len(list) > 1 && (f.key == "sender" || f.key == "resent-sender") {
		r.ambiguous("several-in-"+f.key, f.key, "the %s field names %d mailboxes; RFC 5322 allows one", f.Name(), len(list))
	}
	for _, m := range list {
		if strings.ContainsAny(m.Local, "@<>()[],;:\\\"") {
			r.ambiguous("specials-in-local-part", f.key, "the address %q in the %s field quotes characters that end an address elsewhere; use another address",
				clean(m.Address(), 80), f.Name())
		}
	}
	if pieces := l.canonical(); pieces != nil {
		r.facts.Canonical = append(r.facts.Canonical, Canonical{f.Name(), r.seen[f.key], pieces})
	}
	if what := foldedInside(f.raw[f.name+1:]); what != "" {
		r.ambiguous("folded-in-"+f.key, f.key, "the %s field has a line end inside a %s, at which some readers end it and take what follows for an address; put it on one line",
			f.Name(), what)
	}
	if l.undeclared {
		r.add(Ambiguity{Kind: "undeclared-charset-in-" + f.key, Field: f.key, Mended: true,
			Text: fmt.Sprintf("the %s field has 8-bit text that is not UTF-8; write it as UTF-8 or in encoded words (RFC 2047)", f.Name())})
	}
	r.names(f, l)
}

// names checks what people see beside the addresses: display names, and comments, which some programs show as the name.
func (r *factsReader) names(f *Field, l *listReader) {
	owned := make(map[string]bool, len(l.out.List))
	for _, m := range l.out.List {
		owned[m.Key()] = true
	}
	for i, m := range l.out.List {
		written := l.names[i].phrase.written()
		if written != "" {
			r.name(f, written, func(key string) bool { return key == m.Key() })
		}
	}
	for _, c := range l.comments {
		r.name(f, unescape(c), func(key string) bool { return owned[key] })
	}
}

// name checks one display name or comment.
func (r *factsReader) name(f *Field, written string, own func(key string) bool) {
	decoded, fault := decodeWords(written)
	switch {
	case fault&wordUnknownCharset != 0:
		r.ambiguous("unknown-charset-in-"+f.key, f.key, "the %s field has a name in a character set that not every program knows; write it in UTF-8", f.Name())
	case fault&wordMalformed != 0:
		r.ambiguous("malformed-encoded-word-in-"+f.key, f.key, "the %s field has an encoded word (RFC 2047) that programs read in different ways; encode the name again", f.Name())
	case fault&wordUndecodable != 0:
		r.ambiguous("undecodable-name-in-"+f.key, f.key, "the %s field has a name with octets that its character set does not have; write it in UTF-8", f.Name())
	}
	a, found := otherAddress(written, decoded, own)
	if !found {
		return
	}
	kind := "disguised-address-in-display-name"
	switch {
	case a.via:
		kind = "via-address-in-display-name"
	case a.plain:
		kind = "address-in-display-name"
	}
	r.add(Ambiguity{Kind: kind, Field: f.key, Address: clean(a.key, maxPath),
		Text: fmt.Sprintf("the name %q in the %s field shows an address which is not the one behind it; take it out", clean(decoded, 80), f.Name())})
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
		if n := r.header.Count(f.key); n > 1 && (originates(f.key) || !r.same(f.key)) {
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

// same reports whether all fields of a name have the same value, so that it does not matter which one a program takes.
func (r *factsReader) same(key string) bool {
	first := true
	value := ""
	for i := range r.header.fields {
		f := &r.header.fields[i]
		if f.key != key {
			continue
		}
		if !first && f.value != value {
			return false
		}
		first, value = false, f.value
	}
	return true
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
	authors := make(map[string]bool, len(r.facts.From)) // one who is named twice is one author
	for _, m := range r.facts.From {
		authors[m.Key()] = true
	}
	if len(authors) > 1 && r.header.Count("sender") == 0 && r.header.Count("from") == 1 {
		r.ambiguous("several-authors-no-sender", "from", "the From field names %d authors, so a Sender field must say who sent it (RFC 5322 section 3.6.2)", len(authors))
	}
}
