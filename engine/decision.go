package engine

import (
	"time"

	"github.com/postern-mail/postern/internal/message"
)

// Verdict is what becomes of a transaction. The zero value is Defer: whatever forgets to decide, defers.
type Verdict uint8

// The verdicts. Precedence among what fired at one stage is Reject, Defer, Quarantine, Discard, Accept.
const (
	Defer Verdict = iota
	Accept
	Reject
	Quarantine // stage message: accept and hold
	Discard    // stage message: accept and drop
)

// Decision is the answer of policy at one stage. The zero value defers with the default failure reply.
type Decision struct {
	Verdict Verdict
	// Reply is what the client is told when Verdict is Reject or Defer; otherwise its zero value.
	Reply message.Reply
	// Edits are normalised and free of contradictions (message.Plan); empty unless Verdict is Accept or Quarantine.
	Edits message.Edits
	// Reasons are all elements that fired, in the order of precedence and then sorted.
	Reasons  []Reason
	Notes    []any         // JSON values
	Stage    Stage         // the stage that was asked
	Revision string        // of the snapshot that decided; "" where none did
	Err      error         // why the failure verdict was taken; nil otherwise
	Latency  time.Duration // evaluation, input building included
}

// Reason is one element of a decision set.
type Reason struct {
	Set    string // "reject", "defer", "allow", ...; "error" for the failure verdict, "default" where nothing allowed
	Rule   string // name: the rule key of an object element, or the string element itself, cleaned
	Code   int    // reply code, 0 where the element gave none
	Status string // enhanced status, "" where the element gave none
	Text   string // message for the client, cleaned
}

// String is the verdict as logs, metrics and `postern eval` spell it.
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
