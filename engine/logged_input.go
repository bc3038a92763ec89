package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
)

// Bounds of a logged input.
const (
	maxInputTerms = 1 << 20 // values in one input
	maxDigits     = 20      // of a number: int64 and its sign
)

// InputReader reads input documents out of decision logs. It is safe for concurrent use.
type InputReader struct {
	root *contract.Fact
	keys map[string]*ast.Term // of the contract, so that inputs share them
	k    *keys
}

// NewInputReader makes one.
func NewInputReader() *InputReader {
	r := &InputReader{root: contract.Facts(), keys: map[string]*ast.Term{}, k: newKeys()}
	var learn func(f *contract.Fact)
	learn = func(f *contract.Fact) {
		if f.Name != "" {
			r.keys[f.Name] = ast.StringTerm(f.Name)
		}
		for i := range f.Fields {
			learn(&f.Fields[i])
		}
		if f.Item != nil {
			learn(f.Item)
		}
	}
	learn(r.root)
	return r
}

// Read makes an Input of JSON text: the very value that was logged, numbers digit by digit. It takes nothing but facts of
// the contract in their types, each once. Errors name the fact and the octet at which it stands.
func (r *InputReader) Read(doc []byte) (*Input, error) {
	// The decoder refuses what is not UTF-8 and a name that stands in an object twice.
	w := inputWalk{reader: r, b: builder{k: r.k}, dec: jsontext.NewDecoder(bytes.NewBuffer(doc))}
	v, err := w.value(r.root)
	if err == nil {
		if _, more := w.dec.ReadToken(); more != io.EOF {
			err = errors.New("input: something follows it")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w (octet %d of the input)", err, w.dec.InputOffset())
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
				return contract.ParseStage(string(s))
			}
		}
	}
	return 0
}

// inputWalk reads one document along the contract, which bounds its depth.
type inputWalk struct {
	reader *InputReader
	dec    *jsontext.Decoder
	b      builder // makes terms in blocks
	terms  int
}

// value reads one fact.
func (w *inputWalk) value(f *contract.Fact) (*ast.Term, error) {
	if w.terms++; w.terms > maxInputTerms {
		return nil, w.fail("the input has more than %d values", maxInputTerms)
	}
	kind := w.dec.PeekKind()
	token, err := w.dec.ReadToken()
	if err != nil {
		return nil, w.fail("%w", err)
	}
	switch {
	case kind == '"' && f.Kind == contract.Text:
		return w.b.str(token.String()), nil
	case kind == '0' && f.Kind == contract.Integer:
		n := token.String()
		if len(n) > maxDigits || strings.ContainsAny(n, ".eE") {
			return nil, w.fail("%.30s is no whole number of 64 bits", n)
		}
		return w.b.term(ast.Number(n)), nil
	case (kind == 't' || kind == 'f') && f.Kind == contract.Boolean:
		return w.b.bool(kind == 't'), nil
	case kind == '[' && f.Kind == contract.List:
		return w.list(f)
	case kind == '{' && (f.Kind == contract.Closed || f.Kind == contract.Open):
		return w.object(f)
	}
	return nil, w.fail("want %s", f.Kind)
}

// fail is an error at the place that was read last.
func (w *inputWalk) fail(format string, args ...any) error {
	path := strings.ReplaceAll(string(w.dec.StackPointer()), "/", ".")
	return fmt.Errorf("input%s: %w", path, fmt.Errorf(format, args...))
}

func (w *inputWalk) list(f *contract.Fact) (*ast.Term, error) {
	var items []*ast.Term
	for w.dec.PeekKind() != ']' {
		item, err := w.value(f.Item)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	if _, err := w.dec.ReadToken(); err != nil {
		return nil, w.fail("%w", err)
	}
	return w.b.term(ast.NewArray(items...)), nil
}

func (w *inputWalk) object(f *contract.Fact) (*ast.Term, error) {
	pairs := make([]pair, 0, max(len(f.Fields), 8))
	for w.dec.PeekKind() != '}' {
		token, err := w.dec.ReadToken()
		if err != nil {
			return nil, w.fail("%w", err)
		}
		name, child := token.String(), f.Item
		if f.Kind == contract.Closed {
			if child = f.Field(name); child == nil {
				return nil, w.fail("this is no fact that is known here")
			}
		}
		term := w.reader.keys[name]
		if term == nil {
			term = w.b.str(name)
		}
		v, err := w.value(child)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, pair{term, v})
	}
	if _, err := w.dec.ReadToken(); err != nil {
		return nil, w.fail("%w", err)
	}
	return w.b.object(pairs), nil
}
