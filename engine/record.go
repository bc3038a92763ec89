package engine

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
)

// Recorder receives every decision. Record must not keep Transaction or Decision after it returns; Input may
// be kept, and so may the slices of Decision, which nobody writes to. An error makes the decision the failure verdict.
type Recorder interface {
	Record(ctx context.Context, r Record) error
}

// Record is one decision with the facts it was taken on.
type Record struct {
	Transaction *Transaction
	Decision    *Decision
	// Input is the input document that was evaluated, as JSON made on demand; the value it is made of is immutable and may be
	// encoded later on another goroutine. It is never nil; where nothing was evaluated it encodes as null.
	Input interface{ AppendJSON(dst []byte) []byte }
}

// Input is the input document of one decision: immutable, and JSON only when somebody asks.
type Input struct {
	value  ast.Value
	octets int
	parts  []string // that were built
}

// Octets of all strings in the document: about what it weighs in memory.
func (in *Input) Octets() int {
	if in == nil {
		return 0
	}
	return in.octets
}

// Value is the document as OPA holds it, for who encodes it otherwise (masked, say); nil where nothing was evaluated. It is
// only to be read.
func (in *Input) Value() ast.Value {
	if in == nil {
		return nil
	}
	return in.value
}

// AppendJSON appends the document, keys in order.
func (in *Input) AppendJSON(dst []byte) []byte {
	if in == nil || in.value == nil {
		return append(dst, "null"...)
	}
	return appendValue(dst, in.value)
}

// AppendValue appends a ground value as JSON, object keys in order.
func AppendValue(dst []byte, v ast.Value) []byte { return appendValue(dst, v) }

// record of a decision.
func record(t *Transaction, d *Decision, in *Input) Record {
	return Record{Transaction: t, Decision: d, Input: in}
}

// input builds the input of t, of message.header only fields (nil: all). A panic over a hostile message is an error like any
// other.
func (p *Policy) input(t *Transaction, read contract.Parts, fields *fieldSet) (in *Input, fail *EvalError) {
	defer func() {
		if r := recover(); r != nil {
			in, fail = nil, failf(kindPanic, "build input: %v\n%s", r, debug.Stack())
		}
	}()
	b := builder{k: p.keys, fields: fields, block: 32}
	if t.Stage == StageMessage { // the facts of the envelope and of the originators, three terms a field
		b.block = 64
		if t.Message != nil && t.Message.Header != nil {
			b.block += 3 * t.Message.Header.Len()
		}
	}
	v, err := b.build(t, read)
	if err != nil {
		return nil, &EvalError{Kind: kindInput, Err: fmt.Errorf("transaction %s: %w", t.ID, err)}
	}
	return &Input{value: v, octets: b.octets}, nil
}
