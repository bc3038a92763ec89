package engine

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/postern-mail/postern/engine/contract"
)

// Logged is one question of the past as the decision log remembers it. A Policy that reads no other facts than the log has
// answers it as it would have answered then (Policy.DecideLogged); Policy.Lacks names the facts that are missing.
type Logged struct {
	Stage Stage
	Input *Input
	// UTF8: the transaction was SMTPUTF8, so that edits may have 8-bit values.
	UTF8 bool
	// Failure is the verdict where policy cannot decide; the zero value is Defer.
	Failure Verdict

	has     contract.Parts
	fields  *fieldSet // of message.header that are known one by one
	counted *Input    // Input and envelope.recipient_count; nil where Input has it, or cannot have it
}

// NewLogged holds an input against the parts that the log line names; nil: the line names none, and a part counts as
// known only where it is there to be seen. gone are JSON pointers ("/input/envelope/from/address") of what was masked or
// erased: the parts that they touch count as unknown.
func NewLogged(stage Stage, in *Input, named, gone []string) *Logged {
	l := &Logged{Stage: stage, Input: in, fields: namedFields(named)}
	paths := contract.PartPaths()
	for i, path := range paths {
		if named == nil && in.has(path) || slices.Contains(named, path) {
			l.has |= 1 << i
		}
	}
	if l.has&contract.PartEnvelopeTo != 0 && l.has&contract.PartEnvelopeRecipientCount == 0 {
		l.countRecipients()
	}
	for _, pointer := range gone {
		if pointer != "/input" && !strings.HasPrefix(pointer, "/input/") {
			continue // it is about the result
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

// countRecipients makes envelope.recipient_count for an input that has the list only: it was logged before there was the fact,
// or by a policy that did not read it. Input stays as it was logged.
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

// with is a copy of an object with one value exchanged or added. Values are shared: nobody changes them.
func with(obj ast.Object, name string, v ast.Value) ast.Object {
	pairs := make([]pair, 0, obj.Len()+1)
	obj.Foreach(func(key, value *ast.Term) {
		if key.Value.Compare(ast.String(name)) != 0 {
			pairs = append(pairs, pair{key, value})
		}
	})
	return ast.NewObject(append(pairs, pair{ast.StringTerm(name), ast.NewTerm(v)})...)
}

// pointerPath is the path of a JSON pointer (RFC 6901 §3, §4) without its leading slash.
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

// has says whether the input holds something at a dotted path.
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

// Parts are the parts of the input that were built, as dotted paths; what is not among them says nothing by its absence.
func (in *Input) Parts() []string {
	if in == nil {
		return nil
	}
	return in.parts
}

// Lacks are the facts that the stage's rules read and the log line does not have, as dotted paths in the order of the
// contract; none: the question can be asked again.
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

// Asks says whether the bundle defines the stage.
func (p *Policy) Asks(s Stage) bool { return p.stageOf(s) != nil }

// stageOf is the stage, nil where there is none.
func (p *Policy) stageOf(s Stage) *stage {
	if s < StageConnect || s > StageMessage {
		return nil
	}
	return p.stages[s]
}

// DecideLogged decides a question of the past exactly as Engine.Decide would, and records nothing. A stage that the bundle
// does not define is accepted.
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
	return p.settle(ctx, t, st, in)
}

// transaction is the little of one that deciding needs beside the input.
func (l *Logged) transaction() *Transaction {
	t := &Transaction{Stage: l.Stage, Failure: l.Failure, Envelope: &Envelope{}}
	if l.UTF8 {
		t.Envelope.FromParams = map[string]string{"SMTPUTF8": ""}
	}
	return t
}
