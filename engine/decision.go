package engine

import (
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// Verdict is the outcome of a stage. The zero value is Defer, so that code which forgets to decide defers.
type Verdict uint8

// The verdicts. If several are asked for at one stage, the precedence is Reject, Defer, Quarantine, Discard, Accept.
const (
	Defer Verdict = iota
	Accept
	Reject
	Quarantine // stage message: accept and hold
	Discard    // stage message: accept and drop
)

// String returns the verdict as in logs, metrics and the output of `postern eval`.
func (v Verdict) String() string {
	switch v {
	case Accept:
		return "accept"
	case Reject:
		return "reject"
	case Quarantine:
		return "quarantine"
	case Discard:
		return "discard"
	}
	return "defer"
}

// Decision is the answer of policy at one stage. The zero value defers.
type Decision struct {
	Verdict Verdict
	// Reply goes to the client if Verdict is Reject or Defer; otherwise it is the zero value.
	Reply message.Reply
	// Edits are normalised and without contradictions (message.Plan). There are none unless Verdict is Accept or Quarantine.
	Edits message.Edits
	// Reasons are all elements that rules added to the decision sets, in the order of precedence and then sorted.
	Reasons  []Reason
	Notes    []any         // JSON values
	Stage    Stage         // the stage that was decided
	Revision string        // of the Policy that decided; "" if none did
	Err      error         // an *EvalError if the decision is the failure verdict; nil otherwise
	Latency  time.Duration // of building the input, evaluating and decoding
	Wait     time.Duration // for its turn, before that
}

// busy reports whether the decision is the failure verdict because its turn did not come in time, so that no policy was asked.
func (d *Decision) busy() bool {
	var e *EvalError
	return errors.As(d.Err, &e) && e.Kind == kindBusy
}

// Reason is one element of a decision set.
type Reason struct {
	Set    string // "reject", "defer", "allow", ...; "error" for the failure verdict, "default" if no rule allowed
	Rule   string // the element's rule key, or the element itself if it is a string; printable
	Code   int    // reply code; 0 if the element has none
	Status string // enhanced status; "" if the element has none
	Text   string // message for the client; printable
}

// Kinds of errors, for the reasons "error.<kind>", the decision log and metrics.
const (
	kindNoPolicy = "no-policy" // no policy is active
	kindStage    = "stage"     // the transaction has no stage
	kindInput    = "input"     // the body could not be read
	kindTimeout  = "timeout"   // the evaluation took too long, or the caller gave up
	kindBusy     = "busy"      // too many decisions wait, or the turn of this one did not come in time; no policy was asked
	kindPanic    = "panic"     // the evaluator panicked
	kindConflict = "conflict"  // complete rules have different values
	kindBuiltin  = "builtin"   // a builtin failed
	kindEval     = "eval"      // any other error of the evaluator
	kindAnswer   = "answer"    // the answer has the wrong shape
	kindEdits    = "edits"     // the edits contradict each other
	kindRecord   = "record"    // the recorder failed
)

// EvalError says why a decision is the failure verdict. The message is for logs, never for clients.
type EvalError struct {
	Kind string // stable: "timeout", "builtin", "conflict", "answer", ...
	Err  error
}

// Error returns the kind and the cause.
func (e *EvalError) Error() string { return e.Kind + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *EvalError) Unwrap() error { return e.Err }

// failf makes an EvalError.
func failf(kind, format string, args ...any) *EvalError {
	return &EvalError{Kind: kind, Err: fmt.Errorf(format, args...)}
}

// failure returns the failure verdict of t. Only Defer, Reject and Accept can be one; any other verdict defers. A decision for which
// the machine was too busy is never a Reject, because the same mail can pass a moment later.
func failure(t *Transaction, revision string, err *EvalError) Decision {
	d := Decision{
		Verdict:  t.Failure,
		Stage:    t.Stage,
		Revision: revision,
		Err:      err,
		Reasons:  []Reason{{Set: "error", Rule: "error." + err.Kind}},
	}
	switch {
	case d.Verdict == Accept:
	case err.Kind == kindBusy:
		d.Verdict = Defer
		d.Reply = message.MustReply(451, "4.3.2", "The system is busy, try again later")
	case d.Verdict == Reject:
		d.Reply = message.MustReply(554, "5.3.0", "Transaction failed")
	default:
		d.Verdict = Defer
		d.Reply = message.MustReply(451, "4.3.0", "Temporary failure, try again later")
	}
	return d
}
