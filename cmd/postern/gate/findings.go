package gate

import (
	"cmp"
	"errors"
	"strings"

	"github.com/postern-mail/postern/bundles"
	"github.com/postern-mail/postern/engine/contract"
)

// Findings returns the findings in an error of Load, Compile or a Gate, one for each place.
func Findings(err error) []contract.Finding {
	var c *contract.CompileError
	if errors.As(err, &c) {
		return c.Findings
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var out []contract.Finding
		for _, e := range many.Unwrap() {
			out = append(out, Findings(e)...)
		}
		return out
	}
	f := contract.Finding{Severity: contract.Fault, Code: "load", Message: err.Error()}
	var r *bundles.Refusal
	if errors.As(err, &r) {
		f.Code = string(r.Stage)
	}
	var l *bundles.LoadError
	if !errors.As(err, &l) {
		return []contract.Finding{f}
	}
	var out []contract.Finding
	for _, l := range append([]*bundles.LoadError{l}, l.More...) {
		f.File, f.Line, f.Column, f.Text, f.Message, f.Hint = cmp.Or(l.File, l.Source), l.Line, l.Column, l.Text, l.Message, l.Hint
		f.Code = "load"
		// OPA's parser begins its messages with the code that its compiler puts beside them.
		if code, message, ok := strings.Cut(f.Message, ": "); ok && strings.HasPrefix(code, "rego_") {
			f.Code, f.Message = code, message
		}
		out = append(out, f)
	}
	return out
}
