package engine

import (
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

// Transaction is what is known at a stage: facts for policy to read, never a password. A front end fills what it
// knows and leaves the rest nil; what it cannot know it names in Unknown, by its dotted path in input, so that a
// policy can tell "no" from "nobody said". The engine only reads it.
type Transaction struct {
	ID    string    // transaction id: unique, printable ASCII, at most 64 octets; the queue id where the MTA gives one
	Stage Stage     // which package is asked
	Now   time.Time // the time of the decision; input.now as nanoseconds since 1970 UTC

	Server    Server
	Client    Client
	TLS       *TLS       // nil: in the clear, unless "tls" is in Unknown
	Auth      *Auth      // nil: not authenticated, unless "auth" is in Unknown
	Envelope  *Envelope  // nil before MAIL
	Recipient *Recipient // stage rcpt: the one that is asked about; it is not yet in Envelope.To
	Message   *Message   // stage message only

	Unknown []string // dotted paths of facts that this front end cannot know, sorted: "tls", "client.port"

	// Policy is the snapshot this transaction is pinned to, from MAIL to its end; nil: the engine's current one.
	Policy *Policy
	// Failure is the verdict when policy cannot decide (time-out, error, wrong shape). The zero value is Defer.
	Failure Verdict
}

// Envelope is the SMTP envelope so far.
type Envelope struct {
	From message.Path
	// FromParams are MAIL's parameters; AUTH= among them is the client's claim and proves nothing.
	FromParams message.Params
	To         []Recipient // accepted recipients in order; empty at stage mail
}

// Recipient is one RCPT TO.
type Recipient struct {
	message.Path
	Params message.Params
}

// Message is what followed DATA.
type Message struct {
	Header *message.Header
	// Size is the whole message in octets as it was received, end-of-data excluded; negative: not known yet.
	Size int64
	// Body gives the body for a policy that reads input.message.body; nil otherwise. It is called at most once a
	// decision and returns at most max octets.
	Body func(max int) ([]byte, error)
	// Generated values that a policy may add, made by the front end so that a logged decision can be replayed.
	Generated Generated
}
