package testmilter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Result is what became of a message.
type Result struct {
	Answer     Answer
	Stage      byte // the command that was answered last
	From       string
	FromParams string // parameters that came with a change of sender
	To         []string
	Quarantine string // the reason; "" where it is not held
	Operations []string
	BodyFrames int // body chunks that were sent

	fields  []field
	body    []byte
	bare    bool // the message has no empty line, and no body
	leading bool
	actions uint32
}

type field struct{ name, value string } // value: all between the colon and the last CRLF

// Bytes is the message with the operations done.
func (r *Result) Bytes() []byte {
	var b bytes.Buffer
	for _, f := range r.fields {
		b.WriteString(f.name + ":" + f.value + "\r\n")
	}
	if !r.bare {
		b.WriteString("\r\n")
	}
	b.Write(r.body)
	return b.Bytes()
}

func fieldsOf(head []byte) []field {
	var list []field
	for _, line := range strings.SplitAfter(string(head), "\r\n") {
		if line == "" {
			continue
		}
		if (line[0] == ' ' || line[0] == '\t') && len(list) > 0 {
			list[len(list)-1].value += "\r\n" + strings.TrimSuffix(line, "\r\n")
			continue
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\r\n"), ":")
		list = append(list, field{name, value})
	}
	return list
}

// grants are the actions that operations need.
var grants = map[byte]uint32{'h': ActAddHeader, 'i': ActAddHeader, 'm': ActChangeHeader, '+': ActAddRcpt, '-': ActDeleteRcpt,
	'e': ActChangeFrom, 'q': ActQuarantine}

func (r *Result) apply(code byte, data []byte) error {
	need, known := grants[code]
	if !known {
		return errors.New("unknown")
	}
	if r.actions&need == 0 {
		return errors.New("it was not granted")
	}
	index := 0
	if code == 'i' || code == 'm' {
		if len(data) < 4 {
			return errors.New("no index")
		}
		index, data = int(binary.BigEndian.Uint32(data)), data[4:]
	}
	if len(data) == 0 || data[len(data)-1] != 0 {
		return errors.New("no NUL at its end")
	}
	args := strings.Split(string(data[:len(data)-1]), "\x00")
	r.Operations = append(r.Operations, fmt.Sprintf("%c %d %q", code, index, args))
	want := map[byte]int{'h': 2, 'i': 2, 'm': 2}[code]
	if want == 0 {
		want = 1
	}
	if len(args) != want && !(code == 'e' && len(args) == 2) {
		return fmt.Errorf("%d strings", len(args))
	}
	switch code {
	case 'h', 'i', 'm':
		return r.header(code, index, args[0], args[1])
	case 'e':
		r.From = args[0]
		if len(args) == 2 {
			r.FromParams = args[1]
		}
	case '+':
		r.To = append(r.To, args[0])
	case '-':
		i := slices.Index(r.To, args[0])
		if i < 0 {
			return errors.New("no such recipient")
		}
		r.To = slices.Delete(r.To, i, i+1)
	case 'q':
		r.Quarantine = args[0]
	}
	return nil
}

// header does one header operation as Postfix does, whose own Received, above all others, is not in fields.
func (r *Result) header(code byte, index int, name, value string) error {
	if strings.ContainsAny(name+value, "\r\x00") || strings.HasSuffix(value, "\n") {
		return errors.New("a CR or NUL in a field, or an empty last line")
	}
	deletes := value == ""
	if !r.leading {
		value = " " + value
	}
	f := field{name, strings.ReplaceAll(value, "\n", "\r\n")}
	switch code {
	case 'h':
		r.fields = append(r.fields, f)
	case 'i':
		if index < 1 || index > len(r.fields)+1 {
			return errors.New("the position is above the server's own Received, or past the count")
		}
		r.fields = slices.Insert(r.fields, index-1, f)
	case 'm':
		for i, have := range r.fields {
			if strings.EqualFold(have.name, name) {
				if index--; index == 0 {
					if r.fields[i] = f; deletes {
						r.fields = slices.Delete(r.fields, i, i+1)
					}
					return nil
				}
			}
		}
		return errors.New("the index is past the count")
	}
	return nil
}

// NewResult is a message to which operations can be applied one by one. leading says that leading white space of values
// was agreed on.
func NewResult(eml []byte, leading bool, actions uint32) *Result {
	head, body := split(eml)
	return &Result{fields: fieldsOf(head), body: body, bare: len(head) == len(eml), leading: leading, actions: actions}
}

// Apply does one operation.
func (r *Result) Apply(code byte, data []byte) error { return r.apply(code, data) }
