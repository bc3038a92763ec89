package message

import (
	"bytes"
	"fmt"
	"strings"
)

// Limits bound a header block. A field that is zero has the value of DefaultLimits.
type Limits struct {
	Bytes      int // whole block
	Fields     int // number of fields
	FieldBytes int // one field with its continuation lines
}

// DefaultLimits are above what ordinary mail needs.
var DefaultLimits = Limits{Bytes: 512 << 10, Fields: 1000, FieldBytes: 64 << 10}

// OrDefault returns l with zero fields replaced by those of DefaultLimits.
func (l Limits) OrDefault() Limits {
	if l.Bytes <= 0 {
		l.Bytes = DefaultLimits.Bytes
	}
	if l.Fields <= 0 {
		l.Fields = DefaultLimits.Fields
	}
	if l.FieldBytes <= 0 {
		l.FieldBytes = DefaultLimits.FieldBytes
	}
	return l
}

// Header is an ordered block of raw fields. Writing a parsed header gives the same bytes.
type Header struct {
	fields []Field
	end    string // the empty line; "" where the message ends with its header
}

// Field is one header field.
type Field struct {
	raw   string // with its line ends
	name  int    // octets of the name
	key   string
	value string // unfolded, trimmed
}

// Name as written.
func (f Field) Name() string { return f.raw[:f.name] }

// Key is the name in lower case.
func (f Field) Key() string { return f.key }

// Value is the unfolded value (RFC 5322 §2.2.3), surrounding white space trimmed.
func (f Field) Value() string { return f.value }

// Raw is the field as it came, line ends included.
func (f Field) Raw() []byte { return []byte(f.raw) }

// HeaderError says why a header block cannot be read.
type HeaderError struct {
	Line int    // from 1
	Text string // the line, cleaned and cut
	What string // what is wrong with it
	// Limit is the limit that was exceeded, such as LimitBytes; "" where the header is malformed.
	Limit string
}

// The limits that a HeaderError can name.
const (
	LimitBytes      = "header_bytes"
	LimitFields     = "header_fields"
	LimitFieldBytes = "header_field_bytes"
)

func (e *HeaderError) Error() string {
	s := fmt.Sprintf("header line %d: %s", e.Line, e.What)
	if e.Text != "" {
		s += fmt.Sprintf(": %q", e.Text)
	}
	return s
}

// HeaderEnd finds the end of the header block at the start of b: n octets with the empty line. complete is false
// and n is 0 where b has no empty line.
func HeaderEnd(b []byte) (n int, complete bool) {
	if bytes.HasPrefix(b, []byte("\r\n")) {
		return 2, true
	}
	if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
		return i + 4, true
	}
	return 0, false
}

// ParseHeader reads the header block at the start of a message that has CRLF line ends. block is everything up to and
// including the empty line, or all of a message that has none. Errors are *HeaderError. It refuses a line that is neither a
// field nor a continuation, an empty name, white space before the colon (which programs read differently), a CR or LF by itself,
// NUL, and what exceeds l.
func ParseHeader(block []byte, l Limits) (*Header, error) {
	l = l.OrDefault()
	if len(block) > l.Bytes {
		return nil, headerTooLong(l)
	}
	h := &Header{}
	rest := string(block) // one copy; every field is a slice of it
	h.fields = make([]Field, 0, min(l.Fields, 8+len(rest)/40))
	for line := 1; rest != ""; {
		if strings.HasPrefix(rest, "\r\n") {
			if len(rest) > 2 {
				return nil, &HeaderError{Line: line, What: "an empty line inside the header"}
			}
			h.end = rest
			break
		}
		if len(h.fields) == l.Fields {
			return nil, tooManyFields(line, l)
		}
		n, lines, err := fieldEnd(rest, line, l.FieldBytes)
		if err != nil {
			return nil, err
		}
		f, err := newField(rest[:n], line)
		if err != nil {
			return nil, err
		}
		h.fields = append(h.fields, f)
		rest, line = rest[n:], line+lines
	}
	return h, nil
}

func headerTooLong(l Limits) *HeaderError {
	return &HeaderError{Line: 1, What: fmt.Sprintf("the header has more than %d octets", l.Bytes), Limit: LimitBytes}
}

func tooManyFields(line int, l Limits) *HeaderError {
	return &HeaderError{Line: line, What: fmt.Sprintf("more than %d fields", l.Fields), Limit: LimitFields}
}

func fieldTooLong(line int, s string, max int) *HeaderError {
	return &HeaderError{Line: line, Text: excerpt(s), What: fmt.Sprintf("a field of more than %d octets", max), Limit: LimitFieldBytes}
}

