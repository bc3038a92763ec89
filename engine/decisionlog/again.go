package decisionlog

import "github.com/postern-mail/postern/engine"

// appendReplay appends what a replay needs beside the input: whether the transaction was SMTPUTF8, the failure verdict where it is
// not Defer, and which parts the input has. The absence of a fact means something only for parts that the input has.
func (e *Entry) appendReplay(dst []byte) []byte {
	if e.utf8 {
		dst = append(dst, `,"smtputf8":true`...)
	}
	if e.failure != engine.Defer {
		dst = appendField(dst, "on_error", e.failure.String())
	}
	in, ok := e.input.(interface{ Parts() []string })
	if !ok || in.Parts() == nil {
		return dst
	}
	dst = append(dst, `,"parts":[`...)
	for i, part := range in.Parts() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = engine.AppendString(dst, part)
	}
	return append(dst, ']')
}
