package engine

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/postern-mail/postern/engine/contract"
)

// decide decides t: it builds the input, evaluates and decodes. in is what was built. A stage that the bundle does not define is
// accepted. s is nil outside an Engine.
func (p *Policy) decide(ctx context.Context, t *Transaction, s *ticket) (d Decision, in *Input) {
	if t.Stage < StageConnect || t.Stage > StageMessage {
		return failure(t, p.revision, failf(kindStage, "no stage %d", t.Stage)), nil
	}
	st := p.stages[t.Stage]
	if st == nil {
		if p.shadow != nil && p.shadow.stages[t.Stage] != nil {
			in, _ = p.input(t, p.shadowParts[t.Stage], p.bothFields[t.Stage])
		}
		return Decision{Verdict: Accept, Stage: t.Stage, Revision: p.revision}, in
	}
	build, fields := st.build, st.buildFields
	if more := p.shadowParts[t.Stage]; more != 0 {
		build, fields = build|more, p.bothFields[t.Stage]
	}
	in, fail := p.input(t, build, fields)
	if fail != nil {
		return failure(t, p.revision, fail), in
	}
	in.parts = st.parts
	return p.decideInput(ctx, t, evaluation{stage: st, input: in.value, limit: p.timeout, ticket: s}), in
}

// input builds the parts of the input of t that are read, and of message.header only fields (nil: all). A panic is returned as an
// error, because messages are hostile.
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

// decideInput evaluates an input and decodes the answer. Of t it needs only what contract.Facts does not have.
func (p *Policy) decideInput(ctx context.Context, t *Transaction, e evaluation) Decision {
	var d Decision
	out, fail := p.evaluate(ctx, e)
	if fail == nil {
		d, fail = decode(t, e.stage, out)
	}
	if fail != nil {
		return failure(t, p.revision, fail)
	}
	d.Stage, d.Revision = t.Stage, p.revision
	return d
}