// HeaderWithin checks the block at the start of a message against l without parsing its fields. Errors are *HeaderError with a
// Limit.
func HeaderWithin(block []byte, l Limits) error {
	l = l.OrDefault()
	if len(block) > l.Bytes {
		return headerTooLong(l)
	}
	fields, field := 0, 0 // number so far; octets of the current one
	for line := 1; len(block) > 0 && !bytes.HasPrefix(block, []byte("\r\n")); line++ {
		n := bytes.IndexByte(block, '\n') + 1
		if n == 0 {
			n = len(block)
		}
		if fields == 0 || !wsp(block[0]) {
			fields, field = fields+1, 0
		}
		if field += n; field > l.FieldBytes {
			return fieldTooLong(line, string(block[:min(n, 80)]), l.FieldBytes)
		}
		if fields > l.Fields {
			return tooManyFields(line, l)
		}
		block = block[n:]
	}
	return nil
}

// fieldEnd returns the length of the field at the start of s with its continuation lines, and the number of its lines.
func fieldEnd(s string, line, max int) (n, lines int, err error) {
	for {
		i := strings.IndexByte(s[n:], '\n')
		if i < 0 || i == 0 || s[n+i-1] != '\r' {
			return 0, 0, &HeaderError{Line: line + lines, Text: excerpt(s[n:]), What: "a line that does not end in CRLF"}
		}
		if inside := s[n : n+i-1]; strings.IndexByte(inside, '\r') >= 0 || strings.IndexByte(inside, 0) >= 0 {
			return 0, 0, &HeaderError{Line: line + lines, Text: excerpt(s[n:]), What: "a CR or NUL inside a line"}
		}
		n, lines = n+i+1, lines+1
		if n > max {
			return 0, 0, fieldTooLong(line, s, max)
		}
		if n == len(s) || !wsp(s[n]) {
			return n, lines, nil
		}
	}
}

// newField splits a raw field into name and value.
func newField(raw string, line int) (Field, error) {
	colon := strings.IndexByte(raw, ':')
	switch {
	case wsp(raw[0]):
		return Field{}, &HeaderError{Line: line, Text: excerpt(raw), What: "a continuation line that continues nothing"}
	case colon < 0 || strings.IndexByte(raw[:colon], '\n') >= 0:
		return Field{}, &HeaderError{Line: line, Text: excerpt(raw), What: "a line without a colon is no field; an empty line ends the header"}
	case colon == 0:
		return Field{}, &HeaderError{Line: line, Text: excerpt(raw), What: "a field without a name"}
	case !fieldName(raw[:colon]):
		return Field{}, &HeaderError{Line: line, Text: excerpt(raw), What: "a field name is printable ASCII with no space before the colon"}
	}
	return Field{raw: raw, name: colon, key: lower(raw[:colon]), value: strings.Trim(unfold(raw[colon+1:]), " \t")}, nil
}

// unfold removes the line ends (RFC 5322 §2.2.3).
func unfold(s string) string {
	s = strings.TrimSuffix(s, "\r\n")
	end := strings.IndexByte(s, '\n')
	if end < 0 {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	for ; end >= 0; end = strings.IndexByte(s, '\n') {
		b.WriteString(strings.TrimSuffix(s[:end], "\r"))
		s = s[end+1:]
	}
	b.WriteString(s)
	return b.String()
}

// NewHeader makes a Header of fields in the form that a milter receives: a name, and a value with LF or CRLF line ends inside.
// leading says whether values include the white space after the colon (the milter protocol's leading-space option); otherwise
// one space is added. Errors are *HeaderError.
func NewHeader(fields [][2]string, leading bool, l Limits) (*Header, error) {
	var b strings.Builder
	for i, f := range fields {
		if f[0] == "" || strings.ContainsAny(f[0], "\r\n:") {
			return nil, &HeaderError{Line: i + 1, Text: clean(f[0], 80), What: "not a field name"}
		}
		value := strings.ReplaceAll(strings.ReplaceAll(f[1], "\r\n", "\n"), "\n", "\r\n")
		b.WriteString(f[0] + ":")
		if !leading && value != "" {
			b.WriteByte(' ')
		}
		b.WriteString(value + "\r\n")
	}
	b.WriteString("\r\n")
	h, err := ParseHeader([]byte(b.String()), l)
	if err == nil && len(h.fields) != len(fields) {
		return nil, &HeaderError{Line: 1, What: "a value that holds another field"}
	}
	return h, err
}

// Len returns the number of fields.
func (h *Header) Len() int { return len(h.fields) }

// Field returns field i, from 0.
func (h *Header) Field(i int) Field { return h.fields[i] }

// Count returns the number of fields whose Key is key.
func (h *Header) Count(key string) int {
	n := 0
	for i := range h.fields {
		if h.fields[i].key == key {
			n++
		}
	}
	return n
}

// AppendTo appends the block as it is written, with its empty line where it has one.
func (h *Header) AppendTo(dst []byte) []byte {
	for i := range h.fields {
		dst = append(dst, h.fields[i].raw...)
	}
	return append(dst, h.end...)
}

func excerpt(s string) string {
	line, _, _ := cutLine(s)
	return clean(line, 80)
}
