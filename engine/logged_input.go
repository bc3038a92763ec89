package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Bounds of a logged input.
const (
	maxInputTerms = 1 << 20 // values in one input
	maxDigits     = 20      // of a number: int64 and its sign
)

// InputReader reads input documents out of decision logs. It is safe for concurrent use.
type InputReader struct {
	root *fact
	keys map[string]*ast.Term // of the contract, so that inputs share them
}

// NewInputReader makes one.
func NewInputReader() *InputReader {
	r := &InputReader{root: contract(), keys: map[string]*ast.Term{}}
	var learn func(f *fact)
	learn = func(f *fact) {
		if f.name != "" {
			r.keys[f.name] = ast.StringTerm(f.name)
		}
		for i := range f.fields {
			learn(&f.fields[i])
		}
		if f.item != nil {
			learn(f.item)
		}
	}
	learn(r.root)
	return r
}

// Read makes an Input of JSON text: the very value that was logged, numbers digit by digit. It takes nothing but facts of
// the contract in their types, each once. Errors name the fact and the octet at which it stands.
func (r *InputReader) Read(doc []byte) (*Input, error) {
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	w := inputWalk{reader: r, dec: dec}
	v, err := w.value(r.root, "input")
	if err == nil {
		if _, more := dec.Token(); more != io.EOF {
			err = errors.New("input: something follows it")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w (octet %d of the input)", err, dec.InputOffset())
	}
	return &Input{value: v.Value, octets: len(doc)}, nil
}

// Stage of an input: what its stage fact says; the zero Stage where it says none.
func (in *Input) Stage() Stage {
	if in == nil || in.value == nil {
		return 0
	}
	if obj, ok := in.value.(ast.Object); ok {
		if term := obj.Get(ast.InternedTerm("stage")); term != nil {
			if s, ok := term.Value.(ast.String); ok {
				return ParseStage(string(s))
			}
		}
	}
	return 0
}

// ParseStage is the stage of that name; the zero Stage where there is none.
func ParseStage(name string) Stage {
	for _, s := range allStages() {
		if s.String() == name {
			return s
		}
	}
	return 0
}

// inputWalk reads one document along the contract, which bounds its depth.
type inputWalk struct {
	reader *InputReader
	dec    *json.Decoder
	terms  int
}

// value reads one fact.
func (w *inputWalk) value(f *fact, path string) (*ast.Term, error) {
	if w.terms++; w.terms > maxInputTerms {
		return nil, fmt.Errorf("%s: the input has more than %d values", path, maxInputTerms)
	}
	token, err := w.dec.Token()
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	switch t := token.(type) {
	case string:
		if f.kind == text {
			return ast.StringTerm(t), nil
		}
	case json.Number:
		if f.kind == integer {
			if len(t) > maxDigits || strings.ContainsAny(string(t), ".eE") {
				return nil, fmt.Errorf("%s: %.30s is no whole number of 64 bits", path, t)
			}
			return ast.NumberTerm(t), nil
		}
	case bool:
		if f.kind == boolean {
			return ast.BooleanTerm(t), nil
		}
	case json.Delim:
		if t == '[' && f.kind == list {
			return w.list(f, path)
		}
		if t == '{' && (f.kind == closed || f.kind == open) {
			return w.object(f, path)
		}
	}
	return nil, fmt.Errorf("%s: want %s", path, f.kind)
}

// String is the kind for messages.
func (k kind) String() string {
	return [...]string{text: "a string", integer: "a whole number", boolean: "true or false", closed: "an object",
		open: "an object", list: "an array"}[k]
}

func (w *inputWalk) list(f *fact, path string) (*ast.Term, error) {
	var items []*ast.Term
	for w.dec.More() {
		item, err := w.value(f.item, path+"[]")
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	_, err := w.dec.Token() // the closing bracket
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ast.ArrayTerm(items...), nil
}

func (w *inputWalk) object(f *fact, path string) (*ast.Term, error) {
	pairs := make([]pair, 0, len(f.fields))
	var seen map[string]bool // only of open objects: a closed one has few keys
	for w.dec.More() {
		token, err := w.dec.Token()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		key, _ := token.(string) // the decoder lets nothing else be a key
		child, here := f.item, path+"."+key
		if f.kind == closed {
			if child = f.field(key); child == nil {
				return nil, fmt.Errorf("%s is no fact of input version 1", here)
			}
		}
		term := w.reader.keys[key]
		if term == nil {
			term = ast.StringTerm(key)
		}
		twice := seen[key]
		if f.kind == closed {
			for _, p := range pairs {
				twice = twice || p[0] == term
			}
		}
		if twice {
			return nil, fmt.Errorf("%s stands there twice", here)
		}
		if f.kind == open {
			if seen == nil {
				seen = map[string]bool{}
			}
			seen[key] = true
		}
		v, err := w.value(child, here)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, pair{term, v})
	}
	if _, err := w.dec.Token(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return ast.ObjectTerm(pairs...), nil
}
