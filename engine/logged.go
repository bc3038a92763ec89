package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
)

// Logged is the input of one decision as the decision log has it. Policy.DecideLogged decides on it. If the policy reads only
// facts that the log has, the result is the one that it would have been at that time. Policy.Lacks names the missing facts.
type Logged struct {
	Stage Stage
	Input *Input
	// UTF8 says that the transaction was SMTPUTF8, so that edits may have 8-bit values.
	UTF8 bool
	// Failure is the verdict if policy cannot decide. The zero value is Defer.
	Failure Verdict

	has     contract.Parts
	fields  *fieldSet // of message.header that are known although not all are
	counted *Input    // Input with envelope.recipient_count added; nil if Input has it or cannot have it
}

// NewLogged makes a Logged of an input and the parts that its log line names as built. If named is nil, the line names none, and
// only the parts that the input has are known. gone are JSON pointers, such as /input/envelope/from/address, to what was masked,
// erased or left out; the parts that they touch are not known.
func NewLogged(stage Stage, in *Input, named, gone []string) *Logged {
	l := &Logged{Stage: stage, Input: in, fields: namedFields(named)}
	paths := contract.PartPaths()
	for i, path := range paths {
		if named == nil && in.has(path) || slices.Contains(named, path) {
			l.has |= 1 << i
		}
	}
	// The list cannot be counted if recipients are left out of it. Pointers to single recipients were masked, which leaves their number.
	short := slices.ContainsFunc(gone, func(p string) bool { return strings.HasPrefix("/input/envelope/to/", p+"/") })
	if !short && l.has&contract.PartEnvelopeTo != 0 && l.has&contract.PartEnvelopeRecipientCount == 0 {
		l.countRecipients()
	}
	for _, pointer := range gone {
		if pointer != "/input" && !strings.HasPrefix(pointer, "/input/") {
			continue // it points into the result
		}
		path := pointerPath(strings.TrimPrefix(pointer, "/input"))
		lost := contract.PartsOf(paths, path)
		l.has &^= lost
		switch {
		case lost&contract.PartMessageHeader == 0:
		case len(path) > 2:
			l.fields = newFieldSet(l.fields.without(newFieldSet(path[2:3])))
		default:
			l.fields = newFieldSet(nil)
		}
	}
	return l
}

// countRecipients adds envelope.recipient_count to a copy of an input that has only the list, because it was logged by an older
// version or by a policy that did not read the count.
func (l *Logged) countRecipients() {
	if !l.Input.has("envelope.to") {
		return
	}
	root := l.Input.value.(ast.Object)
	envelope := root.Get(ast.InternedTerm("envelope")).Value.(ast.Object)
	list, ok := envelope.Get(ast.InternedTerm("to")).Value.(*ast.Array)
	if !ok {
		return
	}
	counted := with(root, "envelope", with(envelope, "recipient_count", ast.Number(strconv.Itoa(list.Len()))))
	l.counted = &Input{value: counted, octets: l.Input.octets, parts: l.Input.parts}
	l.has |= contract.PartEnvelopeRecipientCount
}

// with returns a copy of an object in which the value of name is v. The other values are shared, because nothing changes them.
func with(obj ast.Object, name string, v ast.Value) ast.Object {
	pairs := make([]pair, 0, obj.Len()+1)
	obj.Foreach(func(key, value *ast.Term) {
		if key.Value.Compare(ast.String(name)) != 0 {
			pairs = append(pairs, pair{key, value})
		}
	})
	return ast.NewObject(append(pairs, pair{ast.StringTerm(name), ast.NewTerm(v)})...)
}

// pointerPath returns the path of a JSON pointer (RFC 6901 sections 3 and 4).
func pointerPath(pointer string) []string {
	if pointer = strings.TrimPrefix(pointer, "/"); pointer == "" {
		return nil
	}
	path := strings.Split(pointer, "/")
	for i := range path {
		path[i] = strings.ReplaceAll(strings.ReplaceAll(path[i], "~1", "/"), "~0", "~")
	}
	return path
}

// has reports whether the input has a value at a dotted path.
func (in *Input) has(path string) bool {
	if in == nil || in.value == nil {
		return false
	}
	v := in.value
	for key := range strings.SplitSeq(path, ".") {
		obj, ok := v.(ast.Object)
		if !ok {
			return false
		}
		term := obj.Get(ast.StringTerm(key))
		if term == nil {
			return false
		}
		v = term.Value
	}
	return true
}

// Lacks returns the facts that the stage's rules read and the log does not have, as dotted paths in the order of the contract. If
// there are none, p can decide l.
func (p *Policy) Lacks(l *Logged) []string {
	st := p.stageOf(l.Stage)
	if st == nil {
		return nil
	}
	lacks, fields := st.reads&contract.StageParts(l.Stage)&^l.has, st.fields
	if lacks&contract.PartMessageHeader != 0 && fields != nil {
		if fields = newFieldSet(fields.without(l.fields)); len(fields.keys) == 0 {
			lacks &^= contract.PartMessageHeader
		}
	}
	return partNames(lacks, fields)
}

// DecideLogged decides l exactly as Engine.Decide would have, and records nothing. A stage that the bundle does not define is
// accepted.
func (p *Policy) DecideLogged(ctx context.Context, l *Logged) Decision {
	t := l.transaction()
	if l.Stage < StageConnect || l.Stage > StageMessage {
		return failure(t, p.revision, failf(kindStage, "no stage %d", l.Stage))
	}
	st := p.stages[l.Stage]
	if st == nil {
		return Decision{Verdict: Accept, Stage: l.Stage, Revision: p.revision}
	}
	if l.Input == nil || l.Input.value == nil {
		return failure(t, p.revision, failf(kindInput, "the log has no input"))
	}
	in := l.Input
	if l.counted != nil && st.reads&contract.PartEnvelopeRecipientCount != 0 {
		in = l.counted
	}
	if n := p.workers.abandoned.Load(); n >= maxAbandoned {
		return failure(t, p.revision, failf(kindBusy, "%d evaluations still run although their deadline has passed", n))
	}
	return p.decideInput(ctx, t, evaluation{stage: st, input: in.value, limit: p.timeout})
}

// transaction returns what a decision needs of the transaction besides the input.
func (l *Logged) transaction() *Transaction {
	t := &Transaction{Stage: l.Stage, Failure: l.Failure, Envelope: &Envelope{}}
	if l.UTF8 {
		t.Envelope.FromParams = map[string]string{"SMTPUTF8": ""}
	}
	return t
}

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

// NewInputReader makes an InputReader.
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

// Read makes an Input of JSON text: the same value that was logged, with every digit of its numbers. The text may have only facts of
// the contract, with their types, and each once. Errors name the fact and the offset of the octet in doc.
func (r *InputReader) Read(doc []byte) (*Input, error) {
	// The decoder refuses text that is not UTF-8, and objects in which a name occurs twice.
	w := inputWalk{reader: r, b: builder{k: r.k}, dec: jsontext.NewDecoder(bytes.NewBuffer(doc))}
	v, err := w.value(r.root)
	if err == nil {
		if _, more := w.dec.ReadToken(); more != io.EOF {
			err = errors.New("something follows the input")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w (octet %d of the input)", err, w.dec.InputOffset())
	}
	return &Input{value: v.Value, octets: len(doc)}, nil
}

// Stage returns the stage that input.stage names; the zero Stage if it names none.
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

// inputWalk reads one document by the contract, which limits its depth.
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
			return nil, w.fail("%.30s is not a whole number of 64 bits", n)
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

// fail returns an error that names the fact that was read last.
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
				return nil, w.fail("there is no such fact")
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
