package engine

import "github.com/postern-mail/postern/internal/message"

// failure is the failure verdict of t. Only Defer, Reject and Accept can be one; anything else defers.
func failure(t *Transaction, revision string, err *EvalError) Decision {
	d := Decision{
		Verdict:  t.Failure,
		Stage:    t.Stage,
		Revision: revision,
		Err:      err,
		Reasons:  []Reason{{Set: "error", Rule: "error." + err.Kind}},
	}
	switch d.Verdict {
	case Accept:
	case Reject:
		d.Reply = message.MustReply(554, "5.3.0", "Transaction failed")
	default:
		d.Verdict = Defer
		d.Reply = message.MustReply(451, "4.3.0", "Temporary failure, try again later")
	}
	return d
}
