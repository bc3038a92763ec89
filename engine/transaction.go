package engine

import (
	"slices"
	"time"

	"github.com/postern-mail/postern/engine/contract"
	"github.com/postern-mail/postern/internal/message"
)

// Stage is a point in the SMTP dialogue at which policy is asked. The zero value is no stage and always defers.
type Stage = contract.Stage

// The stages, in the order of a transaction.
const (
	StageConnect = contract.StageConnect
	StageMail    = contract.StageMail
	StageRcpt    = contract.StageRcpt
	StageMessage = contract.StageMessage
)

// Transaction is what a front end knows at a stage, never a password. The types of its facts are generated from contract.Facts
// (facts_gen.go). A front end fills in the facts that it knows and leaves the others at their zero values. It names the facts that
// it cannot know in Unknown, so that a policy can tell them from facts that do not exist. The engine only reads a Transaction.
type Transaction struct {
	ID    string    // unique, printable ASCII, at most 64 bytes; the MTA's queue id if there is one
	Stage Stage     // which stage is decided
	Now   time.Time // time of the decision; input.now has it in nanoseconds since 1970 UTC

	Server    Server
	Client    Client     // without an address for a local submission or a unix socket
	TLS       *TLS       // nil: no TLS, unless "tls" is in Unknown
	Auth      *Auth      // nil: not authenticated, unless "auth" is in Unknown
	Envelope  *Envelope  // nil before MAIL
	Recipient *Recipient // stage rcpt: the one that is decided; it is not in Envelope.To yet
	Message   *Message   // stage message only

	Unknown []string // dotted paths of facts that the front end cannot know, sorted: "client.port", "tls"

	// Policy decides this transaction from MAIL to its end; nil: the engine's active policy.
	Policy *Policy
	// Failure is the verdict if policy cannot decide (time-out, error, wrong shape). The zero value is Defer.
	Failure Verdict
}

// smtputf8 reports whether the transaction may carry 8-bit header fields and addresses (RFC 6531 section 3.4).
func (t *Transaction) smtputf8() bool {
	if t.Envelope == nil {
		return false
	}
	_, ok := t.Envelope.FromParams["SMTPUTF8"]
	return ok
}

// Envelope is the SMTP envelope so far.
type Envelope struct {
	From message.Path
	// FromParams are the parameters of MAIL. AUTH= is the client's claim and proves nothing.
	FromParams message.Params
	To         []Recipient // accepted recipients in order; empty at stage mail
}

// Recipient is the recipient of one RCPT command.
type Recipient struct {
	message.Path
	Params message.Params
}

// Message is the message after DATA.
type Message struct {
	Header *message.Header
	// Size is that of the whole message as received, without the end of data, in octets; negative: not known yet.
	Size int64
	// MboxLine is the line of an mbox file that was removed before the header (message.MboxLine), without its CRLF; "" without one.
	MboxLine string
	// Body returns at most max octets of the body, for a policy that reads input.message.body; nil: the body is not known. It is
	// called at most once a decision.
	Body func(max int) ([]byte, error)
	// Generated are values that a policy may add. The front end makes them, so that a logged decision can be replayed.
	Generated Generated
}

// Apply returns a copy of the envelope with the envelope edits applied, and whether any of them changed it. Header edits are
// ignored. To add a recipient that is there or to remove one that is not has no effect. An added recipient has no parameters.
func (e *Envelope) Apply(edits message.Edits) (*Envelope, bool) {
	out := &Envelope{From: e.From, FromParams: e.FromParams, To: slices.Clone(e.To)}
	changed := false
	for i := range edits.Len() {
		edit := edits.At(i)
		index := func() int {
			key := edit.Path().Key()
			return slices.IndexFunc(out.To, func(r Recipient) bool { return r.Key() == key })
		}
		switch edit.Op() {
		case message.OpChangeSender:
			changed = changed || out.From != edit.Path()
			out.From = edit.Path()
		case message.OpRemoveRecipient:
			for index() >= 0 {
				i := index()
				out.To, changed = slices.Delete(out.To, i, i+1), true
			}
		case message.OpAddRecipient:
			if index() < 0 {
				out.To, changed = append(out.To, Recipient{Path: edit.Path()}), true
			}
		}
	}
	return out, changed
}
