package message

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Op is the kind of an Edit. The zero value is no operation.
type Op uint8

// The operations of the policy contract, in the order in which they are applied.
const (
	OpRemoveHeader Op = 1 + iota
	OpReplaceHeader
	OpInsertHeader
	OpAddHeader
	OpChangeSender
	OpRemoveRecipient
	OpAddRecipient
)

var opNames = [...]string{"none", "remove_header", "replace_header", "insert_header", "add_header", "change_sender", "remove_recipient", "add_recipient"}

// String returns the operation's name in the policy contract.
func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return opNames[0]
}

// Bounds of an edit.
const (
	maxEditName  = 76
	maxEditValue = 32 << 10
	maxEditIndex = 10_000
)

// Edit is one checked change to a message. Only NewEdit and NewEnvelopeEdit make one, so that no unchecked edit exists.
type Edit struct {
	op    Op
	name  string
	index int
	value string
	path  Path
}

// Op returns the operation.
func (e Edit) Op() Op { return e.op }

// Name returns the field name of a header edit.
func (e Edit) Name() string { return e.name }

// Index returns the occurrence or position of a header edit, as NewEdit takes it.
func (e Edit) Index() int { return e.index }

// Value returns the unfolded value of a header edit.
func (e Edit) Value() string { return e.value }

// Path returns the address of an envelope edit.
func (e Edit) Path() Path { return e.path }

// String describes the edit for logs and errors.
func (e Edit) String() string {
	switch {
	case e.op >= OpChangeSender:
		return e.op.String() + " " + e.path.String()
	case e.op == OpRemoveHeader:
		return fmt.Sprintf("%s %s[%d]", e.op, e.name, e.index)
	}
	return fmt.Sprintf("%s %s[%d]: %s", e.op, e.name, e.index, clean(e.value, 80))
}

// EditError says why an edit is not possible.
type EditError struct {
	Op   Op
	Name string
	What string // what is wrong and how to mend it
}

func (e *EditError) Error() string {
	return strings.TrimSpace(e.Op.String()+" "+clean(e.Name, maxEditName)) + ": " + e.What
}

// NewEdit checks and makes a header edit. index: remove_header and replace_header: which occurrence, from 1; 0: all
// (replace: the first is replaced and the others removed; where there is none, the field is added).
// insert_header: the position in the block, from 0 (top); beyond the end: the end. add_header takes 0: the end.
// value: one line, no CR, LF or NUL, no control characters but HTAB, 8-bit only as valid UTF-8 and only if utf8.
// White space around it is removed. The rest must not be empty, because in the milter protocol an empty value removes the field.
// An edit of an occurrence that the message does not have changes nothing. Errors are *EditError.
func NewEdit(op Op, name string, index int, value string, utf8 bool) (Edit, error) {
	fail := func(format string, a ...any) (Edit, error) {
		return Edit{}, &EditError{op, name, fmt.Sprintf(format, a...)}
	}
	switch {
	case op < OpRemoveHeader || op > OpAddHeader:
		return fail("it is no header operation")
	case name == "" || len(name) > maxEditName:
		return fail("a field name has 1 to %d octets", maxEditName)
	case !fieldName(name):
		return fail("a field name is printable ASCII without space and colon (RFC 5322 section 3.6.8)")
	case index < 0 || index > maxEditIndex:
		return fail("index %d is not between 0 and %d", index, maxEditIndex)
	case op == OpAddHeader && index != 0:
		return fail("a field is added at the end; use insert_header for index %d", index)
	case op == OpRemoveHeader && value != "":
		return fail("a removal takes no value")
	}
	value = strings.Trim(value, " \t")
	if what := badValue(value, utf8); what != "" {
		return fail("%s", what)
	}
	if op != OpRemoveHeader && value == "" {
		return fail("the value is empty; use remove_header to take a field out")
	}
	e := Edit{op: op, name: name, index: index, value: value}
	used := len(name) + len(": ")
	for line := range strings.SplitSeq(e.FoldedValue("\n"), "\n") {
		if used+len(line) > maxLine {
			return fail("%d octets without white space to fold at; a line has at most %d (RFC 5322 section 2.1.1)", used+len(line), maxLine)
		}
		used = 0
	}
	return e, nil
}

func badValue(value string, allow8bit bool) string {
	if len(value) > maxEditValue {
		return fmt.Sprintf("the value has %d octets; at most %d are allowed", len(value), maxEditValue)
	}
	for i := range len(value) {
		switch c := value[i]; {
		case c == '\r' || c == '\n':
			return fmt.Sprintf("the value has a line end at octet %d; a value is one line, and is folded where it needs to be", i)
		case c < ' ' && c != '\t' || c == 0x7f:
			return fmt.Sprintf("the value has the control character %#02x at octet %d", c, i)
		case c >= 0x80 && !allow8bit:
			return fmt.Sprintf("the value is not ASCII at octet %d; encode it (RFC 2047), the message is not SMTPUTF8", i)
		}
	}
	if !utf8.ValidString(value) {
		return "the value is not valid UTF-8"
	}
	return ""
}

// NewEnvelopeEdit checks and makes an envelope edit. address is as in SMTP, with or without angle brackets; "<>" or ""
// is the null sender, for change_sender only.
func NewEnvelopeEdit(op Op, address string, utf8 bool) (Edit, error) {
	fail := func(what string) (Edit, error) { return Edit{}, &EditError{op, address, what} }
	if op < OpChangeSender || op > OpAddRecipient {
		return fail("it is no envelope operation")
	}
	if !strings.HasPrefix(address, "<") {
		address = "<" + address + ">"
	}
	p, rest, err := ParsePath(address, utf8)
	switch {
	case err != nil:
		return fail(err.Error())
	case rest != "":
		return fail("there is something behind the address")
	case p.Null && op != OpChangeSender:
		return fail("a recipient needs an address")
	}
	return Edit{op: op, path: p}, nil
}

// FoldedValue returns the value as it is written after "Name: ". It is folded with nl, so that lines have at most 78 octets
// where there is white space to fold at (RFC 5322 §2.1.1, §2.2.3). No white space is added.
func (e Edit) FoldedValue(nl string) string { return fold(len(e.name)+len(": "), e.value, nl) }

// appendField appends the whole field with CRLF line ends.
func (e Edit) appendField(dst []byte) []byte {
	dst = append(append(dst, e.name...), ": "...)
	return append(append(dst, e.FoldedValue("\r\n")...), "\r\n"...)
}

// Line lengths of RFC 5322 §2.1.1, CRLF excluded.
const (
	wishLine = 78
	maxLine  = 998
)

// fold inserts nl before white space so that lines are short enough. used is the number of octets before the value on its
// first line. Each folded line keeps something other than white space, so that unfolding (removing nl) gives the value back.
func fold(used int, value, nl string) string {
	if used+len(value) <= wishLine {
		return value
	}
	var b strings.Builder
	start, col := 0, used // of the current line
	last := -1            // the last place to fold since start
	for i := 0; i < len(value); i++ {
		if wsp(value[i]) && (i == 0 || !wsp(value[i-1])) && i > start {
			last = i
		}
		if col++; col > wishLine && last > start {
			b.WriteString(value[start:last])
			b.WriteString(nl)
			start, col = last, i-last+1
			last = -1
		}
	}
	b.WriteString(value[start:])
	return b.String()
}

func wsp(c byte) bool { return c == ' ' || c == '\t' }

// fieldName reports whether s is a field name: ftext of RFC 5322 §3.6.8.
func fieldName(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == ':' {
			return false
		}
	}
	return s != ""
}
